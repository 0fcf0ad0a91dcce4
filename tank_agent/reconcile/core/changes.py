"""The change table: the effect on running containers when a key of the pod file changes.

It derives from the declarations. `plan` restarts and changes by it, `tank plan` prints its words, and the
reference shows it; a test compares every row with a real agent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from tank_agent.spec.file import ContainerTable, PodTable
from tank_agent.spec.keys import Effect, keys_of
from tank_agent.spec.model import Pod

_INDEX = re.compile(r"\[[^]]*\]")


class Row(Struct, frozen=True, kw_only=True):
    """One row: a key of the pod file (and all below it), and the effect of its change. `note` adds detail."""

    key: str
    effect: Effect
    note: str = ""


def _rows(kind: type[Struct], path: str) -> Iterator[Row]:
    for declared in keys_of(kind):
        if declared.key.effect is not None:
            yield Row(key=f"{path}{declared.name}", effect=declared.key.effect, note=declared.key.note)
    for declared in keys_of(kind):
        for table in declared.tables:
            yield from _rows(table, f"{path}{declared.name}.")


TABLE: tuple[Row, ...] = tuple(_rows(PodTable, ""))
_BY_KEY: Mapping[str, Row] = {row.key: row for row in TABLE}


def _container_fields(effect: Effect) -> tuple[str, ...]:
    # A key of a container without an effect fails here.
    names = [declared.name for declared in keys_of(ContainerTable) if declared.name != "name"]
    return tuple(name for name in names if _BY_KEY[f"containers.{name}"].effect is effect)


RESTARTING_FIELDS = _container_fields(Effect.CONTAINER)
LIVE_FIELDS = _container_fields(Effect.LIVE)


class KeyChange(Struct, frozen=True, kw_only=True):
    """One field that differs; `effect` says what happens to running containers."""

    key: str
    old: str
    new: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} → {self.new} ({self.effect})"


def row_of(key: str) -> Row:
    """Return the row of a key such as "containers[app].limits.memory": its own, or its nearest parent's."""
    plain = _INDEX.sub("", key)
    while plain not in _BY_KEY:
        plain = plain.rpartition(".")[0]
    return _BY_KEY[plain]


def changes(old: Pod, new: Pod) -> tuple[KeyChange, ...]:
    """Return the differences in the order of the pod file's fields."""
    before, after = dict(_fields(old)), dict(_fields(new))
    pairs = {key: (before.get(key), after.get(key)) for key in {**before, **after}}
    return tuple(
        KeyChange(key=key, old=_shown(was), new=_shown(is_), effect=_effect(key, was, is_))
        for key, (was, is_) in pairs.items()
        if was != is_
    )


def _fields(pod: Pod) -> Iterator[tuple[str, Any]]:
    plain = msgspec.to_builtins(pod)
    yield "restart", plain["restart"]
    yield "network", plain["network"]["mode"]
    for key in ("bridges", "dns", "dns_search", "dns_options", "extra_hosts"):
        yield f"network.{key}", plain["network"][key]
    yield "ports", [str(port) for port in pod.ports]
    lists = {**plain, "network.nics": plain["network"]["nics"]}
    for key in ("network.nics", "volumes", "containers"):
        for table in lists[key]:
            yield from _flat(f"{key}[{table['name']}]", table)


def _flat(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if key == "name":
            yield prefix, "present"
        elif isinstance(value, dict):
            yield from _flat(f"{prefix}.{key}", value)
        elif value not in (None, [], ()):
            yield f"{prefix}.{key}", value


def _shown(value: object) -> str:
    return "none" if value in (None, [], ()) else msgspec.json.encode(value).decode()


def _effect(key: str, old: object, new: object) -> str:
    row = row_of(key)
    name = key.partition("[")[2].partition("]")[0]
    effect = Effect.POD if key == "network" and "host" in (old, new) else row.effect
    if row.key == "containers":
        return f"{'starts' if new is not None else 'stops'} container {name}"
    return {
        Effect.NOTHING: "nothing restarts",
        Effect.LIVE: "changed live, nothing restarts",
        Effect.MOUNTING: "restarts the containers that mount it",
        Effect.CONTAINER: f"restarts container {name}",
        Effect.POD: "restarts the whole pod",
    }[effect]
