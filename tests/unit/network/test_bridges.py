"""Bridges on a machine whose kernel has none."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2 import NetlinkError

from tank_agent.errors import Stalled
from tank_agent.network import bridges
from tank_agent.network.wanted import LINK_GROUP


class WithoutBridges:
    """Stands for the kernel's answer to whoever makes a bridge."""

    def link(self, *_: object, **__: object) -> None:
        raise NetlinkError(errno.EOPNOTSUPP, "Operation not supported")


@contextlib.contextmanager
def route_socket() -> Iterator[Any]:
    yield WithoutBridges()


def test_it_says_what_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridges, "route_socket", route_socket)
    with pytest.raises(Stalled) as error:
        bridges._make("tank-default", None, LINK_GROUP)
    assert error.value.message == "this kernel has no bridges"
    assert "modprobe bridge" in (error.value.hint or "")
