"""Put objects into our copy within bounds, from a pack or a repository on this machine; for the helper only.

dulwich holds every object of a pack in memory to compute its name. Here a large one is hashed as it unpacks,
so that an unneeded file that unpacks to gigabytes costs time and no memory. A fetch from this machine needs
no pack as in dulwich: both stores can be read, and every object in the target has all that it refers to.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import shutil
import stat
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from dulwich.objects import Commit, ShaFile, Tag, Tree
from dulwich.pack import apply_delta, write_pack_index_v2
from msgspec import Struct

from tank_agent.source.git.access import GitError

# gitformat-pack(5)
_KINDS = {1: b"commit", 2: b"tree", 3: b"blob", 4: b"tag"}
_BY_OFFSET, _BY_NAME = 6, 7
_HEADER = struct.Struct("!4sLL")
_INPUT = 64 << 10
_OUTPUT = 1 << 20
# The most bytes of an object that others are stored as differences to: no commit, tree or pod file is larger.
_LARGEST_BASE = 64 << 20


class _Entry(Struct, frozen=True):
    """An object in a pack: its offset, the offset of its data, and how it is stored."""

    at: int
    data: int
    kind: int
    size: int
    crc: int
    base: int | bytes | None


def open_pack(directory: Path) -> tuple[IO[bytes], Callable[[], None], Callable[[], None]]:
    """Return a file for a pack, and the functions that keep or drop it, as dulwich's `add_pack` does."""
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
    """Return a pack's checksum, and (name, offset, CRC) of its objects by name; GitError if it is damaged."""
    try:
        entries, names = _scan(data)
        _resolve(data, entries, names)
    except (ValueError, IndexError, struct.error, zlib.error) as error:
        raise GitError("broken", f"the server sent a damaged pack: {error}") from error
    # An index has as many entries as its pack. A difference to an object that is too large gets a name that
    # no object has.
    found = ((names.get(entry.at) or _sha1(b"%d" % entry.at).digest(), entry) for entry in entries)
    return data[-20:], sorted((name, entry.at, entry.crc) for name, entry in found)


def _sha1(data: bytes | memoryview = b"") -> hashlib._Hash:
    return hashlib.sha1(data, usedforsecurity=False)


def _scan(data: mmap.mmap) -> tuple[list[_Entry], dict[int, bytes]]:
    """Return all objects, and the names of those that are stored whole."""
    magic, version, count = _HEADER.unpack(data[: _HEADER.size])
    if magic != b"PACK" or version not in (2, 3):
        raise ValueError("it is none")
    if _sha1(memoryview(data)[:-20]).digest() != data[-20:]:
        raise ValueError("its checksum is wrong")
    entries: list[_Entry] = []
    names: dict[int, bytes] = {}
    at = _HEADER.size
    for _ in range(count):
        begin = at
        kind, size, more = data[at] >> 4 & 7, data[at] & 15, data[at] & 0x80
        at += 1
        if more:
            size, at = _number(data, at, size, 4)
        base: int | bytes | None = None
        if kind == _BY_OFFSET:
            distance, at = _distance(data, at)
            base = begin - distance
        elif kind == _BY_NAME:
            base = data[at : at + 20]
            at += 20
        start = at
        digest = _sha1()
        if kind in _KINDS:
            digest.update(b"%s %d\0" % (_KINDS[kind], size))
        elif base is None:
            raise ValueError(f"object of kind {kind}")
        at = _inflate(data, at, size, digest.update)
        if kind in _KINDS:
            names[begin] = digest.digest()
        crc = zlib.crc32(memoryview(data)[begin:at])
        entries.append(_Entry(begin, start, kind, size, crc, base))
    return entries, names


def _resolve(data: mmap.mmap, entries: list[_Entry], names: dict[int, bytes]) -> None:
    """Name the objects that are stored as differences to others, the base first; without recursion."""
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
            digest = _sha1(b"%s %d\0" % (kind, len(content)))
            digest.update(content)
            names[entry.at] = digest.digest()
            below = children.get(entry.at, []) + children.get(names[entry.at], [])
            pending += [(child, content) for child in below]


def _whole(data: mmap.mmap, entry: _Entry) -> bytes:
    parts: list[bytes] = []
    _inflate(data, entry.data, entry.size, parts.append)
    return b"".join(parts)


