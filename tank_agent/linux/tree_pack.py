"""Write a file or a tree as a tar stream, in fixed memory, whatever others do to the tree meanwhile.

Every step is by descriptor, and follows no link. What is no regular file, directory or link is never opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from tank_agent.linux.kernel_files import KernelFiles
from tank_agent.linux.paths import Closing, Ignoring
from tank_agent.linux.tar_stream import (
    DIRECTORY,
    END,
    FILE,
    HARD_LINK,
    LINK,
    CopyError,
    TarEntry,
    header,
    padding,
    shown,
)

# Each level takes two descriptors.
DEEPEST = 400
_PIECE = 1 << 18
_MOST_LINKED = 100_000
# An entry that went away, or became another, since its directory was read.
_VANISHED = (errno.ENOENT, errno.ESTALE)
_NOTED = 20


class Notes:
    """Says what was left out, up to a number of lines, since others decide how much that is."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._count = 0

    def add(self, text: str) -> None:
        """Say it, or count it."""
        self._count += 1
        if self._count <= _NOTED:
            self._say(text)

    def finish(self) -> None:
        """Say how many were only counted."""
        if self._count > _NOTED:
            self._say(f"and {self._count - _NOTED} more like that")


class _Level(NamedTuple):
    names: Iterator[os.DirEntry[str]]
    directory: int
    path: bytes
    stack: ExitStack


class Packer:
    """Writes one archive.

    Args:
        write: takes the archive's bytes.
        descriptors: our own /proc/self/fd, open; through it a descriptor is opened again for reading.
        kernel: what is refused of the kernel's own file systems.

    Attributes:
        files: how many entries were written; `size` is how many bytes of content.
    """

    def __init__(
        self, write: Callable[[bytes], object], descriptors: int, notes: Notes, kernel: KernelFiles
    ) -> None:
        self._write = write
        self._descriptors = descriptors
        self._notes = notes
        self._kernel = kernel
        self._linked: dict[tuple[int, int], bytes] = {}
        self.files = self.size = 0

    def pack(self, top: int, path: bytes) -> None:
        """Write the archive of an open file (O_PATH) and all below it, under the name `path`.

        Raises:
            CopyError: it is a device or the like, or too deep.
            OSError: a file can't be read, or the archive not written.
        """
        kind = os.fstat(top).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISLNK(kind)):
            raise CopyError(f"{shown(path)} is {_what(kind)}, which can't be copied")
        self._kernel.check(top, shown(path))
        levels: list[_Level] = []
        try:
            self._one(top, path, levels)
            while levels:
                level = levels[-1]
                found = next(level.names, None)
                if found is None:
                    levels.pop().stack.close()
                    continue
                name = os.fsencode(found.name)
                self._below(level, name, level.path + b"/" + name, levels)
        finally:
            while levels:
                levels.pop().stack.close()
        self._write(END)
        self._notes.finish()

    def _below(self, level: _Level, name: bytes, path: bytes, levels: list[_Level]) -> None:
        with (
            Ignoring(*_VANISHED),
            Closing(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=level.directory)) as found,
        ):
            if self._kernel.covers(found):
                self._notes.add(f"left out: {shown(path)} is in a file system of the kernel's own")
                return
            try:
                self._one(found, path, levels)
            except PermissionError:
                raise CopyError(f"{shown(path)} may not be read") from None

    def _one(self, opened: int, path: bytes, levels: list[_Level]) -> None:
        status = os.fstat(opened)
        mode = status.st_mode
        entry = TarEntry(
            path, FILE, stat.S_IMODE(mode), status.st_uid, status.st_gid, mtime=status.st_mtime_ns
        )
        if stat.S_ISDIR(mode):
            self._put(entry._replace(kind=DIRECTORY))
            self._enter(opened, path, levels)
        elif stat.S_ISLNK(mode):
            self._put(entry._replace(kind=LINK, target=os.readlink(b"", dir_fd=opened)))
        elif not stat.S_ISREG(mode):
            self._notes.add(f"left out: {shown(path)} is {_what(mode)}")
        elif (first := self._first_name(status, path)) is not None:
            self._put(entry._replace(kind=HARD_LINK, target=first))
        else:
            self._file(opened, entry, status.st_size)

    def _put(self, entry: TarEntry) -> None:
        self._write(header(entry))
        self.files += 1

    def _enter(self, opened: int, path: bytes, levels: list[_Level]) -> None:
        if len(levels) >= DEEPEST:
            raise CopyError(f"{shown(path)} is deeper than {DEEPEST} directories")
        with ExitStack() as stack:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            directory = stack.enter_context(Closing(os.open(".", flags, dir_fd=opened)))
            names = stack.enter_context(os.scandir(directory))
            levels.append(_Level(names, directory, path, stack.pop_all()))

    def _first_name(self, status: os.stat_result, path: bytes) -> bytes | None:
        """Return the name under which a file with several is in the archive already."""
        if status.st_nlink < 2:
            return None
        known = (status.st_dev, status.st_ino)
        if known not in self._linked and len(self._linked) < _MOST_LINKED:
            self._linked[known] = path
            return None
        return self._linked.get(known)

    def _file(self, opened: int, entry: TarEntry, size: int) -> None:
        # The descriptor is of a regular file already: nothing that blocks is opened here.
        flags = os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC
        with Closing(os.open(str(opened), flags, dir_fd=self._descriptors)) as reading:
            self._put(entry._replace(size=size))
            left = size
            while left and (piece := _piece(reading, left, entry.path)):
                self._write(piece)
                left -= len(piece)
        if left:
            self._notes.add(f"{shown(entry.path)} became shorter while it was copied; the rest is zeros")
        while left:
            self._write(bytes(min(left, _PIECE)))
            left -= min(left, _PIECE)
        self._write(padding(size))
        self.size += size


def _piece(reading: int, left: int, path: bytes) -> bytes:
    try:
        return os.read(reading, min(left, _PIECE))
    except OSError as error:
        # Whatever the number, it has not vanished: its header is written, and without all of its content the
        # content of others, which a container chooses, would be read as headers.
        raise CopyError(f"{shown(path)} can't be read: {os.strerror(error.errno or 0)}") from error


def _what(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
