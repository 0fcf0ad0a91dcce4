"""A service while it is made into a container of a pod, and the stack that it is a part of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct

from tank_agent.convert.compose import values
from tank_agent.convert.compose.project import Project
from tank_agent.convert.draft import MORE, Origin, PodEntries
from tank_agent.convert.model import Remark, Value
from tank_agent.convert.names import free, valid


class Given(Struct, frozen=True):
    """What a conversion takes from around the compose files.

    `read` returns the content of a file by its absolute path and raises OSError; `exists` tells whether
    a path is there, and `real` is what it is behind symbolic links.
    """

    environment: Mapping[str, str]
    home: str
    read: Callable[[str], bytes]
    exists: Callable[[str], bool]
    real: Callable[[str], str] = str


class PublishedPort(Struct, frozen=True):
    """A port of a service, or a range of them, to publish."""

    service: ComposeService
    value: Value
    address: str
    pod: str
    protocol: str


class Stack:
    """All services of a project, with what they share."""

    def __init__(self, project: Project, given: Given, *, one_pod: bool) -> None:
        self.project = project
        self.given = given
        self.one_pod = one_pod
        self.name = valid(project.name, "stack")
        self.services: dict[str, ComposeService] = {}
        self.remarks: list[Remark] = list(project.remarks)
        # Named volumes that containers of several pods mount.
        self.shared: set[str] = set()
        self.unpublished: list[PublishedPort] = []
        # Directories of the host that docker would make.
        self.missing: dict[str, None] = {}
        # Files beside the pod files, by their path of the host.
        self.files: dict[str, str] = {}
        # Services by the names of their containers.
        self.by_container: dict[str, str] = {}
        # Images of services that look at docker's containers, as traefik and watchtower do.
        self._readers: list[str] = []
        self._words: dict[str, str] = {}

    def remark(self, kind: Literal["lost", "note"], key: str, value: Value, message: str) -> None:
        """Add a remark, each once."""
        found = Remark(kind=kind, place=value.place, key=key, message=message)
        if found not in self.remarks:
            self.remarks.append(found)

    def look_around(self, named_volumes: Callable[[Value], set[str]]) -> None:
        """Find out what several services have in common: volumes, names, and whether docker is looked at."""
        users: dict[str, set[str]] = {}
        for service in self.services.values():
            for one in named_volumes(service.keys["volumes"]) if "volumes" in service.keys else ():
                users.setdefault(one, set()).add(service.draft.name)
            words = self._words[service.name] = " ".join(_texts(service.value))
            if "docker.sock" in words:
                self._readers.append(words)
        self.shared = {name for name, pods in users.items() if len(pods) > 1}

    def reads_labels(self, by: str) -> bool:
        """Return whether a service, of a program that has `by` in its keys, reads labels from docker."""
        return any(by in words for words in self._readers)

    def refers_to(self, name: str, service: ComposeService) -> bool:
        """Return whether another service has a name in one of its values."""
        return bool(name) and any(
            name in words for other, words in self._words.items() if other != service.name
        )

    def pods(self) -> dict[str, list[ComposeService]]:
        """Return the services of each pod, by its name."""
        found: dict[str, list[ComposeService]] = {}
        for service in self.services.values():
            found.setdefault(service.draft.name, []).append(service)
        return found


class ComposeService:
    """One service: its keys, and the container that it becomes."""

    def __init__(self, stack: Stack, name: str, value: Value, draft: PodEntries) -> None:
        self.stack = stack
        self.name = name
        self.value = value
        self.keys: dict[str, Value] = value.plain if isinstance(value.plain, dict) else {}
        self.draft = draft
        # The name of the container, which the pod may have already for another service.
        self.container = valid(name)
        # Runs to its end before the others of its pod.
        self.init = False
        # Gives its pod the name.
        self.leads = False
        # The volumes of the pod, by what they are of.
        self.own_volumes: dict[tuple[str, str], str] = {}

    def origin(self, key: str, value: Value) -> Origin:
        """Return the place of a key of this service."""
        return Origin(f"services.{self.name}.{key}" if key else f"services.{self.name}", value.place)

    def put(self, key: str, value: Value, path: str | tuple[str, ...], made: object) -> None:
        """Set a key of the container; a text is a path with dots."""
        parts = tuple(path.split(".")) if isinstance(path, str) else path
        self.draft.put(("containers", self.container, *parts), made, self.origin(key, value))

    def add(self, key: str, value: Value, path: str, made: object) -> None:
        """Add to a list of the container."""
        self.put(key, value, (*path.split("."), MORE), made)

    def put_pod(self, key: str, value: Value, path: tuple[str, ...], made: object) -> None:
        """Set a key of the pod."""
        self.draft.put(path, made, self.origin(key, value))

    def add_pod(self, key: str, value: Value, path: tuple[str, ...], made: object) -> None:
        """Add to a list of the pod, each once."""
        if all(one.path != (*path, MORE) or one.value != made for one in self.draft.entries):
            self.put_pod(key, value, (*path, MORE), made)

    def lost(self, key: str, value: Value, message: str) -> None:
        """Say that the pod does not do what a key asks for."""
        self.stack.remark("lost", self.origin(key, value).key, value, message)

    def note(self, key: str, value: Value, message: str) -> None:
        """Say what a person should know of a key that is not lost."""
        self.stack.remark("note", self.origin(key, value).key, value, message)

    def volume(self, key: str, value: Value, kind: tuple[str, str], name: str, **more: object) -> str:
        """Return the name of the pod's volume of something, which is declared with its first use."""
        known = next(
            (one.own_volumes[kind] for one in self.companions() if kind in one.own_volumes),
            None,
        )
        if known is None:
            taken = {word for one in self.companions() for word in one.own_volumes.values()}
            known = name if more.get("shared") else free(valid(name, "data"), taken)
            self.add_pod(key, value, ("volumes",), {"name": known, **more})
        self.own_volumes[kind] = known
        return known

    def companions(self) -> list[ComposeService]:
        """Return the services of the same pod, this one among them."""
        return [one for one in self.stack.services.values() if one.draft is self.draft]

    def mounted(self, path: str) -> bool:
        """Return whether something is mounted at a path already."""
        at = ("containers", self.container, "mounts", MORE)
        return any(
            one.path == at and isinstance(one.value, dict) and one.value.get("path") == path
            for one in self.draft.entries
        )


