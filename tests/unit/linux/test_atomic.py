"""A file is replaced whole, or stays as it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tank_agent.linux import atomic


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it(
    tmp_path: Path, *, durable: bool
) -> None:
    path = tmp_path / "record"
    atomic.write(path, b"one", durable=durable)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.stat().st_ino
    former = os.umask(0o077)
    try:
        atomic.write(path, b"two", mode=0o644, durable=durable)
    finally:
        os.umask(former)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two", 0o644)
    assert path.stat().st_ino != before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record"
    atomic.write(path, b"one")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        atomic.write(path, b"two", durable=True)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
