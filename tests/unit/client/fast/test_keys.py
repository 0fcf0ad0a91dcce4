"""The keys that leave a session, whatever the pieces in which they are typed."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, strategies

from tank_agent.api import frames
from tank_agent.cli import plain_exec as exec_
from tank_agent.cli.parser import build
from tank_agent.client.fast import http as light
from tank_agent.client.fast import keys
from tank_agent.client.fast import session as session_module
from tank_agent.client.fast.results import Exited
from tank_agent.client.fast.session import Session
from tank_agent.client.fast.streams import Streams
from tests.support.fake_service import until

ROOT = str(Path(__file__).parents[4])


@pytest.mark.parametrize(
    ("text", "sequence"),
    [
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-P,Ctrl-Q", b"\x10\x11"),
        ("ctrl-a,d", b"\x01d"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x00\x1b\x1c\x1d\x1e\x1f"),
        ("X", b"X"),
        ("none", b""),
        ("", b""),
    ],
)
def test_names_of_keys(text: str, sequence: bytes) -> None:
    assert keys.parse(text) == sequence


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pq", "ctrl-1", "ab", "ctrl-p,", ",", "é", "alt-x", "\x10"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a key"):
        keys.parse(text)


def test_the_default_is_dockers() -> None:
    assert keys.parse(keys.DEFAULT) == b"\x10\x11"


def test_nothing_is_held_for_longer_than_promised() -> None:
    assert keys.HOLD <= 0.3


def test_a_lone_key_of_the_sequence_is_passed_on_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []

    class Poll:
        def __init__(self) -> None:
            self._poll = poll()
            self.register = self._poll.register

        def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
            if session._keys.held:
                waits.append(timeout)
            return self._poll.poll(timeout)

    poll = select.poll
    monkeypatch.setattr(session_module, "select", SimpleNamespace(**{**vars(select), "poll": Poll}))
    mine, theirs = socket.socketpair()
    master, slave = os.openpty()
    streams = Streams(slave, slave, slave)
    answered = light.Answered(101, {}, cast("Any", theirs), b"")
    session = Session("/x.sock", answered, streams, b"\x10\x11")
    with mine, ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, raw=True, interrupts=False)
        until(lambda: not termios.tcgetattr(slave)[3] & termios.ICANON)
        typed = time.monotonic()
        os.write(master, b"\x10")
        mine.settimeout(10)
        assert mine.recv(100) == frames.frame(frames.STDIN, b"\x10")
        # Not at once, so that there is time for the second key.
        assert time.monotonic() - typed > 0.2
        # Nor later than promised, as far as it depends on us and not on the machine.
        assert waits and all(wait is not None and wait <= keys.HOLD * 1000 + 1 for wait in waits)
        mine.sendall(frames.frame(frames.EXIT, frames.exit_payload(frames.EXITED, 5)))
        assert running.result(10) == Exited(5)
    for descriptor in (master, slave):
        os.close(descriptor)


def test_a_beginning_is_held_and_given_up() -> None:
    watched = keys.DetachKeys(b"\x10\x11")
    assert watched.feed(b"a\x10") == (b"a", False)
    assert watched.held == b"\x10"
    assert watched.give_up() == b"\x10"
    assert watched.held == b""
    assert watched.feed(b"\x11") == (b"\x11", False)


def test_the_sequence_is_found_in_pieces_and_after_false_starts() -> None:
    watched = keys.DetachKeys(b"aab")
    assert watched.feed(b"a") == (b"", False)
    assert watched.feed(b"a") == (b"", False)
    assert watched.feed(b"a") == (b"a", False)
    assert watched.feed(b"b") == (b"", True)


def test_what_stands_before_the_sequence_is_passed_on() -> None:
    assert keys.DetachKeys(b"\x10\x11").feed(b"exit\r\x10\x11ignored") == (b"exit\r", True)


@given(
    sequence=strategies.binary(min_size=1, max_size=4).map(lambda data: bytes(byte % 3 for byte in data)),
    pieces=strategies.lists(strategies.binary(max_size=6).map(lambda data: bytes(byte % 3 for byte in data))),
)
def test_nothing_is_lost_nor_made_up(sequence: bytes, pieces: list[bytes]) -> None:
    watched = keys.DetachKeys(sequence)
    passed = b""
    typed = b""
    for piece in pieces:
        typed += piece
        part, found = watched.feed(piece)
        passed += part
        assert found == (sequence in typed)
        if found:
            assert passed == typed[: typed.index(sequence)]
            return
        assert len(watched.held) < len(sequence)
    assert passed + watched.give_up() == typed


@given(strategies.lists(strategies.binary()))
def test_without_a_sequence_all_is_passed_on_at_once(pieces: list[bytes]) -> None:
    watched = keys.DetachKeys(b"")
    assert [watched.feed(piece) for piece in pieces] == [(piece, False) for piece in pieces]


# The plain command line of exec, which is read without argparse


@pytest.mark.parametrize(
    "words",
    [
        ["web", "--", "ls"],
        ["web/app", "-T", "--", "ls", "-l", "--", "x"],
        ["--no-tty", "web", "--cwd", "/x", "--env", "A=1", "--env", "B=", "--", "sh", "-c", "echo --"],
        ["web", "--socket", "/x.sock", "--debug", "--detach-keys", "none", "--", "ls"],
        ["web", "--"],
        ["web"],
        ["web", "ls", "-l", "--", "x"],
        ["web", "ls", "--help"],
        ["web", "--", "-x"],
        ["web", "--", "--", "x"],
        ["web", "two", "--", "ls"],
        ["-it", "web", "sh"],
        ["web", "-it", "sh", "-c", "echo -i"],
        ["-ti", "web/app", "--", "sh"],
        ["-i", "web", "cat"],
        ["-iT", "web", "cat"],
        ["-T", "-t", "web", "cat"],
        ["--interactive", "--tty", "web", "sh"],
        ["-w", "/x", "-e", "A=1", "-c", "app", "web", "env"],
        ["web", "--cwd", "/x", "ls"],
        ["web", "-"],
    ],
)
def test_a_plain_exec_is_read_as_argparse_reads_it(words: list[str]) -> None:
    found = exec_.read_plain(words)
    assert found is not None
    wanted = vars(build(["exec"]).parse_args(["exec", *words]))
    assert vars(found) == wanted


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--", "web", "ls"],
        ["-ix", "web", "ls"],
        ["web", "-itx", "ls"],
        ["--wait", "3s", "web", "ls"],
        ["web", "--help", "--", "ls"],
        ["web", "--unknown", "--", "ls"],
        ["web", "--cwd", "--", "ls"],
        ["web", "--cwd=/x", "--", "ls"],
        ["web", "--env", "novalue", "--", "ls"],
        ["web", "--env", "=x", "--", "ls"],
        ["web", "--detach-keys", "ctrl-", "--", "ls"],
    ],
)
def test_what_is_not_plain_is_left_to_argparse(words: list[str]) -> None:
    assert exec_.read_plain(words) is None


def test_exec_starts_without_heavy_imports() -> None:
    heavy = ["argparse", "json", "typing", "msgspec", "http.client", "threading", "subprocess"]
    # Until the agent was asked; then there is time, while it starts the command.
    later = [
        "socket",
        "signal",
        "enum",
        "re",
        "contextlib",
        "collections",
        "tank_agent.client.fast.session",
        "tank_agent.client.fast.ssh",
    ]
    script = (
        "import sys, tank_agent.client.fast.http as light\n"
        "def loaded(*names):\n"
        "    return [name for name in names if name in sys.modules]\n"
        "class Asked:\n"
        "    def comes(self, seconds):\n"
        "        return True\n"
        "    def answer(self, expected):\n"
        f"        print(loaded(*{heavy}), 'tank_agent.client.fast.session' in sys.modules)\n"
        "        raise SystemExit(0)\n"
        "def ask(*arguments, **options):\n"
        f"    print(loaded(*{heavy + later}))\n"
        "    return Asked()\n"
        "light.ask = ask\n"
        "from tank_agent.cli.main import main\n"
        "main(['exec', 'web', '--', 'true'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {ROOT!r})\n{script}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n[] True\n", "")