def is_privileged(service: ComposeService) -> bool:
    """Return whether a service may do all."""
    given = service.keys.get("privileged")
    return given is not None and given.plain in (True, "true")


# Does what a key of a service asks for; ValueError is the end of a sentence about its value.
Act = Callable[[ComposeService, str, Value], None]


class ComposeKey(Struct, frozen=True):
    """A key of compose.

    `becomes` is what it is in a pod file, or the sentence of the remark that it gets, which `kind` is of.
    `below` are the keys of a mapping.
    """

    becomes: str
    act: Act | None = None
    kind: Literal["mapped", "note", "lost"] = "mapped"
    below: Mapping[str, ComposeKey] = {}


Table = Mapping[str, ComposeKey]


def mapped(becomes: str, act: Act | None = None) -> ComposeKey:
    """Return a key that a pod does the same as."""
    return ComposeKey(becomes, act)


def group(table: Table) -> ComposeKey:
    """Return a key whose mapping has the keys of a table."""

    def act(service: ComposeService, key: str, value: Value) -> None:
        each(service, key, values.mapping(value), table)

    return ComposeKey("", act, below=table)


def note(sentence: str) -> ComposeKey:
    """Return a key that does nothing to what runs, or which a pod does anyway."""
    return ComposeKey(sentence, kind="note")


def lost(sentence: str) -> ComposeKey:
    """Return a key that a pod has nothing for."""
    return ComposeKey(sentence, kind="lost")


def each(service: ComposeService, above: str, given: Mapping[str, Value], table: Table) -> None:
    """Do what each key of a mapping asks for, and name those that are not known."""
    for name, value in given.items():
        key, known = f"{above}.{name}" if above else name, table.get(name)
        if name.startswith("x-"):
            continue
        if known is None:
            service.lost(key, value, "is not known as a key of compose; nothing was made of it")
        elif known.kind != "mapped":
            service.stack.remark(known.kind, service.origin(key, value).key, value, known.becomes)
        elif known.act is not None:
            try:
                known.act(service, key, value)
            except ValueError as error:
                service.lost(key, value, f"{error}; nothing was made of it")


def _texts(value: Value) -> list[str]:
    """Return all texts of a value, those of keys too."""
    plain = value.plain
    if isinstance(plain, dict):
        return [word for name, one in plain.items() for word in (name, *_texts(one))]
    if isinstance(plain, tuple):
        return [word for one in plain for word in _texts(one)]
    return [] if plain is None else [str(plain)]
