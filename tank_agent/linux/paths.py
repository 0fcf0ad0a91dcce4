"""Open and read paths in trees that someone else controls: openat2(2), never by a path from the outside.

A symbolic link in such a tree may point anywhere, may change between two calls, and a file in it may be a
fifo or endless. So every look goes through a directory descriptor and lets the kernel do the walk.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from functools import partial

from tank_agent.linux.libc import AT_EMPTY_PATH, AT_FDCWD, call, syscall

# asm-generic/unistd.h, linux/openat2.h
_OPENAT2 = 437
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 0x1, 0x2, 0x4
RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x8, 0x10

# MAX_HANDLE_SZ of fcntl.h
_MAX_HANDLE = 128
# As many as the kernel follows (path_resolution(7)).
LINKS_MAX = 40
# The kernel gives up with EAGAIN when a rename or a mount races with a walk that must not leave its root.
_ATTEMPTS = 32


class NotReadableError(ValueError):
    """A path in a foreign tree is not a regular file of bounded size."""


class Closing:
    """A descriptor that is closed at the end of a `with`."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class Ignoring:
    """Ends a `with` quietly at an OSError with one of these numbers."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        return isinstance(error, OSError) and error.errno in self._numbers


def open_at(directory: int, path: str | bytes, flags: int, *, resolve: int, mode: int = 0) -> int:
    """Open `path` as openat2(2) does with these RESOLVE_ flags; the new descriptor is close-on-exec.

    An OSError has `path` as its filename; it is EXDEV or ELOOP when the walk would break `resolve`.
    """
    name = os.fsencode(path)
    if b"\0" in name:
        # The kernel would take the path to end there.
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), os.fsdecode(name))
    # struct open_how
    how = struct.pack("=3Q", flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(_ATTEMPTS):
        try:
            return syscall(_OPENAT2, directory, name, how, len(how), path=os.fsdecode(name))
        except OSError as error:
            if error.errno != errno.EAGAIN or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def open_on_host(path: str, flags: int) -> int:
    """Open an absolute path of the host; links of /proc on its way, which lead anywhere, are errors."""
    return open_at(AT_FDCWD, path, flags, resolve=RESOLVE_NO_MAGICLINKS)


def open_in_root(root: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open `path` as a process would that has the directory `root` as its root: links stay inside."""
    return open_at(root, path, flags, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, mode=mode)


def open_beneath(root: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open `path` below the directory `root`; EXDEV if a walk would leave it, even by a link."""
    return open_at(root, path, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS, mode=mode)


def open_without_links(root: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open `path` below the directory `root`; ELOOP at any symbolic link, EXDEV where the path leads out."""
    return open_at(root, path, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, mode=mode)


def real_path_in_root(root: int, path: str) -> str:
    """Return where an absolute path leads to in the directory `root`, whether it exists or not.

    Others may change the tree meanwhile: open the result without links. ELOOP where links go in circles.
    """
    return "/" + "/".join(follow_links(path, partial(_link, root)))


def follow_links(path: str, link_of: Callable[[list[str], str], str | None]) -> list[str]:
    """Return the parts of the path that an absolute path leads to.

    Args:
        link_of: returns the target of a symbolic link, by the parts of its directory and its name; None if
            that name is no link.

    Raises:
        OSError: links go in circles (ELOOP), or what `link_of` raises.
    """
    found: list[str] = []
    left = path.split("/")[::-1]
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            del found[-1:]
        elif part not in ("", "."):
            link = link_of(found, part)
            if link is None:
                found.append(part)
                continue
            links += 1
            if links > LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if link.startswith("/"):
                found.clear()
            left += link.split("/")[::-1]
    return found


def _link(root: int, parents: list[str], name: str) -> str | None:
    """Return the target of a symbolic link; None if there is none by that name."""
    path = "/".join((*parents, name))
    with (
        Ignoring(errno.ENOENT, errno.ENOTDIR),
        Closing(open_without_links(root, path, os.O_PATH | os.O_NOFOLLOW)) as link,
        Ignoring(errno.EINVAL),
    ):
        return os.readlink("", dir_fd=link)
    return None


def directory_identity(fd: int) -> bytes:
    """Return printable bytes that identify an open directory as long as it exists, and no other one later.

    They are the file system's id, or else its device number, which a reboot may change, and the directory's
    file handle (name_to_handle_at(2)): an inode number alone is soon given to another directory.
    """
    status = os.fstat(fd)
    file_system = os.fstatvfs(fd).f_fsid
    where = f"fsid={file_system:x}" if file_system else f"dev={status.st_dev:x}"
    try:
        return f"{where} handle={_file_handle(fd)}".encode()
    except OSError:
        # Not every file system has handles (overlayfs without nfs_export has none).
        return f"{where} inode={status.st_ino:x}".encode()


def _file_handle(descriptor: int) -> str:
    # struct file_handle
    head = struct.Struct("=Ii")
    handle = ctypes.create_string_buffer(head.pack(_MAX_HANDLE, 0), head.size + _MAX_HANDLE)
    call("name_to_handle_at", descriptor, b"", handle, ctypes.byref(ctypes.c_int()), AT_EMPTY_PATH)
    size, kind = head.unpack_from(handle)
    return f"{kind:x}.{handle.raw[head.size :][:size].hex()}"


def read_all(descriptor: int, most: int) -> bytes:
    """Read to the end, up to one byte more than `most`, so that the caller sees that there is more."""
    chunks: list[bytes] = []
    left = most + 1
    while left and (chunk := os.read(descriptor, min(left, 1 << 20))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def read_regular(descriptor: int, *, limit: int, name: str) -> bytes:
    """Read a regular file of at most `limit` bytes, else NotReadableError; the descriptor stays open."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise NotReadableError(f"{name} is not a regular file")
    content = read_all(descriptor, limit)
    if len(content) > limit:
        raise NotReadableError(f"{name} is larger than {limit} bytes")
    return content


def read_in_root(root: int, path: str, *, limit: int) -> bytes:
    """Read a regular file of a foreign root file system; never blocks on a fifo, never reads too much.

    FileNotFoundError if there is none, also where a link leads to nothing; NotReadableError if it is no
    regular file, or larger than `limit` bytes.
    """
    with Closing(open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)) as descriptor:
        return read_regular(descriptor, limit=limit, name=path)
