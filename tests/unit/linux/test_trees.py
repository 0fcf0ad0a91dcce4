"""Trees that a container filled are removed whatever they are; what resists harms nothing else."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tank_agent.linux import mounts
from tank_agent.linux.trees import Trash, remove_tree
from tests.support.agent import wait_for

_GETFLAGS, _SETFLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10


def deep(path: Path, levels: int, name: str = "d") -> None:
    """Make a directory in a directory in a directory, with a file in every 500th."""
    path.mkdir(parents=True)
    here = os.open(path, os.O_RDONLY)
    for level in range(levels):
        os.mkdir(name, dir_fd=here)
        if level % 500 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Let nobody change a file, not even root."""
    descriptor = os.open(path, os.O_RDONLY)
    flags = ctypes.c_long()
    try:
        fcntl.ioctl(descriptor, _GETFLAGS, flags)
        try:
            fcntl.ioctl(descriptor, _SETFLAGS, ctypes.c_long(flags.value | _IMMUTABLE))
        except OSError:
            pytest.skip("this file system, or this machine, makes nothing immutable")
        try:
            yield
        finally:
            fcntl.ioctl(descriptor, _SETFLAGS, flags)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", ["d", "n" * 255])
def test_a_tree_of_any_depth_is_removed_with_few_descriptors(tmp_path: Path, name: str) -> None:
    tree = tmp_path / "tree"
    deep(tree, 1200, name)
    most = 0
    done = threading.Event()

    def count() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, len(os.listdir("/proc/self/fd")))  # noqa: PTH208

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    counter = threading.Thread(target=count)
    counter.start()
    try:
        remove_tree(tree)
    finally:
        done.set()
        counter.join()
    assert not tree.exists()
    assert most - before < 80


def test_many_branches_that_are_all_deep(tmp_path: Path) -> None:
    for number in range(10):
        deep(tmp_path / "tree" / str(number), 100)
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.machine
def test_what_has_no_permissions_and_what_is_no_file(tmp_path: Path) -> None:
    closed = tmp_path / "tree" / "closed"
    (closed / "below").mkdir(parents=True)
    os.mkfifo(closed / "fifo")
    (closed / os.fsdecode(b"\xff\xfe")).touch()
    closed.chmod(0)
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "never" / "there")
    (tmp_path / "file").touch()
    remove_tree(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_never_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "file"
    kept.parent.mkdir()
    kept.touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(kept.parent)
    (tree / "root").symlink_to("/")
    top = tmp_path / "top"
    top.symlink_to(kept.parent)
    remove_tree(tree)
    remove_tree(top)
    assert kept.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


def test_a_directory_that_is_swapped_for_a_link_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for number in range(50):
        (kept / str(number)).touch()
    tree = tmp_path / "tree"
    libc = ctypes.CDLL(None)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            libc.renameat2(-100, bytes(tree / "a"), -100, bytes(tree / "b"), 2)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(200):
            (tree / "a").mkdir(parents=True)
            (tree / "a" / "file").touch()
            (tree / "b").symlink_to(kept)
            for left in reversed(range(20)):
                try:
                    remove_tree(tree)
                    break
                except OSError:
                    # It came back under a name that was done with, or as another kind of file.
                    if not left:
                        raise
    finally:
        over.set()
        swapper.join()
    assert len(list(kept.iterdir())) == 50


@pytest.mark.machine
def test_mounts_are_not_entered_and_the_rest_is_removed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    tree = tmp_path / "tree"
    (tree / "a" / "mounted").mkdir(parents=True)
    for name in ("0", "a/0", "z"):
        (tree / name).touch()
    source = os.open(kept, os.O_PATH)
    mounts.bind(source, tree / "a" / "mounted", read_only=False)
    os.close(source)
    try:
        with pytest.raises(OSError, match="mounted") as raised:
            remove_tree(tree)
        assert raised.value.filename == str(tree / "a" / "mounted")
        assert sorted(path.name for path in tree.rglob("*")) == ["a", "file", "mounted"]
    finally:
        mounts.unmount_all(tree / "a" / "mounted")
    remove_tree(tree)
    assert (kept / "file").exists()


def test_what_is_immutable_is_named_and_the_rest_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    deep(tree / "deep", 100)
    file = tree / "a" / "kept"
    file.parent.mkdir()
    for name in ("a/0", "a/z", "z"):
        (tree / name).touch()
    file.touch()
    with immutable(file):
        with pytest.raises(PermissionError) as raised:
            remove_tree(tree)
        assert raised.value.filename == str(file)
        assert sorted(path.name for path in tree.rglob("*")) == ["a", "kept"]
    remove_tree(tree)
    assert not tree.exists()


@pytest.mark.machine
def test_a_file_system_that_is_read_only_ends_it_at_once(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    mounts.mount("tmpfs", tree, "tmpfs")
    try:
        (tree / "below" / "x").mkdir(parents=True)
        subprocess.run(["mount", "-o", "remount,ro", str(tree)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            remove_tree(tree / "below")
    finally:
        mounts.unmount_all(tree)


def test_a_part_that_is_read_only_keeps_nothing_else_from_being_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a read-only subvolume of btrfs, which is no mount, and which a container can make."""
    tree = tmp_path / "tree"
    for name in ("a", "sub", "z"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").touch()
    subvolume, unlink = (tree / "sub").stat().st_ino, os.unlink

    def refuse(name: str, *, dir_fd: int) -> None:
        if os.fstat(dir_fd).st_ino == subvolume:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only") as raised:
        remove_tree(tree)
    assert raised.value.filename == str(tree / "sub" / "file")
    assert sorted(path.name for path in tree.iterdir()) == ["sub"]


def test_a_tree_that_a_container_made_deep_stops_the_deletion_of_no_other(tmp_path: Path) -> None:
    deep(tmp_path / "deep", 1200)
    (tmp_path / "other").mkdir()
    trash = Trash(tmp_path / "trash")
    try:
        for name in ("deep", "other"):
            trash.throw(tmp_path / name)
        wait_for(lambda: not list((tmp_path / "trash").iterdir()), "both are deleted")
    finally:
        trash.close()


@pytest.mark.machine
def test_what_resists_keeps_nothing_else_in_the_trash(tmp_path: Path) -> None:
    directory = tmp_path / "trash"
    trash = Trash(directory)
    try:
        for number in range(3):
            tree = tmp_path / f"{number}"
            (tree / "upper").mkdir(parents=True)
            if number == 0:
                mounts.mount("tmpfs", tree / "upper", "tmpfs")
            trash.throw(tree)
        wait_for(lambda: len(list(directory.iterdir())) == 2, "all that can be is deleted")
        (why,) = directory.glob("*.why")
        assert "mounted" in why.read_text()
    finally:
        trash.close()
        mounts.unmount_tree(directory)
    again = Trash(directory)
    try:
        wait_for(lambda: not list(directory.iterdir()), "the next agent deletes it")
    finally:
        again.close()


def test_no_error_whatever_ends_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [RecursionError("deep"), MemoryError(), ValueError("odd")]

    def remove(path: Path) -> None:
        if broken:
            raise broken.pop()
        remove_tree(path)

    monkeypatch.setattr("tank_agent.linux.trees.remove_tree", remove)
    trash = Trash(tmp_path / "trash")
    try:
        for number in range(4):
            (tmp_path / f"{number}").mkdir()
            trash.throw(tmp_path / f"{number}")
        wait_for(lambda: len(list((tmp_path / "trash").glob("*.why"))) == 3, "they are told")
        wait_for(lambda: len(list((tmp_path / "trash").iterdir())) == 6, "the fourth is deleted")
    finally:
        trash.close()
