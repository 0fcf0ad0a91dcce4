"""The agent's side of a session, with a caller at the other end of a socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tank_agent.api import frames, relay
from tank_agent.api.request import RawConnection
from tank_agent.api.wire import decode_error
from tank_agent.errors import NotATty
from tests.support.fake_service import until


class FakeViewer:
    """A terminal that has printed something and is gone."""

    def __init__(self, printed: bytes) -> None:
        self._printed = printed
        self.gone = True
        self.ready = os.eventfd(1, os.EFD_NONBLOCK)
        self.input = os.open(os.devnull, os.O_WRONLY)

    def take(self) -> bytes:
        printed, self._printed = self._printed, b""
        return printed

    def write(self, data: bytes) -> int:
        return len(data)

    def close(self) -> None:
        os.close(self.ready)
        os.close(self.input)


@contextmanager
def attached(viewer: FakeViewer, *, code: int) -> Iterator[tuple[socket.socket, threading.Thread]]:
    """Yield the caller's end of a connection, and the agent's thread."""
    mine, theirs = socket.socketpair()
    mine.settimeout(10)
    raw = RawConnection(socket=theirs, received=b"", stopping=threading.Event())
    run = cast("Any", SimpleNamespace(exit=SimpleNamespace(code=code, signal=None)))

    def serve() -> None:
        with theirs:
            relay.serve_attach(raw, run, lambda: cast("Any", viewer), confirms=False)

    serving = threading.Thread(target=serve)
    with mine:
        serving.start()
        yield mine, serving
    serving.join(60)
    assert not serving.is_alive()


def read_frames(caller: socket.socket) -> list[tuple[int, bytes]]:
    decoder, found = frames.Decoder(), []
    while data := caller.recv(65536):
        found += decoder.feed(data)
    return found


def test_who_has_stopped_reading_an_attachment_gets_its_exit_code_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "_LAST_WORD", 0.1)
    with attached(FakeViewer(b"x" * 1_000_000), code=3) as (caller, serving):
        # Far longer than the last word may take.
        serving.join(0.5)
        received = read_frames(caller)
    assert b"".join(payload for kind, payload in received if kind == frames.STDOUT) == b"x" * 1_000_000
    assert received[-1] == (frames.EXIT, frames.exit_payload(frames.EXITED, 3))


def test_who_leaves_while_an_attachment_ends_is_forgotten() -> None:
    with attached(FakeViewer(b"x" * 1_000_000), code=3) as (caller, serving):
        caller.close()
        until(lambda: not serving.is_alive())


def test_an_error_is_the_last_frame() -> None:
    mine, theirs = socket.socketpair()
    raw = RawConnection(socket=theirs, received=b"", stopping=threading.Event())

    def refuse() -> Any:
        raise NotATty("it has no terminal")

    with mine:
        with theirs:
            relay.serve_attach(raw, cast("Any", None), refuse, confirms=False)
        ((kind, payload),) = read_frames(mine)
    assert kind == frames.ERROR
    assert str(decode_error(500, payload)) == "it has no terminal"


class FakeCopy:
    """A copy that has ended with more output than anybody reads at once."""

    terminal: int | None = None
    stdin: int | None = None
    stderr: int | None = None

    def __init__(self, patience: float | None) -> None:
        self.patience = patience
        self.waiter = os.eventfd(1, os.EFD_NONBLOCK)
        self.stdout: int | None = os.open("/dev/zero", os.O_RDONLY)
        self.left = self.closed = False

    def begun(self) -> bool:
        return True

    def ended(self) -> bool:
        return True

    def read(self, descriptor: int, size: int) -> bytes:
        return os.read(descriptor, size)

    def close_stream(self, descriptor: int | None) -> None:
        pass

    def leave(self) -> None:
        self.left = True

    def hang_up(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@contextmanager
def copied(copy: FakeCopy) -> Iterator[socket.socket]:
    """Yield the caller's end of a connection for a copy."""
    mine, theirs = socket.socketpair()
    mine.settimeout(10)
    raw = RawConnection(socket=theirs, received=b"", stopping=threading.Event())
    serving = threading.Thread(target=relay.serve_exec, args=(raw, lambda: copy), kwargs={"confirms": False})
    with mine:
        serving.start()
        with theirs:
            yield mine
            serving.join(60)
            assert not serving.is_alive()


def test_a_copy_that_has_ended_does_not_wait_for_ever_for_its_caller() -> None:
    copy = FakeCopy(patience=0.2)
    with copied(copy):
        until(lambda: copy.closed)


def test_a_copy_is_told_that_its_caller_leaves() -> None:
    copy = FakeCopy(patience=60.0)
    with copied(copy) as caller:
        caller.sendall(frames.frame(frames.DETACH))
        until(lambda: copy.closed)
    assert copy.left
