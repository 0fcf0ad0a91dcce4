"""Lock files, and what their holder notes in them."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class LockFile:
    """A lock file that is held until it is closed, though somebody removes it meanwhile.

    Args:
        path: the file, made if absent.
        content: what it says, for others.

    Raises:
        BlockingIOError: somebody else holds it.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content
        self._fd = self._take()

    def check(self) -> bool:
        """Make it again if it was removed, so that nobody else gets it; return whether it was.

        Raises:
            BlockingIOError: somebody else got it meanwhile.
            OSError: it cannot be made.
        """
        with suppress(FileNotFoundError):
            found, held = self._path.stat(follow_symlinks=False), os.fstat(self._fd)
            if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
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
        note(fd, self._content)
        return fd


def note(descriptor: int, content: bytes) -> None:
    """Replace what a lock file says, if the disk has room: the lock itself needs none.

    The file is not emptied before, lest a full disk give its block to somebody else.
    """
    with suppress(OSError):
        os.truncate(descriptor, os.pwrite(descriptor, content, 0))
