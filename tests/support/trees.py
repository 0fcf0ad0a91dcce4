"""Describe directory trees, so that two of them can be compared entry by entry."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tank_agent.linux import mounts

_OURS = ("trusted.overlay.", "user.umoci.", "security.selinux")


@contextmanager
def big_directory(name: str = "tank-test") -> Iterator[Path]:
    """Make a directory in memory (deleting many files from a disk is slow) and remove it with all in it."""
    # Not mkdtemp's names, which may hold a _ where a reference of buildah's must not.
    path = Path("/dev/shm") / f"{name}-{uuid.uuid4().hex}"
    path.mkdir(0o700)
    try:
        yield path
    finally:
        mounts_below = sorted(mounts.mount_points(path), reverse=True)
        for point in mounts_below:
            mounts.unmount(point)
        shutil.rmtree(path)


@contextmanager
def mounted(layers: Sequence[Path], scratch: Path) -> Iterator[Path]:
    """Mount layers (lowest first) as a container would see them; yields the root."""
    scratch.mkdir()
    upper, work, root, skeleton = (scratch / name for name in ("upper", "work", "root", "skeleton"))
    for directory in (upper, work, root, skeleton):
        directory.mkdir()
    # As the runtime does: the root's own attributes come from the uppermost directory.
    for directory in (upper, skeleton):
        shutil.copystat(layers[-1], directory)
        found = layers[-1].stat()
        os.chown(directory, found.st_uid, found.st_gid)
    mounts.overlay([skeleton, *reversed(layers)], upper, work, root)
    try:
        yield root
    finally:
        mounts.unmount(root)


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    """Return for each path: type and mode, owner, size and content, link target, device, xattrs, time."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[tuple[int, int], list[str]] = {}
    for path in _paths(root):
        status = path.lstat()
        name = os.fsencode(path.relative_to(root)).decode("latin-1")
        regular, directory = stat.S_ISREG(status.st_mode), stat.S_ISDIR(status.st_mode)
        found[name] = (
            oct(status.st_mode),
            (status.st_uid, status.st_gid),
            (status.st_size, hashlib.sha256(path.read_bytes()).hexdigest()) if regular else None,
            os.fsencode(path.readlink()) if path.is_symlink() else None,
            status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else None,
            _attributes(path),
            None if directory else status.st_mtime_ns,
        )
        if regular:
            inodes.setdefault((status.st_dev, status.st_ino), []).append(name)
    for names in inodes.values():
        group = tuple(sorted(names))
        for name in names:
            found[name] = (*found[name], group)
    return found


def _paths(root: Path) -> Iterator[Path]:
    yield root
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(directory, name)
            if os.path.lexists(path):
                yield path


def _attributes(path: Path) -> tuple[tuple[str, bytes], ...]:
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(os.listxattr(path, follow_symlinks=False))
        if not name.startswith(_OURS)
    )
