"""The key files of this machine, with which it decrypts (age(1), "IDENTITY FILES")."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from tank_agent.linux.paths import Closing, NotReadableError, read_regular

# Far more than keys take.
_KEY_MAX = 64 << 10
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

# What tells of a key file whether it is still the same; None: it is not there.
Mark = tuple[int, ...] | None


class UnusableKey(Struct, frozen=True):
    """A key file that can't serve, and why, as the end of a sentence about it."""

    file: str
    why: str


class Keys(Struct, frozen=True):
    """The key files that can be read, each with the path by which a child opens a copy of it, and the others.

    `descriptors` are those of the copies, for the child.
    """

    readable: tuple[tuple[str, str], ...]
    unusable: tuple[UnusableKey, ...]
    descriptors: tuple[int, ...]


def marks(files: Sequence[str]) -> tuple[Mark, ...]:
    """Return what tells whether key files are still the same."""
    return tuple(map(mark_of, files))


def mark_of(file: str) -> Mark:
    """Return what tells whether a file is still the same (stat(2)); None if it can't be looked at."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode


@contextmanager
def opened(files: Sequence[str]) -> Iterator[Keys]:
    """Copy the key files into memory for a child of another user, who could not read them."""
    readable, unusable = [], []
    with ExitStack() as stack:
        descriptors: list[int] = []
        for file in files:
            try:
                content = read_key(file)
            except FileNotFoundError:
                continue
            except OSError as error:
                unusable.append(UnusableKey(file, f"can't be read: {error.strerror}"))
                continue
            except NotReadableError as error:
                unusable.append(UnusableKey(file, str(error)))
                continue
            copy = stack.enter_context(Closing(os.memfd_create("tank-key", os.MFD_CLOEXEC)))
            os.write(copy, content)
            descriptors.append(copy)
            readable.append((file, f"/proc/self/fd/{copy}"))
        yield Keys(tuple(readable), tuple(unusable), tuple(descriptors))


def read_key(file: str) -> bytes:
    """Read a key file that is ours, or root's, and nobody else's to read or write.

    Raises:
        OSError, NotReadableError: it can't be read, or should not be trusted; the message is the end of a
            sentence about it.
    """
    with Closing(os.open(file, _OPEN)) as descriptor:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotReadableError("is not a regular file")
        if found.st_uid not in (0, os.geteuid()):
            raise NotReadableError(f"belongs to user {found.st_uid}, and not to root: chown root {file}")
        if found.st_mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            raise NotReadableError(f"is open to others: chmod 600 {file}")
        try:
            return read_regular(descriptor, limit=_KEY_MAX, name=file)
        except NotReadableError:
            raise NotReadableError(f"is larger than {_KEY_MAX} bytes") from None
