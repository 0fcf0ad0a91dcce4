"""Pods and containers of a set of units while they are made: keys are filled in one by one."""

from __future__ import annotations

from typing import Any

from tank_agent.convert.model import Remark, SourcePlace
from tank_agent.convert.names import free, valid
from tank_agent.convert.quadlet.read import Units
from tank_agent.convert.quadlet.unit import Entry, Unit


class Remarks:
    """Remarks in the order of the source."""

    def __init__(self) -> None:
        self.all: list[Remark] = []

    def lost(self, entry: Entry | SourcePlace, message: str, key: str = "") -> None:
        """Say that the pod does not do what an entry asks for."""
        self._add("lost", entry, message, key)

    def note(self, entry: Entry | SourcePlace, message: str, key: str = "") -> None:
        """Say that it does so all the same, or that the entry does nothing."""
        self._add("note", entry, message, key)

    def _add(self, kind: Any, entry: Entry | SourcePlace, message: str, key: str) -> None:
        place, path = (entry.place, entry.path) if isinstance(entry, Entry) else (entry, key)
        remark = Remark(kind=kind, place=place, key=key or path, message=message)
        if remark not in self.all:
            self.all.append(remark)


class PodDraft:
    """A pod: its keys, and its network, which several containers may add to."""

    def __init__(self, name: str, place: SourcePlace) -> None:
        self.name = name
        self.place = place
        self.keys: dict[str, Any] = {}
        self.mode: str | None = None
        self.network: dict[str, Any] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.containers: list[ContainerDraft] = []
        self.beside: dict[str, bytes] = {}
        self.comments: list[str] = []
        # Podman's names of volumes that others may mount, by the name of the volume here.
        self.stores: dict[str, str] = {}

    def add(self, key: str, *values: object) -> None:
        """Add values to a list of the pod, each once."""
        _extend(self.keys, key, values)

    def add_network(self, key: str, *values: object) -> None:
        """Add values to a list of the table of the network, each once."""
        _extend(self.network, key, values)

    def volume(self, wanted: str, **keys: object) -> str:
        """Return the name of the volume that has these keys, made if there is none; `wanted` is its name."""
        others = {name for name, given in self.volumes.items() if given != keys}
        name = free(valid(wanted), others)
        self.volumes[name] = dict(keys)
        return name


class ContainerDraft:
    """A container of a pod, with the unit that it comes from."""

    def __init__(self, unit: Unit, units: Units, pod: PodDraft, remarks: Remarks, name: str) -> None:
        self.unit = unit
        self.units = units
        self.pod = pod
        self.remarks = remarks
        self.name = name
        self.keys: dict[str, Any] = {}

    def put(self, *path: Any) -> None:
        """Set a key of the container by its path; the last word is its value."""
        *tables, key, value = path
        at = self.keys
        for table in tables:
            at = at.setdefault(table, {})
        at[key] = value

    def get(self, *path: str) -> Any:
        """Return a key of the container by its path; None where it is not set."""
        at: Any = self.keys
        for key in path:
            at = at.get(key) if isinstance(at, dict) else None
        return at

    def add(self, *path: Any) -> None:
        """Add the last word to a list of the container, once."""
        *tables, key, value = path
        at = self.keys
        for table in tables:
            at = at.setdefault(table, {})
        _extend(at, key, (value,))

    def mount(self, entry: Entry, path: str, **keys: object) -> None:
        """Mount something at a path; a second one there is said, since only one can be."""
        mounts: list[dict[str, Any]] = self.keys.setdefault("mounts", [])
        if any(mount["path"] == path for mount in mounts):
            self.remarks.lost(entry, f"{path} has a mount already; this one is left out")
            return
        mounts.append({**keys, "path": path})

    def behind_links(self, entry: Entry, path: str) -> str:
        """Return what podman takes by a path of the host: a pod takes none that leads through a link."""
        if (real := self.units.real(path)) != path:
            self.note(entry, f"{path} leads to {real}, which is written, since a pod follows no link")
        return real

    def lost(self, entry: Entry, message: str) -> None:
        """Say that the container does not do what an entry asks for."""
        self.remarks.lost(entry, message)

    def note(self, entry: Entry, message: str) -> None:
        """Say that it does so all the same, or that the entry does nothing."""
        self.remarks.note(entry, message)


def _extend(table: dict[str, Any], key: str, values: tuple[object, ...]) -> None:
    found = table.setdefault(key, [])
    found += [value for value in values if value not in found]
