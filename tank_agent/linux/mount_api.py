"""Mounts held by descriptors: open_tree(2), mount_setattr(2), move_mount(2), statx(2)."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

from tank_agent.linux.libc import call, syscall

# Numbers of system calls that glibc 2.36 has no wrapper for, the same on all machines (asm-generic/unistd.h).
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
# linux/mount.h: MOUNT_ATTR_*, OPEN_TREE_CLONE, MOVE_MOUNT_{F,T}_EMPTY_PATH
RDONLY, NOSUID, NODEV, NOEXEC, _IDMAP = 0x1, 0x2, 0x4, 0x8, 0x100000
_CLONE, _FROM_DESCRIPTOR, _TO_DESCRIPTOR = 0x1, 0x4, 0x40
# linux/fcntl.h
AT_FDCWD, AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
# linux/stat.h
_STATX_ATTR_MOUNT_ROOT, _STATX_MNT_ID = 0x2000, 0x1000
_STATX_SIZE, _STATX_ATTRIBUTES_AT, _STATX_MNT_ID_AT = 256, 8, 144

# A path, or a descriptor that stands for the place itself: no path is looked up again between check and use.
Where = int | str | os.PathLike[str]
Named = str | os.PathLike[str] | None


class Place(NamedTuple):
    """Where a descriptor leads: the number of its mount, and whether it is the top of that (statx(2))."""

    mount: int
    is_root: bool


def place_of(descriptor: int) -> Place:
    """Return where a descriptor leads. The number is one mount's for as long as something holds that."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    call("statx", descriptor, b"", AT_EMPTY_PATH, _STATX_MNT_ID, buffer)
    (attributes,) = struct.unpack_from("=Q", buffer, _STATX_ATTRIBUTES_AT)
    (mount,) = struct.unpack_from("=Q", buffer, _STATX_MNT_ID_AT)
    return Place(mount=mount, is_root=bool(attributes & _STATX_ATTR_MOUNT_ROOT))


def clone(source: Where, *, recursive: bool = True, name: Named = None) -> int:
    """Return a descriptor of a copy of what is mounted at `source`, with its options, attached nowhere.

    `recursive` copies what is mounted below it, too; `name` is the filename of an error, for a descriptor.
    """
    directory, path, flags = _where(source)
    flags |= _CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return syscall(_OPEN_TREE, directory, path, flags, path=_name(source, name))


def restrict(
    mount: Where,
    attributes: int,
    *,
    recursive: bool = False,
    propagation: int = 0,
    mapping: int | None = None,
    name: Named = None,
) -> None:
    """Set attributes of a mount, such as `RDONLY`; those that it has stay.

    Args:
        recursive: set them for what is mounted below it, too.
        propagation: MS_PRIVATE or another kind; 0 leaves it as it is.
        mapping: a user namespace by which the owners of what is there are mapped; EINVAL if the file system
            knows no mapping.
        name: the filename of an error, if `mount` is a descriptor.
    """
    directory, path, flags = _where(mount)
    flags |= _AT_RECURSIVE if recursive else 0
    attributes |= _IDMAP if mapping is not None else 0
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    packed = struct.pack("=4Q", attributes, 0, propagation, mapping or 0)
    syscall(_MOUNT_SETATTR, directory, path, flags, packed, len(packed), path=_name(mount, name))


def attach(mount: int, target: Where, *, name: Named = None) -> None:
    """Mount what `clone` returned at `target`: of the same kind, and in the calling thread's namespace."""
    directory, path, by_descriptor = _where(target)
    flags = _FROM_DESCRIPTOR | (_TO_DESCRIPTOR if by_descriptor else 0)
    syscall(_MOVE_MOUNT, mount, b"", directory, path, flags, path=_name(target, name))


def _where(place: Where) -> tuple[int, bytes, int]:
    return (place, b"", AT_EMPTY_PATH) if isinstance(place, int) else (AT_FDCWD, os.fsencode(place), 0)


def _name(place: Where, name: Named) -> Named:
    return name if name is not None or isinstance(place, int) else place
