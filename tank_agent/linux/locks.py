"""Locks of files and directories (flock(2)), which end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tank_agent.linux.paths import Closing

_LOOK_EVERY = 0.01


class LockFile:
    """A lock file, made if absent, that is held until it is closed, even if somebody removes it meanwhile.

    `content` is a note for others. BlockingIOError if somebody else holds the lock.
    """

    def __init__(self, path: Path, content: bytes = b"") -> None:
        self._path = path
        self._content = content
        self._fd = self._take()

    def check(self) -> bool:
        """Make it again if it was removed, and return whether it was; BlockingIOError if another took it."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self._path.lstat(), os.fstat(self._fd)):
                return False
        taken = self._take()
        os.close(self._fd)
        self._fd = taken
        return True

    def close(self) -> None:
        """Release the lock."""
        os.close(self._fd)

    def _take(self) -> int:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        # The lock works even if the disk is full. The file is not emptied first, since another one could then
        # get its block.
        with suppress(OSError):
            os.truncate(fd, os.pwrite(fd, self._content, 0))
        return fd


@contextmanager
def locked_directory(path: Path, timeout: float) -> Iterator[int]:
    """Hold a directory's lock and yield its descriptor; TimeoutError if another holds it for `timeout` s."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + timeout
    with Closing(directory):
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(_LOOK_EVERY)
        yield directory


def has_writer(fd: int) -> bool | None:
    """Return whether some process has the file open for writing; None if the file system has no leases.

    A read lease is refused with EAGAIN if and only if there is a writer (F_SETLEASE in fcntl(2)). While we
    hold one, a new writer waits in open(2) until we close, and we get SIGURG, since SIGIO would kill us.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    return False
