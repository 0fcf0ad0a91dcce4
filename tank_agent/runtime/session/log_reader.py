"""The output of containers, read from the files that conmon writes (its `k8s-file` form), across rotation.

A line is `TIME STREAM TAG CONTENT`; the tag is F, or P for a line that conmon cut because the program wrote
more than 8 KiB, or did not end it yet. The newest file is `<container>.log`, older ones are `.log.1`,
`.log.2` and so on.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from tank_agent.linux.paths import Closing

_CHUNK = 1 << 20
_BLOCK = 64 << 10
# Longer lines are handed on in pieces, so that a program that never ends its line fits into memory, too.
_MOST_JOINED = 256 << 10
_WHOLE_LINE = re.compile(rb"^\S+ std(?:out|err) F", re.MULTILINE)
_STREAMS = frozenset((b"stdout", b"stderr"))
_LISTINGS = 100
# How much larger a file is than what was printed, where lines are short.
_SHARE = 16


class LogEntry(Struct, frozen=True):
    """One line of output: `time` is RFC 3339 in UTC with nanoseconds; not `whole` if the line goes on."""

    time: bytes
    stream: bytes
    whole: bool
    content: bytes


class LogReader:
    """Reads a container's output, oldest first, and goes on where it stopped when there is more.

    The lines that were there when it was made are its history, which ends however fast the container writes.

    Args:
        path: the newest file; it need not exist yet.
        tail: begin with the last so many lines; None is all of them.
        since: leave out what was printed before that moment, in the form of `LogEntry.time`.
    """

    def __init__(self, path: Path, *, tail: int | None = None, since: bytes = b"") -> None:
        self._path = path
        self._since = since
        self._file: int | None = None
        self._rest = b""
        self._cut: dict[bytes, list[LogEntry]] = {}
        self._tail = tail
        if tail is not None:
            self._begin_at_tail(tail)
        # Read last, so that it is never before the place where reading begins.
        self._end = self._newest()

    def history(self) -> Iterator[list[LogEntry]]:
        """Yield the lines that were there when the reader was made, and empty lists after which to stop."""
        tail, self._tail = self._tail, None
        kept: deque[LogEntry] = deque(maxlen=tail)
        while self._end is not None and (data := self._chunk(self._end)):
            entries = self._parse(data)
            if tail is not None:
                kept.extend(entries)
                entries = []
            yield entries
        yield list(kept)

    def read(self) -> list[LogEntry]:
        """Return the next lines, about a megabyte at most; none when everything was read for now."""
        history = self.history() if self._tail is not None else ()
        entries = [entry for found in history for entry in found]
        while not entries and (data := self._chunk()):
            entries = self._parse(data)
        return entries

    def rest(self) -> list[LogEntry]:
        """Return the beginnings of lines that have no end yet; they are not returned again."""
        return [self._join(stream, whole=False) for stream in list(self._cut)]

    def close(self) -> None:
        """Close the file; a closed reader is not used again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _chunk(self, end: tuple[int, int] | None = None) -> bytes:
        """Return the next bytes, also of the next file; none when all was read for now.

        `end` is an inode, and where in that file to stop; None reads all.
        """
        while self._file is not None or self._open_next(None):
            assert self._file is not None
            inode = os.fstat(self._file).st_ino
            if data := os.read(self._file, _CHUNK if end is None else self._most_before(end, inode)):
                return data
            following = self._following(inode, end)
            if following is None:
                break
            # Its successor is there, so nothing more is written to it; its last lines are read first.
            if data := os.read(self._file, _CHUNK):
                return data
            if not self._open_next(following):
                break
        return b""

    def _most_before(self, end: tuple[int, int], inode: int) -> int:
        """Return how many bytes may be read from the open file, which has that inode."""
        assert self._file is not None
        position = os.lseek(self._file, 0, os.SEEK_CUR)
        if inode == end[0]:
            return max(0, min(_CHUNK, end[1] - position))
        # Once the file of `end` is gone, a file of which nothing was read is newer.
        newer = position == 0 and end[0] not in (number for _, number in self._files())
        return 0 if newer else _CHUNK

    def _parse(self, data: bytes) -> list[LogEntry]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _CHUNK:
            self._rest = b""
        entries = []
        for line in lines:
            parts = line.split(b" ", 3)
            # Leave out lines that a power cut tore.
            if len(parts) < 4 or parts[1] not in _STREAMS or parts[0] < self._since:
                continue
            entry = LogEntry(parts[0], parts[1], parts[2] == b"F", parts[3])
            if entry.whole and entry.stream not in self._cut:
                entries.append(entry)
                continue
            pieces = self._cut.setdefault(entry.stream, [])
            pieces.append(entry)
            if entry.whole or sum(len(piece.content) for piece in pieces) > _MOST_JOINED:
                entries.append(self._join(entry.stream, whole=entry.whole))
        return entries

    def _join(self, stream: bytes, *, whole: bool) -> LogEntry:
        pieces = self._cut.pop(stream)
        return LogEntry(pieces[0].time, stream, whole, b"".join(piece.content for piece in pieces))

    def _open_next(self, inode: int | None) -> bool:
        """Open the file with that inode, or the oldest there is; False if it is gone."""
        for path, number in self._files():
            if inode in (None, number) and (opened := _open(path)) is not None:
                self.close()
                self._file, self._rest = opened, b""
                return True
        return False

    def _following(self, inode: int, end: tuple[int, int] | None) -> int | None:
        """Return the inode of the next file, or of the oldest if this one is gone; None at `end`."""
        inodes = [number for _, number in self._files()]
        if end is not None and (inode == end[0] or end[0] not in inodes):
            return None
        after = inodes[inodes.index(inode) + 1 :] if inode in inodes else inodes
        return after[0] if after else None

    def _files(self) -> list[tuple[Path, int]]:
        """Return the files and their inodes, oldest first; listed until no rotation came in between."""
        before = None
        for _ in range(_LISTINGS):
            found = log_files(self._path)
            if found == before:
                break
            before = found
        return found

    def _newest(self) -> tuple[int, int] | None:
        """Return the inode and the size of the newest file; None if there is none yet."""
        for path, _ in reversed(self._files()):
            if (opened := _open(path)) is not None:
                with Closing(opened):
                    status = os.fstat(opened)
                return status.st_ino, status.st_size
        return None

    def _begin_at_tail(self, tail: int) -> None:
        """Move to where at least the last lines are still to be read."""
        counted, begin = 0, 0
        for path, _ in reversed(self._files()):
            if (opened := _open(path)) is None:
                break
            self.close()
            self._file = opened
            # One more than asked for, since a line's pieces come before its end.
            begin, found = _offset_of_last(opened, tail + 1 - counted)
            counted += found
            if counted > tail:
                break
        if self._file is not None:
            os.lseek(self._file, begin, os.SEEK_SET)


