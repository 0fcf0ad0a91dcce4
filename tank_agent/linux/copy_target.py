"""The place that a copy goes to: the rules of `docker cp` as a pure function, and how the place is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from tank_agent.linux.paths import Closing
from tank_agent.linux.tar_stream import CopyError, shown

MISSING, A_FILE, A_DIRECTORY = "missing", "file", "directory"


class CopyTarget(NamedTuple):
    """An open target: `anchor` is the target's own directory, or the one that has or gets `name`.

    `named_as_directory`: it was written with a slash at its end.
    """

    found: str
    anchor: int
    name: bytes
    shown: str
    named_as_directory: bool = False


def is_contents(path: str) -> bool:
    """Return whether a path names what is in a directory and not the directory: `/.` at its end."""
    return path == "." or path.endswith("/.")


def split_source(path: str) -> tuple[str, bytes, bool]:
    """Return a source's path from `/` on, the name of its copy, and whether only what is in it is meant."""
    whole = os.path.normpath("/" + path).replace("//", "/")
    contents = is_contents(path) or whole == "/"
    return whole, b"." if contents else os.fsencode(whole.rpartition("/")[2]), contents


def open_target(path: str, real: Callable[[str], str], open_: Callable[[str, int], int]) -> CopyTarget:
    """Open the place that a path names; the descriptor is the caller's to close.

    Args:
        real: returns where an absolute path leads through links, whether that exists or not.
        open_: opens an absolute path without following a link at its end.

    Raises:
        CopyError: the directory that would have it is not there.
    """
    slash = path.endswith("/") or is_contents(path)
    place = real(path)
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        opened = open_(place, flags)
    except FileNotFoundError:
        found = MISSING
    else:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            return CopyTarget(A_DIRECTORY, opened, b"", path, slash)
        os.close(opened)
        found = A_FILE
    above, _, name = place.rpartition("/")
    try:
        anchor = open_(above or "/", flags | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        hint = "make it first: nothing is copied to a directory that is not there"
        raise CopyError(f"there is no directory {shown(os.fsencode(above))}", hint) from None
    return CopyTarget(found, anchor, os.fsencode(name), path, slash)


def names_for(target: CopyTarget, base: bytes, *, directory: bool, contents: bool) -> tuple[bytes, ...]:
    """Return under which names, below the anchor, a source called `base` is stored.

    Args:
        directory: the source is one.
        contents: only what is in it is copied.

    Raises:
        CopyError: it can't be stored there.
    """
    if target.found == A_DIRECTORY:
        return () if contents and directory else (base,)
    if target.found == A_FILE and directory:
        raise CopyError(f"{target.shown} is a file, and a directory can't be copied to it")
    if target.found == A_FILE and target.named_as_directory:
        raise CopyError(f"{target.shown} is a file and no directory")
    if not directory and target.named_as_directory:
        hint = "make the directory first, or leave the slash out to give the file that name"
        raise CopyError(f"there is no directory {target.shown}", hint)
    return (target.name,)


def own_descriptors() -> Closing:
    """Open the directory through which this process opens its descriptors again."""
    return Closing(os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
