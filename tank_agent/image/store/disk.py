"""Small files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from tank_agent.linux import trees
from tank_agent.linux.libc import call

_Kind = TypeVar("_Kind", bound=Struct)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file; when this returns, the new content survives a power cut.

    Raises:
        OSError: nothing has changed.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Write out everything of the file system that holds `path` (syncfs(2)); this can take long."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        call("syncfs", descriptor, path=path)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> bool:
    """Remove a tree, without following links; return whether nothing is left of it."""
    with contextlib.suppress(OSError):
        trees.remove_tree(path)
    return not path.exists()


def read_record(path: Path, kind: type[_Kind]) -> _Kind | None:
    """Read one of our own files; None if it is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