def log_files(path: Path) -> list[tuple[Path, int]]:
    """Return a log's files that exist, oldest first, each with its inode."""
    prefix = f"{path.name}."
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.name.startswith(prefix)]
    except FileNotFoundError:
        return []
    numbers = sorted((int(n.removeprefix(prefix)) for n in names if n[len(prefix) :].isdigit()), reverse=True)
    found = []
    for candidate in (*(path.with_name(f"{prefix}{number}") for number in numbers), path):
        with suppress(FileNotFoundError):
            found.append((candidate, candidate.stat(follow_symlinks=False).st_ino))
    return found


def last_bytes(path: Path, size: int) -> bytes:
    """Return about the last `size` bytes that a container with a terminal printed."""
    printed = b""
    # The last lines of a terminal that is quiet since the last rotation are in the file before.
    for file, _ in reversed(log_files(path)):
        found, whole = _printed(file, _SHARE * size)
        printed = found + printed
        if len(printed) >= size or not whole:
            break
    return printed[-size:]


def _printed(file: Path, most: int) -> tuple[bytes, bool]:
    """Return what was printed in the last bytes of a file, and whether that is all of it."""
    if (opened := _open(file)) is None:
        return b"", True
    with Closing(opened):
        begin = max(0, os.fstat(opened).st_size - most)
        data = os.pread(opened, most, begin)
    printed = []
    for line in data.split(b"\n")[:-1]:
        parts = line.split(b" ", 3)
        if len(parts) == 4 and parts[1] in _STREAMS:
            printed.append(parts[3] + (b"\n" if parts[2] == b"F" else b""))
    return b"".join(printed), begin == 0


def _open(path: Path) -> int | None:
    """Open a log file; None if it is gone, or is no regular file."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        return None
    return opened


def _offset_of_last(file: int, lines: int) -> tuple[int, int]:
    """Return where the last `lines` lines begin (0 if there are fewer), and how many were found."""
    end = os.fstat(file).st_size
    found = 0
    while end > 0:
        begin = max(0, end - _BLOCK)
        block = os.pread(file, end - begin, begin)
        if begin > 0:
            # The block begins within a line, which belongs to the next one.
            begin += block.find(b"\n") + 1
            block = block[block.find(b"\n") + 1 :]
        starts = [match.start() for match in _WHOLE_LINE.finditer(block)]
        if found + len(starts) >= lines:
            return begin + starts[-(lines - found)], lines
        found += len(starts)
        if begin >= end:
            break
        end = begin
    return 0, found
