"""Files beside a pod file, read anew each time: waited for while they are written, and by no other path."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tank_agent.linux.whole_files import BEING_WRITTEN, beside_directory
from tank_agent.spec.beside import BesideError


def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "x"
    writing = threading.Event()

    def write() -> None:
        with file.open("w") as stream:
            stream.write("ha")
            stream.flush()
            writing.set()
            try:
                with pytest.raises(BesideError, match=BEING_WRITTEN):
                    beside_directory(tmp_path)("x")
            finally:
                stream.write("lf")

    writer = threading.Thread(target=write)
    writer.start()
    assert writing.wait(10)
    assert beside_directory(tmp_path, 10.0)("x") == b"half"
    writer.join()


def test_a_directory_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(BesideError, match="is not there"):
        beside_directory(tmp_path / "none")("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BesideError, match="is not there"):
        beside_directory(tmp_path / "file")("x")
    with pytest.raises(BesideError, match="is not there"):
        beside_directory(tmp_path)("file/x")


def test_the_path_is_checked_here_too(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    (tmp_path / "sub").mkdir()
    with pytest.raises(BesideError, match="leads out"):
        beside_directory(tmp_path / "sub")("../x")
