"""Read commits, trees and files out of the bare repository with dulwich. Runs in the helper only.

Everything it yields is hashed again by the agent, so a mistake here can stop an update but never forge one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dulwich.object_store import DiskObjectStore

from tank_agent.source.git.access import GitError
from tank_agent.source.git.content import DirectoryMissingError, walk
from tank_agent.source.git.objects import BadObjectError, Kind, object_id, parse_tag
from tank_agent.source.git.protocol import Limits, Object, Omitted, ReadHistory, ReadTree
from tank_agent.source.git.repository import OMITTED

_KINDS: dict[int, Kind] = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
_TIP, _OLD = 1, 2


class Reader:
    """One pass over the object store in a directory (`objects` of a bare repository)."""

    def __init__(self, objects: str, limits: Limits) -> None:
        self._store: Any = DiskObjectStore(objects)
        self._limits = limits
        self._omitted = _omitted(Path(objects) / "info" / "omitted")
        self._left = limits.total

    def close(self) -> None:
        """Close the packs."""
        self._store.close()

    def history(self, request: ReadHistory) -> Iterator[Object]:
        """Yield what is needed to judge `tip` against `deployed`: tags, then commits, newest first."""
        name = request.tip
        for _ in range(4):
            item = self._load(name)
            if item.kind != "tag":
                break
            yield item
            name = parse_tag(item.data).target
        yield from self._commits(name, request)

    def _commits(self, tip: str, request: ReadHistory) -> Iterator[Object]:
        colours = {tip: _TIP}
        deployed = request.deployed if request.deployed != tip else None
        if deployed is not None:
            colours[deployed] = _OLD
        item = self._commit(tip)
        # First of all, since the walk may end before it: an older commit is found from the deployed one.
        yield item
        if deployed is None:
            return
        sent = {tip: _parents(item.data)}
        heap: list[tuple[int, str]] = []
        done: dict[str, int] = {}
        for name in colours:
            self._push(heap, name)
        while heap and (request.full or any(colours[name] == _TIP for _, name in heap)):
            _, name = heapq.heappop(heap)
            if done.get(name) == colours[name]:
                continue
            done[name] = colours[name]
            if name not in sent:
                item = self._commit(name)
                sent[name] = _parents(item.data)
                if len(sent) > self._limits.commits:
                    raise GitError(
                        "too-big", f"more than {self._limits.commits} commits since the last deployed one"
                    )
                yield item
            for parent in sent[name]:
                if colours.get(parent, 0) | colours[name] != colours.get(parent, 0):
                    colours[parent] = colours.get(parent, 0) | colours[name]
                    self._push(heap, parent)

    def _commit(self, name: str) -> Object:
        item = self._load(name)
        if item.kind != "commit":
            raise GitError("not-found", "the ref does not name a commit")
        return item

    def _push(self, heap: list[tuple[int, str]], name: str) -> None:
        # Beyond a shallow boundary, and after a re-clone also the deployed commit: the agent sees the hole.
        try:
            _, data = self._store.get_raw(name.encode())
        except KeyError:
            return
        heapq.heappush(heap, (-_time(data), name))

    def tree(self, request: ReadTree) -> Iterator[Object | Omitted]:
        """Yield the trees and .toml files below a path that the agent does not have yet."""
        found: list[Object | Omitted] = []

        def load(name: str) -> bytes:
            item = self._load(name)
            if bytes.fromhex(name) not in request.known:
                found.append(item)
            return item.data

        try:
            files, _ = walk(request.tree, request.path, load, self._limits.entries, self._limits.depth)
        except DirectoryMissingError:
            files = ()
        yield from found
        for file in files:
            if bytes.fromhex(file.id) not in request.known:
                yield self._file(file.id)

    def _file(self, name: str) -> Object | Omitted:
        size = self._omitted.get(name)
        if size is not None and (size == 0 or size > self._limits.blob):
            return Omitted(name, size)
        try:
            item = self._get(name)
        except MemoryError:
            # A few bytes in a pack can stand for gigabytes; the others' files are still to be read.
            return Omitted(name, 0)
        return Omitted(name, len(item.data)) if len(item.data) > self._limits.blob else item

    def _load(self, name: str) -> Object:
        try:
            return self._get(name)
        except MemoryError as error:
            message = f"object {name[:12]} unpacks to more memory than is allowed"
            raise GitError("too-big", message, hint="take it out of the history") from error

    def _get(self, name: str) -> Object:
        try:
            number, data = self._store.get_raw(name.encode())
        except KeyError:
            raise GitError("corrupt", f"object {name[:12]} is missing") from None
        kind = _KINDS[number]
        if object_id(kind, data) != name:
            raise BadObjectError(f"object {name[:12]} is damaged")
        if len(data) <= self._limits.blob or kind != "blob":
            self._left -= len(data)
        if self._left < 0:
            what = "the files are" if kind == "blob" else f"{kind} {name[:12]} and what came before it are"
            raise GitError("too-big", f"{what} more than {self._limits.total >> 20} MiB", hint="see git.path")
        return Object(kind, data)


def _omitted(file: Path) -> dict[str, int]:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}
    found = (OMITTED.fullmatch(line) for line in lines)
    return {match[1]: int(match[2]) for match in found if match is not None}


def _parents(data: bytes) -> tuple[str, ...]:
    head = data.partition(b"\n\n")[0]
    return tuple(
        line[7:47].decode("ascii", "replace") for line in head.split(b"\n") if line.startswith(b"parent ")
    )


def _time(data: bytes) -> int:
    for line in data.partition(b"\n\n")[0].split(b"\n"):
        if line.startswith(b"committer "):
            text = line.rsplit(b" ", 2)[-2]
            return int(text) if text.isdigit() else 0
    return 0
