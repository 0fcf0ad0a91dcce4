"""Read files that others may be writing: whole or not at all, and never one that could hang the reader."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from tank_agent.linux.locks import has_writer
from tank_agent.linux.paths import Closing, open_without_links, read_all
from tank_agent.spec.beside import (
    DIRECTORY,
    FILE_MAX,
    LINK,
    Beside,
    BesideError,
    path_complaint,
    too_large,
)

# File times move in steps of a clock tick (up to 10 ms), so a file can change twice and have the same times.
# That is ruled out for a file that is older than this.
SETTLE = 0.1
BEING_WRITTEN = "is being written; waiting until it is closed"

# Identifies one state of a file: device, inode, size, and both times in nanoseconds.
FileKey = tuple[int, int, int, int, int]
NO_KEY = (0, 0, 0, 0, 0)
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Content(Struct, frozen=True):
    """A file's bytes; any write that comes `settled_in` seconds from now or later changes `key`."""

    data: bytes
    key: FileKey
    settled_in: float


class Unusable(Struct, frozen=True):
    """Why the file is not read; if no event will come, look again in `settled_in` seconds."""

    message: str
    settled_in: float = 0.0


def file_key(status: os.stat_result) -> FileKey:
    """Return what identifies this state of a file."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read_whole(
    directory: int, name: str, refuse: Callable[[os.stat_result], str | None], *, links: bool
) -> Content | Unusable:
    """Read a file of an open directory completely, if no process has it open for writing.

    Args:
        refuse: returns why a file of this kind or size is not read.
        links: whether the name may be a symbolic link.

    Raises:
        OSError: it can't be opened or read.
    """
    # The status first, because opening a device can have effects. O_NONBLOCK: a fifo must not hang us.
    why = refuse(os.stat(name, dir_fd=directory, follow_symlinks=links))
    if why is not None:
        return Unusable(why)
    flags = _READ if links else _READ | os.O_NOFOLLOW
    with Closing(os.open(name, flags, dir_fd=directory)) as fd:
        return _read_open(fd, refuse)


def _read_open(fd: int, refuse: Callable[[os.stat_result], str | None]) -> Content | Unusable:
    before = os.fstat(fd)
    why = refuse(before)
    if why is not None:
        return Unusable(why)
    writer = has_writer(fd)
    if writer:
        return Unusable(BEING_WRITTEN)
    data = read_all(fd, before.st_size)
    after = os.fstat(fd)
    if file_key(before) != file_key(after):
        return Unusable(BEING_WRITTEN, SETTLE)
    if len(data) != after.st_size:
        # Otherwise it would seem to be written for ever.
        return Unusable(
            "has another size than the file system says, as in /proc; put the text in a file of its own"
        )
    age = time.time() - after.st_ctime
    # A time in the future (the clock was set back) is no age: every look reads then, and none is added.
    young = SETTLE - age if 0 <= age < SETTLE else 0.0
    if writer is None and young:
        return Unusable(BEING_WRITTEN, young)
    return Content(data, file_key(after) if age >= SETTLE else NO_KEY, young)


def read_beside(directory: int, path: str) -> Content | Unusable:
    """Read a file beside a pod file, whose directory is open; it is reached through no link.

    `path` is one in which `path_complaint` finds nothing.
    """
    parent, _, name = path.rpartition("/")
    try:
        if not parent:
            return read_whole(directory, name, _refusal, links=False)
        # O_PATH needs no permission to list it.
        flags = os.O_PATH | os.O_DIRECTORY
        with Closing(open_without_links(directory, parent, flags)) as place:
            return read_whole(place, name, _refusal, links=False)
    except OSError as error:
        return Unusable(_why_not(error))


def look_beside(directory: int, path: str) -> FileKey:
    """Return a value that differs once a file beside a pod file has changed, has come or has gone."""
    try:
        with Closing(open_without_links(directory, path, os.O_PATH)) as fd:
            return file_key(os.fstat(fd))
    except OSError as error:
        return (error.errno or 0, 0, 0, 0, 0)


GONE: FileKey = (errno.ENOENT, 0, 0, 0, 0)


def beside_directory(directory: Path, patience: float = 0.0) -> Beside:
    """Return the reader of the files in and below a directory.

    It opens the directory anew for each of them, and waits `patience` seconds for one that is being written.
    """

    def read(path: str) -> bytes:
        wrong = path_complaint(path)
        if wrong is not None:
            raise BesideError(wrong)
        deadline = time.monotonic() + patience
        while True:
            try:
                with Closing(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
                    found = read_beside(fd, path)
            except OSError as error:
                raise BesideError(_why_not(error)) from None
            if isinstance(found, Content):
                return found.data
            if found.message != BEING_WRITTEN or time.monotonic() >= deadline:
                raise BesideError(found.message)
            time.sleep(found.settled_in or SETTLE)

    return read


def _refusal(status: os.stat_result) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return LINK
    if stat.S_ISDIR(status.st_mode):
        return DIRECTORY
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_size > FILE_MAX:
        return too_large(f"has {status.st_size} bytes")
    return None


def _why_not(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "is not there"
    return LINK if error.errno == errno.ELOOP else f"can't be read: {error.strerror}"
