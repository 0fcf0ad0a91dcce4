"""Find the root of a container from inside its mount namespace; nothing third-party is imported here."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from tank_agent.linux.paths import Closing


def find_root(root: tuple[int, int], top: int, own: int, stack: ExitStack) -> int:
    """Return the top of the namespace if that is the root, else the process's own root or one above it.

    `root` is the device and inode that are looked for; ESTALE if it is none of these.
    """
    # A program that got another root below a chroot (pivot_root(2)) leaves the machine's own at the top; one
    # that called chroot(2) itself is below the root that we look for.
    found = top if _identity(top) == root else own
    while _identity(found) != root:
        above = open_directory("..", stack, found)
        if _identity(above) == _identity(found):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/")
        found = above
    return found


def open_directory(path: str, stack: ExitStack, parent: int | None = None) -> int:
    """Open a directory (O_PATH) until the end of the stack."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    return stack.enter_context(Closing(os.open(path, flags, dir_fd=parent)))


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
