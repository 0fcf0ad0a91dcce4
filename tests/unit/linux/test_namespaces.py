"""Sockets in other network namespaces, made by a thread that is back in its own at once."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tank_agent.linux import namespaces
from tank_agent.linux.namespaces import (
    SocketMaker,
    StrandedThread,
    create_network_namespace,
    in_thread,
    network_namespace_inode,
    unpin,
)

pytestmark = pytest.mark.machine


@pytest.fixture
def pinned(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "netns"
    create_network_namespace(path)
    yield path
    unpin(path)


def own() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def listeners(port: int) -> list[str]:
    """Return the listening sockets of the thread's namespace with a port."""
    lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[1].endswith(f":{port:04X}")]


def test_a_socket_is_in_the_namespace_and_the_thread_is_not(pinned: Path) -> None:
    def check() -> None:
        maker, before = SocketMaker(), own()
        with maker.make(socket.AF_INET, pinned) as made, maker.make(socket.AF_INET, None) as here:
            assert own() == before != network_namespace_inode(pinned)
            assert not made.getblocking()
            assert not here.getblocking()
            made.bind(("127.0.0.1", 4711))
            made.listen()
            assert listeners(4711) == []
            assert len(namespaces.in_network_namespace(pinned, lambda: listeners(4711))) == 1
        maker.close()

    in_thread(check)


def test_a_namespace_that_is_not_there_is_an_error_and_the_thread_stays(tmp_path: Path) -> None:
    def check() -> None:
        maker, before = SocketMaker(), own()
        (tmp_path / "file").touch()
        (tmp_path / "link").symlink_to("/proc/self/ns/net")
        os.mkfifo(tmp_path / "fifo")
        for name in ("none", "file", "link", "fifo"):
            with pytest.raises(OSError):
                maker.make(socket.AF_INET, tmp_path / name)
            assert own() == before
        maker.close()

    in_thread(check)


def test_a_socket_that_cannot_be_made_leaves_the_thread_at_home(pinned: Path) -> None:
    def check() -> None:
        maker, before = SocketMaker(), own()
        with pytest.raises(OSError):
            maker.make(socket.AddressFamily.AF_BLUETOOTH, pinned)
        assert own() == before
        maker.close()

    in_thread(check)


def test_a_thread_that_cannot_go_back_is_told_so(pinned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = namespaces.call, [2]

    def check() -> None:
        maker, before = SocketMaker(), own()

        def call(name: str, *args: Any, **options: Any) -> int:
            if name == "setns" and args[0] == maker._own and failures[0] > 0:
                failures[0] -= 1
                raise OSError(errno.ENOMEM, "no memory")
            return real(name, *args, **options)

        monkeypatch.setattr(namespaces, "call", call)
        maker.make(socket.AF_INET, pinned).close()
        assert own() == before
        failures[0] = 100
        with pytest.raises(StrandedThread):
            maker.make(socket.AF_INET, pinned)
        maker.close()

    in_thread(check)
