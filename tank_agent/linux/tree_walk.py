"""Walk through directory trees that somebody else filled: of any depth, through descriptors only.

No link is followed, no device or fifo opened, no mount entered, and a tree that changes meanwhile leads
nowhere else.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from tank_agent.errors import Retry
from tank_agent.linux.paths import RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, Closing, Ignoring, open_at

# Two descriptors are open for each level.
_LEVELS = 32
RESOLVE = RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC


class WalkCancelledError(Retry):
    """Nobody wants the copy any more."""

    reason = "cancelled"


class TreeSize(Struct, frozen=True, kw_only=True):
    """The bytes that a tree takes on its disk, and the number of its files and directories."""

    size: int = 0
    entries: int = 0


class Level(Struct, kw_only=True):
    """A directory of a walk; `source` is -1 while it is closed.

    `target` is its copy, which has the device and inode `made`; -1 if it is closed or there is none.
    """

    name: str
    source: int
    status: os.stat_result
    target: int = -1
    made: tuple[int, int] = (0, 0)
    waiting: list[str] = msgspec.field(default_factory=list)

    def close(self) -> None:
        """Close it, as long as the walk is far below it."""
        for descriptor in (self.source, self.target):
            if descriptor >= 0:
                os.close(descriptor)
        self.source = self.target = -1


class Walk:
    """Visit a tree depth first, with at most `_LEVELS` directories open."""

    def __init__(self, top: Path, cancelled: Callable[[], bool]) -> None:
        self.top, self.cancelled = top, cancelled
        self.levels: list[Level] = []

    def run(self, root: int) -> None:
        """Visit all below an open directory, which stays open.

        Raises:
            OSError: with the path of the first entry at which it failed.
            WalkCancelledError: it is not wanted any more.
        """
        source = os.open(".", DIRECTORY, dir_fd=root)
        try:
            self._enter("", source)
            while self.levels:
                level = self.levels[-1]
                if level.waiting:
                    self._descend(level, level.waiting.pop())
                else:
                    self._ascend(level)
        finally:
            for level in self.levels:
                level.close()

    def opened(self, level: Level) -> None:
        """Prepare for a directory's entries."""

    def visit(self, level: Level, name: str) -> None:
        """Handle an entry that is no directory."""

    def mount_point(self, level: Level, name: str) -> None:
        """Handle a directory at which something is mounted."""

    def left(self, level: Level) -> None:
        """Handle a directory after all its entries."""

    def _enter(self, name: str, source: int) -> None:
        level = Level(name=name, source=source, status=os.fstat(source))
        self.levels.append(level)
        try:
            self.opened(level)
        except OSError as error:
            raise self._named(error, level) from error
        with os.scandir(level.source) as entries:
            for entry in entries:
                if self.cancelled():
                    raise WalkCancelledError("it was cancelled")
                if entry.is_dir(follow_symlinks=False):
                    level.waiting.append(entry.name)
                    continue
                try:
                    self.visit(level, entry.name)
                except OSError as error:
                    raise self._named(error, level, entry.name) from error

    def _descend(self, level: Level, name: str) -> None:
        try:
            source = open_at(level.source, name, DIRECTORY, resolve=RESOLVE)
        except OSError as error:
            if error.errno == errno.EXDEV:
                self.mount_point(level, name)
            elif error.errno != errno.ENOENT:
                raise self._named(error, level, name) from error
            return
        if len(self.levels) >= _LEVELS:
            self.levels[-_LEVELS].close()
        self._enter(name, source)

    def _ascend(self, level: Level) -> None:
        try:
            self.left(level)
            if len(self.levels) > 1 and self.levels[-2].source < 0:
                self._open_again(self.levels[-2], level)
        except OSError as error:
            raise self._named(error, level) from error
        self.levels.pop().close()

    def _open_again(self, parent: Level, child: Level) -> None:
        """Open a directory that was closed on the way down, from the one below it."""
        parent.source = os.open("..", DIRECTORY, dir_fd=child.source)
        known, found = parent.status, os.fstat(parent.source)
        if (known.st_dev, known.st_ino) != (found.st_dev, found.st_ino):
            raise OSError(errno.ESTALE, "a program moved the directory meanwhile")
        if child.target >= 0:
            parent.target = os.open("..", DIRECTORY, dir_fd=child.target)
            if identity(parent.target) != parent.made:
                raise OSError(errno.ESTALE, "a program moved the copy meanwhile")

    def _named(self, error: OSError, level: Level, *more: str) -> OSError:
        above = (one.name for one in self.levels[1:] if one is not level)
        names = (*above, *((level.name,) if level.name else ()), *more)
        return OSError(error.errno, error.strerror, str(self.top.joinpath(*names)))


class _Measurement(Walk):
    def __init__(self, top: Path, cancelled: Callable[[], bool]) -> None:
        super().__init__(top, cancelled)
        self.size = self.entries = 0

    def opened(self, level: Level) -> None:
        self._count(level.status)

    def visit(self, level: Level, name: str) -> None:
        with Ignoring(errno.ENOENT):
            self._count(os.stat(name, dir_fd=level.source, follow_symlinks=False))

    def _count(self, status: os.stat_result) -> None:
        self.entries += 1
        # Each name of a file with several counts its part.
        names = status.st_nlink if stat.S_ISREG(status.st_mode) else 1
        self.size += status.st_blocks * 512 // max(1, names)


def measure_tree(
    path: Path, *, deadline: float = math.inf, cancelled: Callable[[], bool] = lambda: False
) -> TreeSize | None:
    """Return the size of a tree; None if that takes until `deadline`, a time of the monotonic clock."""
    late = False

    def over() -> bool:
        nonlocal late
        late = late or time.monotonic() >= deadline
        return late or cancelled()

    with Closing(os.open(path, DIRECTORY)) as root:
        try:
            return measure_opened(root, path, cancelled=over)
        except WalkCancelledError:
            if late:
                return None
            raise


def measure_opened(root: int, shown: Path, *, cancelled: Callable[[], bool]) -> TreeSize:
    """Return the size of an open directory; `shown` is its path in errors."""
    walk = _Measurement(shown, cancelled)
    walk.run(root)
    return TreeSize(size=walk.size, entries=walk.entries)


def identity(descriptor: int) -> tuple[int, int]:
    """Return the device and inode of what is open."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
