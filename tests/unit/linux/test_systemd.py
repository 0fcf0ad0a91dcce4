"""State and log entries, as systemd gets them: received by a socket as it has one."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.agent.logging import JournalLogger, journal_fields
from tank_agent.linux.systemd import JournalSocket, Notifier, encode, stderr_is_journal


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(60)
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
        receiver.settimeout(60)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert received(receiver) == {"WATCHDOG": "1"}


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket"])
def test_without_systemd_nothing_happens(address: str) -> None:
    Notifier({"NOTIFY_SOCKET": address}).ready("fine")


def test_fields_are_lines_and_long_texts_carry_their_length() -> None:
    assert encode({"MESSAGE": "hello", "PRIORITY": "6"}) == b"MESSAGE=hello\nPRIORITY=6\n"
    assert encode({"MESSAGE": "a\nb"}) == b"MESSAGE\n" + struct.pack("<Q", 3) + b"a\nb\n"


def test_a_value_cannot_become_another_field() -> None:
    assert b"\nPRIORITY=0" not in encode({"MESSAGE": "x\nPRIORITY=0"})[: len("MESSAGE") + 9]
    with pytest.raises(ValueError, match="not the name"):
        encode({"BAD\nNAME": "x"})


def test_an_entry_is_found_by_its_pod() -> None:
    fields = journal_fields({"event": "step failed", "level": "warning", "pod": "web", "error": "no disk"})
    assert fields == {
        "MESSAGE": 'step failed pod=web error="no disk"',
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "tank-agent",
        "TANK_EVENT": "step failed",
        "TANK_POD": "web",
        "TANK_ERROR": "no disk",
    }


def test_a_traceback_follows_the_message() -> None:
    fields = journal_fields({"event": "a bug", "level": "error", "exception": "Traceback\n  …"})
    assert fields["MESSAGE"] == "a bug\nTraceback\n  …"
    assert fields["PRIORITY"] == "3"


def test_entries_of_many_threads_arrive_whole(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "journal"))
        receiver.settimeout(60)
        journal = JournalSocket(str(tmp_path / "journal"))
        logger = JournalLogger(journal=journal)
        threads = [
            threading.Thread(target=lambda: logger.info(event="x" * 500, level="info")) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert receiver.recv(4096).startswith(b"MESSAGE=" + b"x" * 500 + b"\nPRIORITY=6\n")
        for thread in threads:
            thread.join()
        journal.close()


def test_without_a_journal_it_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = JournalSocket(str(tmp_path / "nobody"))
    JournalLogger(journal=journal).warning(event="hello", level="warning", pod="web")
    journal.close()
    assert json.loads(capsys.readouterr().err) == {"event": "hello", "level": "warning", "pod": "web"}


def test_stderr_is_the_journal_only_if_it_is_the_same_file() -> None:
    found = os.fstat(2)
    assert stderr_is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
    assert not stderr_is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
    assert not stderr_is_journal({})
