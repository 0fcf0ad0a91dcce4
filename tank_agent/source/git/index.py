"""Take a pack as it comes, and index it within bounds. Runs in the helper only.

dulwich holds every object of a pack in memory to find its name. Here a large one is hashed as it unpacks, so
that a file that nobody needs, and that unpacks to gigabytes, costs time and no memory.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dulwich.pack import apply_delta, write_pack_index_v2
from msgspec import Struct

from tank_agent.source.git.transport import GitError

# gitformat-pack(5)
_KINDS = {1: b"commit", 2: b"tree", 3: b"blob", 4: b"tag"}
_BY_OFFSET, _BY_NAME = 6, 7
_HEADER = struct.Struct("!4sLL")
_INPUT = 64 << 10
_OUTPUT = 1 << 20
# Bytes of an object that others are given as differences to. Larger ones are no commit, tree or pod file.
_LARGEST_BASE = 64 << 20


class _Entry(Struct, frozen=True):
    """An object in a pack: where it begins, where its data begins, and how it is kept."""

    at: int
    data: int
    kind: int
    size: int
    crc: int
    base: int | bytes | None


def open_pack(directory: Path) -> tuple[IO[bytes], Callable[[], None], Callable[[], None]]:
    """Return a file for a pack, and what keeps or drops it, as dulwich's `add_pack` does."""
    file = tempfile.NamedTemporaryFile(dir=directory, prefix="tmp_", delete=False)  # noqa: SIM115

    def commit() -> None:
        file.flush()
        if os.fstat(file.fileno()).st_size == 0:
            abort()
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            name, entries = _index(data)
        with (directory / f"pack-{name.hex()}.idx").open("wb") as index:
            write_pack_index_v2(index, entries, name)
        Path(file.name).rename(directory / f"pack-{name.hex()}.pack")
        file.close()

    def abort() -> None:
        file.close()
        Path(file.name).unlink(missing_ok=True)

    return file, commit, abort


def _index(data: mmap.mmap) -> tuple[bytes, list[tuple[bytes, int, int]]]:
    """Return a pack's checksum, and (name, offset, CRC) of its objects by name.

    Raises:
        GitError: it is damaged, or lacks what its objects stand on.
    """
    try:
        entries, names = _scan(data)
        _resolve(data, entries, names)
    except (ValueError, IndexError, struct.error, zlib.error) as error:
        raise GitError("broken", f"the server sent a damaged pack: {error}") from error
    # An index has as many entries as its pack. What stands on an object that is too large gets a name that
    # none has.
    named = [
        (
            names.get(entry.at) or hashlib.sha1(b"%d" % entry.at, usedforsecurity=False).digest(),
            entry.at,
            entry.crc,
        )
        for entry in entries
    ]
    return data[-20:], sorted(named)


def _scan(data: mmap.mmap) -> tuple[list[_Entry], dict[int, bytes]]:
    """Return all objects, and the names of those that are whole."""
    magic, version, count = _HEADER.unpack(data[: _HEADER.size])
    if magic != b"PACK" or version not in (2, 3):
        raise ValueError("it is none")
    checksum = hashlib.sha1(usedforsecurity=False)
    for at in range(0, len(data) - 20, _OUTPUT):
        checksum.update(data[at : min(at + _OUTPUT, len(data) - 20)])
    if checksum.digest() != data[-20:]:
        raise ValueError("its checksum is wrong")
    entries: list[_Entry] = []
    names: dict[int, bytes] = {}
    at = _HEADER.size
    for _ in range(count):
        begin = at
        kind, size, at = _kind_and_size(data, at)
        base: int | bytes | None = None
        if kind == _BY_OFFSET:
            distance, at = _distance(data, at)
            base = begin - distance
        elif kind == _BY_NAME:
            base = data[at : at + 20]
            at += 20
        start = at
        digest = hashlib.sha1(usedforsecurity=False)
        if kind in _KINDS:
            digest.update(b"%s %d\0" % (_KINDS[kind], size))
        elif base is None:
            raise ValueError(f"object of kind {kind}")
        at = _inflate(data, at, size, digest.update)
        if kind in _KINDS:
            names[begin] = digest.digest()
        crc = 0
        for part in range(begin, at, _OUTPUT):
            crc = zlib.crc32(data[part : min(part + _OUTPUT, at)], crc)
        entries.append(_Entry(begin, start, kind, size, crc, base))
    return entries, names


def _resolve(data: mmap.mmap, entries: list[_Entry], names: dict[int, bytes]) -> None:
    """Name the objects that are kept as differences to others, base first; without recursion."""
    children: dict[int | bytes, list[_Entry]] = {}
    for entry in entries:
        if entry.base is not None:
            children.setdefault(entry.base, []).append(entry)
    if not children:
        return
    for root in entries:
        if root.base is not None or root.size > _LARGEST_BASE:
            continue
        below = children.get(root.at, []) + children.get(names[root.at], [])
        if not below:
            continue
        kind = _KINDS[root.kind]
        pending = [(entry, _whole(data, root)) for entry in below]
        while pending:
            entry, base = pending.pop()
            delta = _whole(data, entry) if entry.size <= _LARGEST_BASE else b""
            if not delta or _target_size(delta) > _LARGEST_BASE:
                continue
            content = b"".join(apply_delta(base, delta))
            digest = hashlib.sha1(b"%s %d\0" % (kind, len(content)), usedforsecurity=False)
            digest.update(content)
            names[entry.at] = digest.digest()
            below = children.get(entry.at, []) + children.get(names[entry.at], [])
            pending += [(child, content) for child in below]


def _whole(data: mmap.mmap, entry: _Entry) -> bytes:
    parts: list[bytes] = []
    _inflate(data, entry.data, entry.size, parts.append)
    return b"".join(parts)


def _inflate(data: mmap.mmap, at: int, size: int, take: Callable[[bytes], object]) -> int:
    """Unpack in small parts, and return where the compressed data ends."""
    engine = zlib.decompressobj()
    done = 0
    while not engine.eof:
        part = data[at : at + min(_INPUT, size - done + 128)]
        found = engine.decompress(part, _OUTPUT)
        used = len(part) - len(engine.unconsumed_tail) - len(engine.unused_data)
        at += used
        done += len(found)
        if done > size or not (used or found):
            raise ValueError("an object is not as long as it says")
        take(found)
    if done != size:
        raise ValueError("an object is not as long as it says")
    return at


def _kind_and_size(data: mmap.mmap, at: int) -> tuple[int, int, int]:
    byte = data[at]
    at += 1
    kind, size, shift = (byte >> 4) & 7, byte & 15, 4
    while byte & 0x80:
        byte = data[at]
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
    return kind, size, at


def _distance(data: mmap.mmap, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    distance = byte & 0x7F
    while byte & 0x80:
        byte = data[at]
        at += 1
        distance = ((distance + 1) << 7) | (byte & 0x7F)
    return distance, at


def _target_size(delta: bytes) -> int:
    at = 0
    size = 0
    for _ in range(2):
        size, shift = 0, 0
        while True:
            byte = delta[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
    return size
