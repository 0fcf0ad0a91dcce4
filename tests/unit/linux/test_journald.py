"""Log entries as the journal gets them."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from pathlib import Path

import pytest

from tank_agent.agent.logging import JournalLogger, journal_fields
from tank_agent.linux.journald import Journal, encode, is_our_stderr


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
        receiver.settimeout(5)
        journal = Journal(str(tmp_path / "journal"))
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
    journal = Journal(str(tmp_path / "nobody"))
    JournalLogger(journal=journal).warning(event="hello", level="warning", pod="web")
    journal.close()
    assert json.loads(capsys.readouterr().err) == {"event": "hello", "level": "warning", "pod": "web"}


def test_stderr_is_the_journal_only_if_it_is_the_same_file() -> None:
    found = os.fstat(2)
    assert is_our_stderr({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
    assert not is_our_stderr({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
    assert not is_our_stderr({})
