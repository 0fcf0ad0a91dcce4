"""Read the files that a compose project names: regular ones of a bounded size, and no others."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterable
from pathlib import Path

from tank_agent.convert.model import InvalidSource, SourcePlace
from tank_agent.linux.paths import Closing, NotReadableError, read_all, read_regular
from tank_agent.spec.findings import printable

SIZE_MAX = 1 << 20
# As compose looks for them; each is followed by the first of the others that is there.
NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def read_file(path: str, place: SourcePlace, *, limit: int = SIZE_MAX) -> bytes:
    """Return the content of a file that `place` names.

    Raises:
        InvalidSource: it is not there, may not be read, is no regular file, or has more than `limit` bytes.
    """
    # The place of a file that the user named is the file.
    name = f'"{printable(path)}" ' if place.line else ""
    try:
        # Opening a device could have effects, and a fifo would wait for a writer.
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise InvalidSource(place, f"{name}is {kind}; name a file")
        with Closing(os.open(path, _READ)) as descriptor:
            return read_regular(descriptor, limit=limit, name=name.strip() or "it")
    except NotReadableError as error:
        raise InvalidSource(place, f"{error}; name another file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidSource(place, f"{name}can't be read: {reason}") from None


def first_of(directory: str, names: Iterable[str]) -> str | None:
    """Return the path of the first of the names that is in the directory."""
    paths = (posixpath.join(directory, name) for name in names)
    return next((path for path in paths if posixpath.lexists(path)), None)


def read_start(path: str, most: int) -> bytes:
    """Return the content of a regular file; one byte more than `most` tells that it has more.

    Raises:
        OSError: it can't be read, or is no regular file.
    """
    try:
        status = Path(path).stat()
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), path) from None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", path)
    with Closing(os.open(path, _READ)) as descriptor:
        return read_all(descriptor, most) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def dot_env(directory: str) -> str | None:
    """Return the path of a directory's file of variables, if it has one."""
    path = posixpath.join(directory, ".env")
    return path if Path(path).is_file() else None


def default_files(directory: str, place: SourcePlace) -> list[str]:
    """Return the compose file of a directory and its override file, as compose finds them.

    Raises:
        InvalidSource: there is none.
    """
    found = first_of(directory, NAMES)
    if found is None:
        raise InvalidSource(place, f"there is no {' or '.join(NAMES[:2])} here; name the compose file")
    override = first_of(directory, OVERRIDES)
    return [found] if override is None else [found, override]
