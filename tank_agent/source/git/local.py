"""Fetch from a repository on this machine, without any protocol: copy the objects that are missing.

Runs in the helper only. dulwich's own local fetch computes what a far server would send, which takes seconds
for a long history; here both stores are at hand, and what the target has it has completely.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dulwich.objects import Commit, ShaFile, Tag, Tree

from tank_agent.source.git.transport import GitError

_PACK = re.compile(r"pack-[0-9a-f]{40}\.(pack|idx)")


def copy_missing(source: Any, target: Any, tip: bytes, depth: int, largest: int) -> None:
    """Copy `tip` and what its pods need as one pack; depth 0 is all of the history.

    Files that are no pod files stay where they are. Of pod files larger than `largest` bytes, which no pod
    can have, `omitted` beside `shallow` has a line with name and size, 0 if it does not fit into memory.

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
    """Copy every pack as it is, and all loose objects; False, with nothing done, if that is not all there is.

    For a whole history this is many times as fast as to pick its objects. A copy that has some already picks.
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
        kind, size = _loose_kind_and_size(source, name)
        if kind == b"blob" and size > largest:
            omitted[name] = size
        else:
            loose.append(_load(source, name))
    if loose:
        store.add_objects([(item, None) for item in loose])
    _write_omitted(target, omitted)
    return True


def _loose_kind_and_size(source: Any, name: bytes) -> tuple[bytes, int]:
    """Read the head of a loose object: the rest of it may unpack to gigabytes."""
    text = name.decode("ascii")
    try:
        with open(Path(os.fsdecode(source.path)) / text[:2] / text[2:], "rb") as file:
            head = zlib.decompressobj().decompress(file.read(1024), 64)
    except (OSError, zlib.error):
        return b"", 0
    kind, _, rest = head.partition(b"\0")[0].partition(b" ")
    return kind, int(rest) if rest.isdigit() else 0


def _load(source: Any, name: bytes) -> ShaFile:
    try:
        item: ShaFile = source[name]
    except KeyError as error:
        raise GitError("not-found", f"the remote has no object {error}", hint="see git.commit") from error
    except MemoryError as error:
        message = f"object {name[:12].decode('ascii', 'replace')} unpacks to more memory than is allowed"
        raise GitError("too-big", message, hint="take it out of the history") from error
    return item


def _write_omitted(target: Any, omitted: Mapping[bytes, int]) -> None:
    if omitted:
        lines = [f"{name.decode('ascii')} {size}\n" for name, size in sorted(omitted.items())]
        (Path(os.fsdecode(target.path)) / "omitted").write_text("".join(lines), encoding="ascii")


class _Missing:
    """Finds the objects that a store lacks of another: `objects`, and `omitted` with their sizes."""

    def __init__(self, source: Any, target: Any, largest: int) -> None:
        self._source = source
        self._target = target
        self._largest = largest
        self._seen: set[bytes] = set()
        self.objects: list[ShaFile] = []
        self.omitted: dict[bytes, int] = {}

    def collect(self, tip: bytes, depth: int, boundary: set[bytes]) -> set[bytes]:
        """Find them, and return the commits whose parents were left out."""
        shallow: set[bytes] = set()
        while isinstance(item := _load(self._source, tip), Tag):
            self.objects.append(item)
            tip = item.object[1]
        level = [tip]
        distance = 1
        while level:
            below: list[bytes] = []
            for name in level:
                if name in self._seen or name in self._target:
                    continue
                self._seen.add(name)
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

    def _collect_tree(self, root: bytes) -> None:
        pending = [root]
        while pending:
            name = pending.pop()
            if name in self._seen or name in self._target:
                continue
            self._seen.add(name)
            tree = _load(self._source, name)
            self.objects.append(tree)
            for path, mode, entry in _entries(tree):
                if stat.S_ISDIR(mode):
                    pending.append(entry)
                elif stat.S_ISREG(mode) and path.endswith(b".toml"):
                    self._collect_file(entry)

    def _collect_file(self, name: bytes) -> None:
        if name in self._seen or name in self._target:
            return
        self._seen.add(name)
        try:
            item = self._source[name]
            size = item.raw_length()
        except MemoryError:
            self.omitted[name] = 0
        except KeyError:
            # Whoever needs it will miss it; nobody may.
            return
        else:
            if size > self._largest:
                self.omitted[name] = size
            else:
                self.objects.append(item)


def _entries(tree: ShaFile) -> list[tuple[bytes, int, bytes]]:
    """Return a tree's entries; none of one that is malformed, which only matters to who needs it."""
    if not isinstance(tree, Tree):
        return []
    try:
        return [(bytes(name), int(mode), bytes(entry)) for name, mode, entry in tree.items()]
    except Exception:
        return []
