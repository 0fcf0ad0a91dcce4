"""A terminal that cannot be drained now is attached to later: the kernel may be short of what that takes."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from tank_agent.runtime.container.conmon import ConmonControl
from tank_agent.runtime.session import attach
from tank_agent.runtime.session.attach import Consoles
from tests.support.agent import wait_for


class _Short:
    """An epoll that takes no more descriptors at first, as with max_user_watches of epoll(7)."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.full = True

    def register(self, descriptor: int, events: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._real.register(descriptor, events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_a_terminal_that_the_kernel_does_not_let_us_drain_is_attached_to_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far: list[socket.socket] = []

    def connect(_: Path) -> socket.socket:
        near, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        far.append(other)
        return near

    monkeypatch.setattr(attach, "_connect", connect)
    consoles = Consoles(cast(ConmonControl, None))
    short = _Short(consoles._epoll)
    monkeypatch.setattr(consoles, "_epoll", short)
    try:
        assert not consoles.open(tmp_path)
        assert far[0].recv(1) == b""
        assert consoles.view(tmp_path) is None
        short.full = False
        assert consoles.open(tmp_path)
        viewer = consoles.view(tmp_path)
        assert viewer is not None
        far[1].send(b"\x02hello")
        shown: list[bytes] = []
        wait_for(lambda: shown.append(viewer.take()) or b"hello" in b"".join(shown), "it is drained")
        viewer.close()
    finally:
        consoles.stop()
        for other in far:
            other.close()
