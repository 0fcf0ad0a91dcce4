"""Trees that a container filled are copied as they are, whatever is in them; nothing leads out of them."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.linux import mounts, tree_walk
from tank_agent.linux.paths import Closing
from tank_agent.linux.tree_copy import CopyProgress, copy_tree, is_mount_point, let_rename, shares_blocks
from tank_agent.linux.tree_walk import WalkCancelledError, measure_tree
from tests.support.disks import KINDS, SHARING, disk
from tests.support.trees import describe
from tests.unit.linux.test_trees import immutable

_GETFLAGS, _SETFLAGS, _NOCOW = 0x80086601, 0x40086602, 0x00800000


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system of each kind."""
    with disk(tmp_path, request.param) as found:
        yield found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    found = tmp_path / "source"
    found.mkdir()
    return found


def copied(source: Path, target: Path, *, always: bool = False) -> CopyProgress:
    progress = CopyProgress()
    copy_tree(source, target, always=always, progress=progress)
    assert not os.path.lexists(f"{target}.links")
    return progress


def acl(*, default: bool) -> tuple[str, bytes]:
    """Return an ACL that lets user 1234 read, in the form of the kernel (linux/posix_acl_xattr.h)."""
    entries = ((1, 7, 2**32 - 1), (2, 4, 1234), (4, 5, 2**32 - 1), (16, 5, 2**32 - 1), (32, 0, 2**32 - 1))
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    return f"system.posix_acl_{'default' if default else 'access'}", value


def times(root: Path) -> dict[str, int]:
    """Return when each directory was changed."""
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in [root, *root.rglob("*/")]}


def fill(root: Path) -> None:
    """Make one of everything that a volume may hold."""
    (root / "sub").mkdir()
    (root / "new\nline ä").write_bytes(b"x" * 5000)
    (root / os.fsdecode(b"\xff\xfe")).write_text("no UTF-8")
    (root / "empty").touch()
    os.link(root / "new\nline ä", root / "hard")
    os.link(root / "hard", root / "sub" / "hard")
    os.mkfifo(root / "fifo", 0o640)
    os.link(root / "fifo", root / "sub" / "fifo")
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (root / "file").symlink_to("/etc/shadow")
    (root / "directory").symlink_to("/etc")
    (root / "nothing").symlink_to("../../../nothing")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    for name in ("hard", "sub", "fifo", "file"):
        os.setxattr(root / name, "trusted.test", name.encode(), follow_symlinks=False)
    os.setxattr(root / "sub", "user.test", b"1")
    os.chown(root / "hard", 1000, 2000)
    # VFS_CAP_REVISION_2, cap_net_raw: a change of the owner takes it away.
    os.setxattr(root / "hard", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    (root / "setuid").write_text("#!/bin/sh")
    os.chown(root / "setuid", 3, 4)
    (root / "setuid").chmod(0o6755)
    os.lchown(root / "file", 5, 6)
    (root / "sub").chmod(0o3770)
    (root / "closed").mkdir(0o000)
    os.setxattr(root / "sub", *acl(default=True))
    os.setxattr(root / "empty", *acl(default=False))
    (root / "sub" / "inherits").touch()
    with (root / "sparse").open("wb") as sparse:
        sparse.write(b"begin")
        sparse.seek(40 << 20)
        sparse.write(b"middle")
        sparse.truncate(80 << 20)
    for path in (root / "hard", root / "sub", root / "fifo", root / "file", root):
        os.utime(path, ns=(1_000_000_007, 1_234_567_890_123_456_789), follow_symlinks=False)


@pytest.mark.machine
class TestEverything:
    def test_all_that_is_in_a_volume_is_in_its_copy(self, place: Path) -> None:
        source = place / "source"
        source.mkdir()
        fill(source)
        opened = source.joinpath("hard").stat().st_atime_ns
        progress = copied(source, place / "copy")
        assert source.joinpath("hard").stat().st_atime_ns == opened
        assert place.joinpath("copy", "hard").stat().st_atime_ns == opened
        assert describe(place / "copy") == describe(source)
        assert times(place / "copy") == times(source)
        assert (place / "copy" / "sub").stat().st_ino != (source / "sub").stat().st_ino
        assert (place / "copy" / "sparse").stat().st_blocks * 512 < 1 << 20
        assert progress.shared == (place.name in SHARING)
        assert progress.shared == shares_blocks(source, place)

    def test_a_copy_of_a_copy_elsewhere_is_the_same(self, place: Path, tmp_path: Path) -> None:
        source = place / "source"
        source.mkdir()
        fill(source)
        assert not shares_blocks(source, tmp_path)
        assert not copied(source, tmp_path / "copy").shared
        assert describe(tmp_path / "copy") == describe(source)

    def test_a_tree_deeper_than_a_path_may_be_long(self, place: Path) -> None:
        here = os.open(place, os.O_RDONLY)
        for name in ("source", *("deep-directory",) * 1000):
            os.mkdir(name, dir_fd=here)
            os.mkdir("zzz", dir_fd=here)
            os.close(os.open("beside", os.O_CREAT | os.O_WRONLY, dir_fd=here))
            below = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        before = len(list(Path("/proc/self/fd").iterdir()))
        copied(place / "source", place / "copy")
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        one, other = (measure_tree(place / name) for name in ("source", "copy"))
        assert one is not None and other is not None
        assert one.entries == other.entries == 3 * 1000 + 1

    def test_only_what_shares_blocks_is_copied_without_taking_room(self, place: Path) -> None:
        (place / "source").mkdir()
        (place / "source" / "data").write_bytes(os.urandom(8 << 20))
        os.sync()
        if place.name not in SHARING:
            with pytest.raises(OSError, match=r"Operation not supported.*source/data"):
                copied(place / "source", place / "copy", always=True)
            return
        free = os.statvfs(place)
        progress = copied(place / "source", place / "copy", always=True)
        os.sync()
        assert progress.done == 8 << 20
        assert (free.f_bfree - os.statvfs(place).f_bfree) * free.f_bsize < 2 << 20

    def test_no_room(self, place: Path) -> None:
        (place / "source").mkdir()
        (place / "source" / "data").write_bytes(os.urandom(1 << 20))
        filler = place / "filler"
        with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1 << 20))
                file.flush()
                os.fsync(file.fileno())
        if place.name not in SHARING:
            with pytest.raises(OSError, match=r"No space.*source/data") as failure:
                copied(place / "source", place / "copy")
            assert failure.value.errno == errno.ENOSPC
        filler.unlink()


