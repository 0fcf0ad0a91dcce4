"""Mounts by path (mount(2), umount2(2)) or by descriptor (open_tree(2), mount_setattr(2), move_mount(2))."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tank_agent.linux.libc import AT_EMPTY_PATH, AT_FDCWD, call, syscall
from tank_agent.linux.paths import Closing, Ignoring

# linux/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 0x1000, 0x4000, 0x40000, 0x80000
MNT_DETACH, UMOUNT_NOFOLLOW = 0x2, 0x8
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC, _ATTR_IDMAP = 0x1, 0x2, 0x4, 0x8, 0x100000
# OPEN_TREE_CLONE, MOVE_MOUNT_{F,T}_EMPTY_PATH, MOVE_MOUNT_BENEATH (Linux 6.5)
_CLONE, _FROM_DESCRIPTOR, _TO_DESCRIPTOR, _BENEATH = 0x1, 0x4, 0x40, 0x200
# Numbers of system calls that glibc 2.36 has no wrapper for, the same on all machines (asm-generic/unistd.h).
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
# linux/fcntl.h
_AT_RECURSIVE = 0x8000
# linux/stat.h
_STATX_ATTR_MOUNT_ROOT, _STATX_MNT_ID = 0x2000, 0x1000
_STATX_SIZE, _STATX_ATTRIBUTES_AT, _STATX_MNT_ID_AT = 256, 8, 144
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")

# A path, or a descriptor that stands for the place itself: no path is looked up again between check and use.
Where = int | str | os.PathLike[str]
Named = str | os.PathLike[str] | None


def mount(source: str, target: Path | str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount, as mount(2) does; an OSError has the target as filename."""
    data = os.fsencode(options) if options else None
    names = os.fsencode(source), os.fsencode(target), kind.encode()
    call("mount", *names, ctypes.c_ulong(flags), data, path=target)


def unmount(target: Path | str) -> bool:
    """Detach the top mount at `target`, busy or not; False if it is no mount point, or no path."""
    with Ignoring(errno.EINVAL, errno.ENOENT):
        call("umount2", os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW, path=target)
        return True
    return False


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
    """Detach every mount at or below a directory, those on other mounts, too."""
    for target in sorted(mount_points(directory), reverse=True):
        unmount_all(target)


def overlay(lower: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
    """Mount an overlay of `lower` (top first) with a private upper directory.

    Paths are given as descriptors: so they may hold any character, and the one page that mount(2) takes for
    options is enough for any number of layers (kernel Documentation/filesystems/overlayfs.rst).
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    with ExitStack() as stack:
        opened = [stack.enter_context(Closing(os.open(path, flags))) for path in (*lower, upper, work)]
        names = [f"/proc/self/fd/{fd}" for fd in opened]
        options = f"lowerdir={':'.join(names[:-2])},upperdir={names[-2]},workdir={names[-1]}"
        mount("overlay", target, "overlay", 0, options)


def read_only_overlay(lower: Sequence[Path], target: Path) -> None:
    """Mount an overlay that nobody writes to, of two directories at least, top first."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    with ExitStack() as stack:
        opened = [stack.enter_context(Closing(os.open(path, flags))) for path in lower]
        options = f"lowerdir={':'.join(f'/proc/self/fd/{fd}' for fd in opened)}"
        mount("overlay", target, "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, options)


def mount_points(below: Path) -> frozenset[Path]:
    """Return every mount point at or below a directory, in this process's mount namespace, by real paths."""
    prefix = os.path.realpath(below)
    found = set()
    # Users name mounts, too, with FUSE: any byte except a newline may be in a line.
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]:
        text = unescaped(line.split(b" ", 5)[4])
        if text == prefix or text.startswith(prefix + "/"):
            found.add(Path(text))
    return frozenset(found)


def unescaped(field: bytes) -> str:
    """Return a path in which the kernel has written space, tab, newline and backslash in octal."""
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), field))


