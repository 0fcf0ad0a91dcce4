"""Looks at the machine that a resync of a thousand pods can afford."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tank_agent.linux.clock import Clock

T = TypeVar("T")
# Seconds: shorter than the time between two resyncs, longer than one takes.
_FRESH = 1.0


def recent(clock: Clock, read: Callable[[], T]) -> Callable[[], T]:
    """Return a function that reads a fact of the host at most once a second: a resync asks for each pod."""
    last: tuple[float, T] | None = None

    def recent() -> T:
        nonlocal last
        now, known = clock.monotonic(), last
        if known is None or not known[0] <= now < known[0] + _FRESH:
            known = last = (now, read())
        return known[1]

    return recent


def signature(path: str) -> tuple[int, ...] | None:
    """Return inode, device, size and ctime of a file, which show any change; None if there is no file."""
    try:
        # No Path: a thousand pods have three files each.
        status = os.stat(path, follow_symlinks=False)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_dev, status.st_size, status.st_ctime_ns


def namespace_of(pid: int) -> int | None:
    """Return the inode number that names a process's network namespace; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except (FileNotFoundError, ProcessLookupError):
        return None