def _inflate(data: mmap.mmap, at: int, size: int, take: Callable[[bytes], object]) -> int:
    """Unpack in small parts, and return the offset behind the compressed data."""
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


def _number(data: mmap.mmap | bytes, at: int, value: int = 0, shift: int = 0) -> tuple[int, int]:
    """Return a number that is stored as seven bits a byte, lowest first, and the offset behind it."""
    more = 0x80
    while more:
        value |= (data[at] & 0x7F) << shift
        more = data[at] & 0x80
        shift += 7
        at += 1
    return value, at


def _distance(data: mmap.mmap, at: int) -> tuple[int, int]:
    """Return the distance to the base of a difference, highest bits first, and the offset behind it."""
    distance, more = -1, 0x80
    while more:
        distance = (distance + 1) << 7 | (data[at] & 0x7F)
        more = data[at] & 0x80
        at += 1
    return distance, at


def _target_size(delta: bytes) -> int:
    _, at = _number(delta, 0)
    return _number(delta, at)[0]


_PACK = re.compile(r"pack-[0-9a-f]{40}\.(pack|idx)")
_NOTHING = (0, b"")
# A text of TOML on one line. One with escapes names no file here: the helper finds that in the remote itself.
_QUOTED = re.compile(rb"\"([^\"\n\\]{1,1024})\"|'([^'\n]{1,1024})'")


def copy_missing(source: Any, target: Any, tip: bytes, depth: int, largest: int) -> None:
    """Copy `tip` and the objects that its pods need as one pack; depth 0 is all of the history.

    Only pod files are copied, and what they may name beside them. For each that is larger than `largest`
    bytes, `omitted` beside `shallow` gets a line with name and size, 0 if it does not fit into memory.

    Raises:
        GitError: the source lacks an object or is damaged.
    """
    store = source.object_store
    boundary = {bytes(name) for name in source.get_shallow()}
    if not depth and not boundary and _copy_all(store, target, largest):
        return
    found = _Missing(store, target.object_store, largest)
    shallow = found.collect(tip, depth, boundary)
    if found.objects:
        target.object_store.add_objects([(item, None) for item in found.objects])
    if shallow:
        target.update_shallow(shallow, None)
    _write_omitted(target, found.omitted)


def _copy_all(source: Any, target: Any, largest: int) -> bool:
    """Copy every pack as it is, and all loose objects; False, with nothing done, if either store has others.

    For a whole history this is many times as fast as selecting its objects.
    """
    store = target.object_store
    if next(iter(store), None) is not None or source.alternates:
        return False
    packs = [file for file in Path(source.pack_dir).iterdir() if file.suffix in (".pack", ".idx")]
    if not all(_PACK.fullmatch(file.name) for file in packs):
        return False
    for file in packs:
        shutil.copyfile(file, Path(store.pack_dir) / file.name)
    loose, omitted = [], {}
    for name in list(source._iter_loose_objects()):
        size = _size_of_loose_file(source, name)
        if size > largest:
            omitted[name] = size
        else:
            loose.append(_load(source, name))
    if loose:
        store.add_objects([(item, None) for item in loose])
    _write_omitted(target, omitted)
    return True


def _size_of_loose_file(source: Any, name: bytes) -> int:
    """Read the size in the head of a loose object, 0 for other kinds: the rest may unpack to gigabytes."""
    text = name.decode("ascii")
    try:
        with open(Path(os.fsdecode(source.path)) / text[:2] / text[2:], "rb") as file:
            head = zlib.decompressobj().decompress(file.read(1024), 64).partition(b"\0")[0]
    except (OSError, zlib.error):
        return 0
    return int(head[5:]) if head.startswith(b"blob ") and head[5:].isdigit() else 0


def _load(source: Any, name: bytes) -> ShaFile:
    try:
        item: ShaFile = source[name]
    except KeyError as error:
        raise GitError("not-found", f"the remote has no object {error}", "see git.commit") from error
    except MemoryError as error:
        message = f"object {name[:12].decode('ascii', 'replace')} unpacks to more memory than is allowed"
        raise GitError("too-big", message, "take it out of the history") from error
    return item


