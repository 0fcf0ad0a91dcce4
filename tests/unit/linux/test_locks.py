"""A lock file that is held, whatever happens to the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.linux.locks import LockFile, locked_directory


def test_a_second_holder_is_refused_and_reads_the_note(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = LockFile(path, b"/data")
    with pytest.raises(BlockingIOError):
        LockFile(path, b"/other")
    assert path.read_bytes() == b"/data"
    held.close()
    LockFile(path, b"/other").close()


def test_one_that_was_removed_or_replaced_is_held_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = LockFile(path, b"/data")
    assert held.check() is False
    path.unlink()
    assert held.check() is True
    with pytest.raises(BlockingIOError):
        LockFile(path, b"/other")
    path.unlink()
    path.touch()
    assert held.check() is True
    assert (path.read_bytes(), held.check()) == (b"/data", False)
    held.close()


def test_who_came_between_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = LockFile(path, b"/data")
    path.unlink()
    other = LockFile(path, b"/other")
    with pytest.raises(BlockingIOError):
        held.check()
    other.close()
    held.close()


def test_a_directory_is_held_by_one_and_given_back(tmp_path: Path) -> None:
    with locked_directory(tmp_path, 0), pytest.raises(TimeoutError), locked_directory(tmp_path, 0.02):
        pass
    with locked_directory(tmp_path, 0):
        pass
