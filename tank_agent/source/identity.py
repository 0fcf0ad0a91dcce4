"""Which directory this is: a mark that stays the same while the directory lives, and is never used again."""

from __future__ import annotations

import ctypes
import os

from tank_agent.linux import libc

_MAX_HANDLE = 128  # MAX_HANDLE_SZ of fcntl.h
_AT_EMPTY_PATH = 0x1000


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE),
    )


def directory_identity(fd: int) -> bytes:
    """Return the identity of an open directory, as printable bytes.

    It is the file system's id and the directory's file handle (name_to_handle_at(2)), which has a generation:
    an inode number alone is given to the next directory as soon as the first is removed. The device number
    would differ after a reboot on many file systems; it is the fallback where there is no id.
    """
    status = os.fstat(fd)
    file_system = os.fstatvfs(fd).f_fsid
    where = f"fsid={file_system:x}" if file_system else f"dev={status.st_dev:x}"
    try:
        return f"{where} handle={_handle(fd)}".encode()
    except OSError:
        # Not every file system has handles (overlayfs without nfs_export has none).
        return f"{where} inode={status.st_ino:x}".encode()


def _handle(fd: int) -> str:
    handle = _FileHandle(handle_bytes=_MAX_HANDLE)
    mount_id = ctypes.c_int()
    libc.call("name_to_handle_at", fd, b"", ctypes.byref(handle), ctypes.byref(mount_id), _AT_EMPTY_PATH)
    return f"{handle.handle_type:x}.{bytes(handle.f_handle[: handle.handle_bytes]).hex()}"