def _write_omitted(target: Any, omitted: Mapping[bytes, int]) -> None:
    if omitted:
        lines = [f"{name.decode('ascii')} {size}\n" for name, size in sorted(omitted.items())]
        (Path(os.fsdecode(target.path)) / "omitted").write_text("".join(lines), encoding="ascii")


class _Missing:
    """Finds the objects of a store that another lacks: `objects`, and `omitted` with their sizes."""

    def __init__(self, source: Any, target: Any, largest: int) -> None:
        self._source = source
        self._target = target
        self._largest = largest
        self._seen: set[bytes] = set()
        self._trees: dict[bytes, Mapping[bytes, tuple[int, bytes]]] = {}
        self.objects: list[ShaFile] = []
        self.omitted: dict[bytes, int] = {}

    def collect(self, tip: bytes, depth: int, boundary: set[bytes]) -> set[bytes]:
        """Find them, and return the commits whose parents are left out."""
        shallow: set[bytes] = set()
        while isinstance(item := _load(self._source, tip), Tag):
            self.objects.append(item)
            tip = item.object[1]
        level = [tip]
        distance = 1
        while level:
            below: list[bytes] = []
            for name in level:
                if not self._is_new(name):
                    continue
                commit = _load(self._source, name)
                if not isinstance(commit, Commit):
                    raise GitError("not-found", "the ref does not name a commit")
                self.objects.append(commit)
                self._collect_tree(commit.tree)
                if name in boundary or (depth and distance >= depth and commit.parents):
                    shallow.add(name)
                else:
                    below.extend(commit.parents)
            level = below
            distance += 1
        return shallow

    def _is_new(self, name: bytes) -> bool:
        if name in self._seen or name in self._target:
            return False
        self._seen.add(name)
        return True

    def _collect_tree(self, root: bytes) -> None:
        pending = [root]
        while pending:
            name = pending.pop()
            if not self._is_new(name):
                continue
            tree = _load(self._source, name)
            self.objects.append(tree)
            entries = _entries(tree)
            pod_files = []
            for path, mode, entry in entries:
                if stat.S_ISDIR(mode):
                    pending.append(entry)
                elif stat.S_ISREG(mode) and path.endswith(b".toml"):
                    pod_files.append(entry)
                    if self._is_new(entry):
                        self._collect_file(entry)
            if len(pod_files) < len(entries):
                for entry in pod_files:
                    self._collect_beside(entry, entries)

    def _collect_beside(self, pod_file: bytes, entries: list[tuple[bytes, int, bytes]]) -> None:
        """Collect the files that a pod file may name: all whose path from its directory it has as a text.

        It is no parser of TOML that looks here, since the agent's own would take long to load.
        """
        try:
            item = self._source[pod_file]
            text = item.data if item.raw_length() <= self._largest else b""
        except (AttributeError, KeyError, MemoryError):
            return
        names = {name: (mode, entry) for name, mode, entry in entries}
        for match in _QUOTED.finditer(text):
            first, *rest = (match[1] or match[2]).split(b"/")
            mode, found = names.get(first, _NOTHING)
            for name in rest:
                mode, found = self._below(found).get(name, _NOTHING) if stat.S_ISDIR(mode) else _NOTHING
            if stat.S_ISREG(mode) and self._is_new(found):
                self._collect_file(found)

    def _below(self, tree: bytes) -> Mapping[bytes, tuple[int, bytes]]:
        """Return the mode and the object of each entry of a tree; none if it can't be read."""
        if tree not in self._trees:
            self._trees[tree] = {}
            with suppress(KeyError, MemoryError):
                entries = _entries(self._source[tree])
                self._trees[tree] = {name: (mode, entry) for name, mode, entry in entries}
        return self._trees[tree]

    def _collect_file(self, name: bytes) -> None:
        try:
            item = self._source[name]
            size = item.raw_length()
        except MemoryError:
            self.omitted[name] = 0
        except KeyError:
            # It may not be needed; the agent notices if it is.
            return
        else:
            if size > self._largest:
                self.omitted[name] = size
            else:
                self.objects.append(item)


def _entries(tree: ShaFile) -> list[tuple[bytes, int, bytes]]:
    """Return a tree's entries; none if it is malformed: the agent notices if they are needed."""
    if not isinstance(tree, Tree):
        return []
    try:
        return [(bytes(name), int(mode), bytes(entry)) for name, mode, entry in tree.items()]
    except Exception:
        return []
