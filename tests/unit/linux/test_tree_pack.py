"""Trees are packed by descriptor: what is no file is never opened, and no link is followed."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path

import pytest

from tank_agent.linux import tree_pack
from tank_agent.linux.copy_target import own_descriptors
from tank_agent.linux.kernel_files import KernelFiles
from tank_agent.linux.paths import Closing
from tank_agent.linux.tar_stream import CopyError
from tank_agent.linux.tree_pack import Notes, Packer


def packed(path: Path, *, kernel: bool = True) -> tuple[dict[str, tarfile.TarInfo], list[str]]:
    """Pack a path under the name "top"; return the members, and the notes."""
    made, notes = io.BytesIO(), list[str]()
    with Closing(os.open(path, os.O_PATH | os.O_NOFOLLOW)) as top, own_descriptors() as descriptors:
        Packer(made.write, descriptors, Notes(notes.append), KernelFiles(allowed=kernel)).pack(top, b"top")
    made.seek(0)
    with tarfile.open(fileobj=made) as archive:
        return {member.name: member for member in archive.getmembers()}, notes


def test_special_files_are_left_out_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x").write_text("x")
    members, notes = packed(tmp_path)
    assert members.keys() == {"top", "top/x"}
    assert notes == ["left out: top/pipe is a FIFO"]
    with pytest.raises(CopyError, match="a FIFO"):
        packed(tmp_path / "pipe")


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    os.link(tmp_path / "x", tmp_path / "y")
    (tmp_path / "l").symlink_to("/etc/shadow")
    members, _ = packed(tmp_path)
    assert members["top/l"].linkname == "/etc/shadow"
    assert sorted(members[name].islnk() for name in ("top/x", "top/y")) == [False, True]


def test_files_of_the_kernel_are_refused() -> None:
    with pytest.raises(CopyError, match="kernel's own"):
        packed(Path("/proc/self/status"), kernel=False)
    with pytest.raises(CopyError, match="kernel's own"):
        packed(Path("/sys/kernel"), kernel=False)


def test_a_file_that_shrinks_meanwhile_is_filled_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"y" * 1000)
    real = tree_pack.header

    def shrinking(entry: tree_pack.TarEntry) -> bytes:
        if entry.size:
            os.truncate(tmp_path / "x", 10)
        return real(entry)

    monkeypatch.setattr(tree_pack, "header", shrinking)
    members, notes = packed(tmp_path)
    assert members["top/x"].size == 1000
    assert "became shorter" in notes[0]


def test_notes_are_counted_beyond_a_number(tmp_path: Path) -> None:
    for number in range(30):
        os.mkfifo(tmp_path / str(number))
    _, notes = packed(tmp_path)
    assert len(notes) == 21
    assert notes[-1] == "and 10 more like that"


def test_a_hostile_depth_is_refused(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_RDONLY)
    for _ in range(tree_pack.DEEPEST + 5):
        os.mkdir("d", dir_fd=top)
        below = os.open("d", os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = below
    os.close(top)
    with pytest.raises(CopyError, match="deeper"):
        packed(tmp_path)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOENT, errno.EIO])
def test_a_file_that_can_not_be_read_to_its_end_does_not_shift_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "x").write_bytes(b"y" * 1000)

    def stale(*_: object) -> bytes:
        raise OSError(number, "no")

    monkeypatch.setattr(tree_pack.os, "read", stale)
    with pytest.raises(CopyError, match="top/x can't be read"):
        packed(tmp_path)