class Place(NamedTuple):
    """The mount that a descriptor lies in, by its number, and whether it is the top of that (statx(2))."""

    mount: int
    is_root: bool


def place_of(descriptor: int) -> Place:
    """Return where a descriptor leads; nothing else gets the mount's number while something holds it."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    call("statx", descriptor, b"", AT_EMPTY_PATH, _STATX_MNT_ID, buffer)
    (attributes,) = struct.unpack_from("=Q", buffer, _STATX_ATTRIBUTES_AT)
    (mount,) = struct.unpack_from("=Q", buffer, _STATX_MNT_ID_AT)
    return Place(mount=mount, is_root=bool(attributes & _STATX_ATTR_MOUNT_ROOT))


def clone(source: Where, *, recursive: bool = True, name: Named = None) -> int:
    """Return a descriptor of a copy of the mount at `source`, with its options, attached nowhere.

    `recursive` copies the mounts below it, too; `name` is the filename of an error, for a descriptor.
    """
    directory, path, flags, name = _where(source, name)
    flags |= _CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return syscall(_OPEN_TREE, directory, path, flags, path=name)


def restrict(
    place: Where,
    attributes: int,
    *,
    recursive: bool = False,
    propagation: int = 0,
    mapping: int | None = None,
    name: Named = None,
) -> None:
    """Set attributes of a mount, such as `ATTR_RDONLY`; those that it has stay.

    Args:
        recursive: set them for the mounts below it, too.
        propagation: MS_PRIVATE or another kind; 0 leaves it as it is.
        mapping: a user namespace that maps the owners of the files; EINVAL if the file system can't do that.
        name: the filename of an error, if `place` is a descriptor.
    """
    directory, path, flags, name = _where(place, name)
    flags |= _AT_RECURSIVE if recursive else 0
    attributes |= _ATTR_IDMAP if mapping is not None else 0
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    packed = struct.pack("=4Q", attributes, 0, propagation, mapping or 0)
    syscall(_MOUNT_SETATTR, directory, path, flags, packed, len(packed), path=name)


def attach(tree: int, target: Where, *, beneath: bool = False, name: Named = None) -> None:
    """Mount a copy by `clone` at `target`, of the same kind, in the calling thread's namespace.

    `beneath`: below the mount whose top `target` is, so that it is seen once that is unmounted; EINVAL where
    the kernel cannot do that (before Linux 6.5, and for mounts that a user namespace has locked).
    """
    directory, path, by_descriptor, name = _where(target, name)
    flags = _FROM_DESCRIPTOR | (_TO_DESCRIPTOR if by_descriptor else 0) | (_BENEATH if beneath else 0)
    syscall(_MOVE_MOUNT, tree, b"", directory, path, flags, path=name)


def _where(place: Where, name: Named) -> tuple[int, bytes, int, Named]:
    if isinstance(place, int):
        return place, b"", AT_EMPTY_PATH, name
    return AT_FDCWD, os.fsencode(place), 0, name or place


def bind(source: int, target: Path, *, read_only: bool, mapping: int | None = None) -> None:
    """Bind-mount the file or directory of a descriptor, nosuid and nodev, on an existing one.

    No path is looked up again between check and use; `mapping` as in `restrict`.
    """
    with Closing(clone(source, name=target)) as tree:
        attributes = ATTR_NOSUID | ATTR_NODEV | (ATTR_RDONLY if read_only else 0)
        restrict(tree, attributes, recursive=True, propagation=MS_PRIVATE, mapping=mapping, name=target)
        attach(tree, target)


def unmount_descriptor(descriptor: int, descriptors: int) -> None:
    """Detach the very mount that a descriptor is the top of, in the calling thread's namespace, or OSError.

    `descriptors` is our own /proc/self/fd, opened before the namespace was entered. It becomes the thread's
    working directory.
    """
    os.fchdir(descriptors)
    call("umount2", str(descriptor).encode(), MNT_DETACH)
