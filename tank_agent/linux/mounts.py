"""Mounts (mount(2), umount2(2), proc_pid_mountinfo(5))."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tank_agent.linux import mount_api
from tank_agent.linux.libc import call
from tank_agent.linux.paths import Closing

# linux/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 0x1000, 0x4000, 0x40000, 0x80000
MNT_DETACH, UMOUNT_NOFOLLOW = 0x2, 0x8
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")


def mount(source: str, target: Path | str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount, as mount(2) does; an OSError has the target as filename."""
    data = os.fsencode(options) if options else None
    names = os.fsencode(source), os.fsencode(target), kind.encode()
    call("mount", *names, ctypes.c_ulong(flags), data, path=target)


def unmount(target: Path | str) -> bool:
    """Detach the top mount at `target`, busy or not; False if it is no mount point, or no path."""
    try:
        call("umount2", os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW, path=target)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return False
        raise
    return True


def unmount_all(target: Path | str) -> None:
    """Detach every mount that is stacked at `target`."""
    while unmount(target):
        pass


def unmount_below(directory: Path) -> None:
    """Detach every mount at an entry of a directory, should there be one."""
    if directory.is_dir():
        for entry in directory.iterdir():
            unmount_all(entry)


def unmount_tree(directory: Path) -> None:
    """Detach every mount at or below a directory, whatever is mounted on what."""
    for target in sorted(mount_points(directory), reverse=True):
        unmount_all(target)


def overlay(lower: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
    """Mount an overlay of `lower` (top first) with a private upper directory.

    Paths go in as descriptors: they may hold any character, and the one page that mount(2) takes for options
    is enough for any number of layers (kernel Documentation/filesystems/overlayfs.rst).
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    with ExitStack() as stack:
        opened = [stack.enter_context(Closing(os.open(path, flags))) for path in (*lower, upper, work)]
        names = [f"/proc/self/fd/{fd}" for fd in opened]
        options = f"lowerdir={':'.join(names[:-2])},upperdir={names[-2]},workdir={names[-1]}"
        mount("overlay", target, "overlay", 0, options)


def mount_points(below: Path) -> frozenset[Path]:
    """Return every mount point at or below a directory, in this process's mount namespace.

    The kernel knows real paths only, so they come without symbolic links, whatever leads to the directory.
    """
    prefix = os.path.realpath(below)
    found = set()
    # Whoever may mount, as users do with FUSE, names mounts: any byte but a newline may be in a line.
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]:
        text = unescaped(line.split(b" ", 5)[4])
        if text == prefix or text.startswith(prefix + "/"):
            found.add(Path(text))
    return frozenset(found)


def unescaped(field: bytes) -> str:
    """Return a path as it stood before the kernel wrote space, tab, newline and backslash in octal."""
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), field))


def bind(source: int, target: Path, *, read_only: bool, mapping: int | None = None) -> None:
    """Bind-mount what a descriptor stands for, nosuid and nodev, on an existing file or directory.

    No path is looked up again between check and use. `mapping` is a user namespace by which the owners of
    what is there are mapped; EINVAL if the file system knows no mapping.
    """
    with Closing(mount_api.clone(source, name=target)) as tree:
        attributes = mount_api.NOSUID | mount_api.NODEV | (mount_api.RDONLY if read_only else 0)
        mount_api.restrict(
            tree, attributes, recursive=True, propagation=MS_PRIVATE, mapping=mapping, name=target
        )
        mount_api.attach(tree, target)


def unmount_descriptor(descriptor: int, descriptors: int) -> None:
    """Detach the very mount that a descriptor is the top of, in the calling thread's namespace.

    `descriptors` is our own /proc/self/fd, opened before the namespace was entered. It becomes the thread's
    working directory. OSError if the descriptor is not the top of a mount of this namespace.
    """
    os.fchdir(descriptors)
    call("umount2", str(descriptor).encode(), MNT_DETACH)