@pytest.mark.machine
def test_files_that_btrfs_does_not_copy_on_write_share_their_blocks_too(tmp_path: Path) -> None:
    with disk(tmp_path, "btrfs") as place:
        (place / "source").mkdir()
        # chattr +C, as databases have it.
        with Closing(os.open(place / "source", os.O_RDONLY)) as top:
            fcntl.ioctl(top, _SETFLAGS, _NOCOW.to_bytes(8, "little"))
        (place / "source" / "data").write_bytes(os.urandom(8 << 20))
        os.sync()
        assert copied(place / "source", place / "copy", always=True).shared
        flags = bytearray(8)
        with (place / "copy" / "data").open() as file:
            fcntl.ioctl(file, _GETFLAGS, flags)
        assert int.from_bytes(flags, "little") & _NOCOW


@pytest.mark.machine
def test_a_subvolume_is_a_part_and_a_mount_is_none(tmp_path: Path) -> None:
    with disk(tmp_path, "btrfs") as place:
        (place / "source" / "mounted").mkdir(parents=True)
        subprocess.run(["btrfs", "-q", "subvolume", "create", place / "source" / "inner"], check=True)
        (place / "source" / "inner" / "file").write_text("kept")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place / "source" / "mounted"], check=True)
        try:
            (place / "source" / "mounted" / "file").write_text("of another file system")
            assert is_mount_point(place / "source" / "mounted")
            assert not is_mount_point(place / "source" / "inner")
            progress = copied(place / "source", place / "copy")
        finally:
            mounts.unmount(place / "source" / "mounted")
        assert progress.mounts == 1
        assert (place / "copy" / "inner" / "file").read_text() == "kept"
        assert list((place / "copy" / "mounted").iterdir()) == []


@pytest.mark.machine
def test_a_file_that_nobody_may_change_is_copied_without_that(source: Path, tmp_path: Path) -> None:
    (source / "file").write_text("stays")
    with immutable(source / "file"), immutable(source):
        copied(source, tmp_path / "copy")
        (tmp_path / "copy" / "file").unlink()
        let_rename(source)
        source.rename(tmp_path / "moved")
        (tmp_path / "moved").rename(source)


@pytest.mark.machine
def test_what_the_directory_around_gives_to_new_ones_is_not_in_the_copy(source: Path, tmp_path: Path) -> None:
    (source / "sub").mkdir()
    (source / "sub" / "file").touch()
    around = tmp_path / "around"
    around.mkdir()
    os.setxattr(around, *acl(default=True))
    copied(source, around / "copy")
    assert describe(around / "copy") == describe(source)


@pytest.mark.machine
def test_a_directory_that_is_swapped_for_a_link_leads_nowhere(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("not for you")
    (source / "sub").mkdir()
    real = tree_walk.open_at

    def swapped(directory: int, path: str, flags: int, *, resolve: int) -> int:
        if path == "sub":
            (source / "sub").rename(tmp_path / "was")
            (source / "sub").symlink_to(secret)
        return real(directory, path, flags, resolve=resolve)

    monkeypatch.setattr(tree_walk, "open_at", swapped)
    with pytest.raises(OSError, match="sub"):
        copied(source, tmp_path / "copy")
    assert not (tmp_path / "copy" / "sub").exists()


def test_a_copy_and_a_measurement_end_when_nobody_wants_them(source: Path, tmp_path: Path) -> None:
    for number in range(20):
        (source / f"{number}").write_text("x")
    looks = iter([False] * 5 + [True])
    with pytest.raises(WalkCancelledError):
        copy_tree(source, tmp_path / "copy", progress=CopyProgress(), cancelled=lambda: next(looks))
    assert len(list((tmp_path / "copy").iterdir())) < 5
    with pytest.raises(WalkCancelledError):
        measure_tree(source, cancelled=lambda: True)


def test_the_size_of_a_tree_is_what_its_files_take(source: Path) -> None:
    (source / "a").write_bytes(bytes(10_000))
    os.link(source / "a", source / "b")
    found = measure_tree(source)
    assert found is not None
    assert found.entries == 3
    assert 10_000 <= found.size <= 10_000 + 3 * 4096
    assert measure_tree(source, deadline=time.monotonic()) is None
