"""A pod that a source is made into, entry by entry, each with its place there.

What the reader of pod files refuses is taken out again and becomes a remark, so every file that comes of it
is valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.convert.model import NewPodFile, Remark, SourcePlace
from tank_agent.convert.written import text_of
from tank_agent.errors import Problem
from tank_agent.spec.beside import BesideError
from tank_agent.spec.findings import key_text
from tank_agent.spec.parse import parse_pod_file

# A part of an entry's path: the entry is one more of a list.
MORE = "+"
# Without one of these, a row of a list is none.
_OF_A_ROW = frozenset({"name", "path", "volume", "secret", "file", "tmpfs", "port"})
# Tables that are nothing without one of their keys.
_WHOLE = frozenset({"http", "tcp", "cpu"})


class Origin(Struct, frozen=True):
    """A key of the source, by its dotted path, and its place."""

    key: str
    place: SourcePlace


class PodEntry(Struct, frozen=True):
    """A value for a key of the pod; a container stands in the path by its name, after "containers"."""

    path: tuple[str, ...]
    value: object
    origin: Origin


class PodEntries:
    """The entries of one pod; a later one for the same key replaces an earlier one."""

    def __init__(self, name: str, origin: Origin) -> None:
        self.name = name
        self.origin = origin
        self.entries: list[PodEntry] = []
        self.beside: dict[str, bytes] = {}
        self.comments: list[str] = []

    def put(self, path: tuple[str, ...], value: object, origin: Origin) -> None:
        """Set a key; `MORE` at the end of the path adds to a list."""
        self.entries.append(PodEntry(path, value, origin))

    def find(self, *path: str) -> object:
        """Return the value that a key was set to last, None if it was not."""
        return next((one.value for one in reversed(self.entries) if one.path == path), None)


def finished(draft: PodEntries) -> tuple[NewPodFile | None, list[Remark]]:
    """Return the pod file, with remarks on entries that could not be in it; None if too little is left."""
    entries = list(draft.entries)
    remarks: list[Remark] = []
    while True:
        built = _Built(draft.name, entries)
        file = NewPodFile(name=draft.name, pod=built.pod, beside=draft.beside, comments=tuple(draft.comments))
        problems = _problems(file)
        if not problems:
            return file, remarks
        guilty = next(
            ((one, found) for one in problems if (found := _guilty(one, built.at)) is not None), None
        )
        if guilty is None:
            message = f"there is no pod of it: {problems[0].message}"
            remarks.append(_lost(draft.origin, message))
            return None, remarks
        problem, index = guilty
        remarks.append(_lost(entries[index].origin, _sentence(problem)))
        at = next(key for key, number in built.at.items() if number == index)
        entries[index : index + 1] = _without(entries[index], problem.key.removeprefix(f"{at}."))


def settled(file: NewPodFile, place: SourcePlace, remarks: list[Remark]) -> NewPodFile | None:
    """Return a pod file without the keys that no pod can have, each with a remark; None if nothing is left.

    `place` is what the remarks are about, since the source has none for a key.
    """
    if not _problems(file):
        return file
    draft = PodEntries(file.name, Origin(file.name, place))
    draft.beside, draft.comments = dict(file.beside), list(file.comments)
    draft.entries = list(_entries_of(file.pod, place))
    made, found = finished(draft)
    remarks += found
    return made


def _entries_of(pod: Mapping[str, object], place: SourcePlace) -> Iterator[PodEntry]:
    """Yield the entries of a pod: each value, and each row of a list."""
    for key, value in pod.items():
        if key != "containers":
            yield from _leaves((key,), (key,), value, place)
            continue
        assert isinstance(value, Sequence)
        for number, container in enumerate(value):
            for part, below in container.items():
                where = ("containers", container["name"], part)
                if part != "name":
                    yield from _leaves(where, ("containers", number, part), below, place)


def _leaves(
    path: tuple[str, ...], key: tuple[str | int, ...], value: object, place: SourcePlace
) -> Iterator[PodEntry]:
    if isinstance(value, dict) and value and path[-1] not in _WHOLE:
        for part, below in value.items():
            yield from _leaves((*path, part), (*key, part), below, place)
    elif isinstance(value, list | tuple) and value:
        for number, row in enumerate(value):
            yield PodEntry((*path, MORE), row, Origin(key_text((*key, number)), place))
    else:
        yield PodEntry(path, value, Origin(key_text(key), place))


def _without(entry: PodEntry, key: str) -> list[PodEntry]:
    """Return what is left of an entry without a key of its row: nothing where that makes it what it is."""
    if not isinstance(entry.value, dict) or key not in entry.value or key in _OF_A_ROW:
        return []
    rest = {name: value for name, value in entry.value.items() if name != key}
    return [replace(entry, value=rest)]


def _lost(origin: Origin, message: str) -> Remark:
    return Remark(kind="lost", place=origin.place, key=origin.key, message=message)


def _sentence(problem: Problem) -> str:
    return f"is left out, since a pod can't have it so ({problem.key}: {problem.message})"


def _problems(file: NewPodFile) -> Sequence[Problem]:
    def beside(path: str) -> bytes:
        if path not in file.beside:
            raise BesideError("is not among the files")
        return file.beside[path]

    return parse_pod_file(text_of(file), f"{file.name}.toml", beside=beside).problems


def _guilty(problem: Problem, at: dict[str, int]) -> int | None:
    """Return the last entry at, above or below the key of a problem, the nearest one."""
    above = (key for key in _shorter(problem.key) if key in at)
    found = next(above, None)
    if found is not None:
        return at[found]
    below = [index for key, index in at.items() if key.startswith((f"{problem.key}.", f"{problem.key}["))]
    # A container as a whole is not an entry: nothing of it may be what is missing.
    return max(below) if below and not _is_container(problem.key) else None


def _is_container(key: str) -> bool:
    return key in ("", "containers") or (key.startswith("containers[") and key.endswith("]"))


def _shorter(key: str) -> Iterator[str]:
    while key:
        yield key
        cut = max(key.rfind("."), key.rfind("["))
        key = key[: max(cut, 0)]


class _Built:
    """The pod of entries, and which of them each of its keys is of."""

    def __init__(self, name: str, entries: Sequence[PodEntry]) -> None:
        self.at: dict[str, int] = {}
        self._containers: list[dict[str, object]] = []
        self.pod: dict[str, object] = {"name": name, "containers": self._containers}
        self._numbers: dict[str, int] = {}
        for index, entry in enumerate(entries):
            self._add(entry, index)

    def _add(self, entry: PodEntry, index: int) -> None:
        table, done, path = self.pod, list[str | int](), entry.path
        if path[0] == "containers":
            number = self._numbers.setdefault(path[1], len(self._containers))
            if number == len(self._containers):
                self._containers.append({"name": path[1]})
            table, path = self._containers[number], path[2:]
            done = ["containers", number]
        *above, last = path
        if last == MORE:
            *above, last = above
        for part in above:
            below = table.setdefault(part, {})
            assert isinstance(below, dict)
            table = below
        done += path[: len(above) + 1]
        if path[-1] == MORE:
            rows = table.setdefault(last, [])
            assert isinstance(rows, list)
            done.append(len(rows))
            rows.append(entry.value)
        else:
            table[last] = entry.value
        self.at[key_text(tuple(done))] = index
