"""One file of a directory: its bytes, or why they can't be had now. Never hangs, never takes half a file."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Callable

from msgspec import Struct

MAX_SIZE = 1 << 20
# File times move in steps of a clock tick (up to 10 ms), so a file that changed twice within one can look the
# same; one that is older than this can't.
SETTLE = 0.1

# What tells one state of a file from another: device, inode, size, and both times in nanoseconds.
FileKey = tuple[int, int, int, int, int]


class Content(Struct, frozen=True):
    """A file's bytes; `settled_in` seconds from now, `key` is sure to change with any write (0: already)."""

    data: bytes
    key: FileKey
    settled_in: float


class Busy(Struct, frozen=True):
    """The file is being written; `settled_in` is when to look again, in seconds, if nothing will tell."""

    settled_in: float = 0.0


class Gone(Struct, frozen=True):
    """The file vanished between listing and reading."""


class Unusable(Struct, frozen=True):
    """The file can't be a pod file; `message` says why and what to do."""

    message: str


def file_key(status: os.stat_result) -> FileKey:
    """Return what tells this state of a file from any other."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def refusal(status: os.stat_result) -> str | None:
    """Return why a file of this kind or size is not read, or None."""
    if stat.S_ISDIR(status.st_mode):
        return "is a directory; pod files stand directly in it"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file; put the pod's text in a file of this name"
    if status.st_size > MAX_SIZE:
        return f"has {status.st_size} bytes; a pod file has at most {MAX_SIZE}"
    return None


def read_file(directory_fd: int, name: str, clock: Callable[[], float]) -> Content | Busy | Gone | Unusable:
    """Read a file completely, if no process has it open for writing; `clock` is Unix time in seconds."""
    try:
        # Looked at first, because opening a device can have effects. O_NONBLOCK: nor may a fifo hang us.
        why = refusal(os.stat(name, dir_fd=directory_fd))
        if why is not None:
            return Unusable(why)
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=directory_fd)
    except FileNotFoundError:
        return _missing(directory_fd, name)
    except OSError as error:
        return _cannot(error)
    try:
        return _read_open(fd, clock)
    except OSError as error:
        return _cannot(error)
    finally:
        os.close(fd)


def _read_open(fd: int, clock: Callable[[], float]) -> Content | Busy | Unusable:
    before = os.fstat(fd)
    why = refusal(before)
    if why is not None:
        return Unusable(why)
    writer = _has_writer(fd)
    if writer:
        return Busy()
    data = _read_all(fd, before.st_size)
    after = os.fstat(fd)
    if file_key(before) != file_key(after):
        return Busy(settled_in=SETTLE)
    if len(data) != after.st_size:
        # It would look as if it were being written for ever.
        return Unusable(
            "has another size than the file system says, as in /proc; put the pod's text in a file"
        )
    age = clock() - after.st_ctime
    # A time in the future (the clock was set back) says nothing; then every look reads, but none is hurried.
    young = SETTLE - age if 0 <= age < SETTLE else 0.0
    if writer is None and young:
        return Busy(settled_in=young)
    return Content(data, file_key(after) if age >= SETTLE else (0, 0, 0, 0, 0), young)


def _has_writer(fd: int) -> bool | None:
    """Return whether some process has the file open for writing; None if this file system can't tell.

    A read lease is refused with EAGAIN if and only if there is a writer, and while we hold it, a new writer
    waits in open(2) until we close (fcntl(2), F_SETLEASE). The signal for that would be SIGIO, which kills.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    return False


def _read_all(fd: int, size: int) -> bytes:
    chunks: list[bytes] = []
    left = size + 1
    while left > 0 and (chunk := os.read(fd, left)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _missing(directory_fd: int, name: str) -> Gone | Unusable:
    try:
        target = os.readlink(name, dir_fd=directory_fd)
    except OSError:
        return Gone()
    shown = os.fsencode(target).decode(errors="replace")
    return Unusable(f"is a link to {shown}, which is not there")


def _cannot(error: OSError) -> Unusable:
    return Unusable(f"can't be read: {error.strerror}")
