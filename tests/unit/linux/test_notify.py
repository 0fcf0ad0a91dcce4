"""What systemd gets to know, received by a socket as systemd has one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.linux.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver


def received(manager: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))


def notifier(manager: socket.socket, **environ: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": str(manager.getsockname()), **environ})


def test_ready_comes_with_a_status(manager: socket.socket) -> None:
    notifier(manager).ready("3 pods")
    assert received(manager) == {"READY": "1", "STATUS": "3 pods"}


def test_a_status_cannot_smuggle_in_other_assignments(manager: socket.socket) -> None:
    notifier(manager).status("bad\nMAINPID=1\n" + "x" * 1000)
    assert received(manager).keys() == {"STATUS"}


def test_a_reload_carries_the_time_that_systemd_compares(manager: socket.socket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier(manager).reloading()
    message = received(manager)
    assert message["RELOADING"] == "1"
    assert before <= int(message["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_watchdog_and_stopping(manager: socket.socket) -> None:
    sender = notifier(manager, WATCHDOG_USEC="60000000", WATCHDOG_PID=str(os.getpid()))
    assert sender.watchdog == 30.0
    sender.alive()
    assert received(manager) == {"WATCHDOG": "1"}
    sender.stopping()
    assert received(manager) == {"STOPPING": "1"}


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}])
def test_no_watchdog_for_us(manager: socket.socket, environ: dict[str, str]) -> None:
    assert notifier(manager, **environ).watchdog is None


def test_an_abstract_address() -> None:
    name = f"tank-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert received(receiver) == {"WATCHDOG": "1"}


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket"])
def test_without_systemd_nothing_happens(address: str) -> None:
    Notifier({"NOTIFY_SOCKET": address}).ready("fine")
