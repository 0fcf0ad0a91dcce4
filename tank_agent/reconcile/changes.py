"""The change table: what happens to what runs when a key of the pod file changes.

One table for everything: `plan` restarts and changes by it, `tank plan` prints its words, and the reference
shows it. Tests hold the three together, and every row against a real agent.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from tank_agent.spec.model import Container, Pod


class Effect(enum.StrEnum):
    """What a change does, from the least to the most; the words are those of the reference."""

    NOTHING = "nothing"
    LIVE = "live"
    MOUNTING = "the containers that mount it restart"
    CONTAINER = "this container restarts"
    POD = "the whole pod restarts"


class Row(Struct, frozen=True, kw_only=True):
    """One row: a key of the pod file (and all below it), and what its change does. `note` adds detail."""

    key: str
    effect: Effect
    note: str = ""


_RESTARTING = (
    "image",
    "rootfs",
    "command",
    "args",
    "env",
    "working_dir",
    "user",
    "tty",
    "mounts",
    "security",
)

TABLE: tuple[Row, ...] = (
    Row(key="name", effect=Effect.POD, note="it is another pod: the old one goes, with its logs"),
    Row(key="restart", effect=Effect.NOTHING, note="counts from the next end on; what is over may start"),
    Row(key="hosts", effect=Effect.NOTHING, note="the pod comes to or goes from machines, no other way"),
    Row(key="labels", effect=Effect.NOTHING, note="as hosts"),
    Row(
        key="network",
        effect=Effect.LIVE,
        note='to or from "host": the whole pod restarts; what is over starts again',
    ),
    Row(key="network.dns", effect=Effect.LIVE, note="/etc/resolv.conf is written in place"),
    Row(key="network.nics", effect=Effect.LIVE, note="only what differs; a new parent makes a new link"),
    Row(key="volumes", effect=Effect.NOTHING, note="a new volume counts when it is mounted"),
    Row(key="volumes.host", effect=Effect.MOUNTING),
    Row(key="containers", effect=Effect.NOTHING, note="only the one that comes or goes starts or stops"),
    *(Row(key=f"containers.{name}", effect=Effect.CONTAINER) for name in _RESTARTING),
    Row(key="containers.pull", effect=Effect.NOTHING, note="counts from the next start on"),
    Row(key="containers.stop_signal", effect=Effect.LIVE, note="counts from the next stop on"),
    Row(key="containers.stop_grace", effect=Effect.LIVE, note="counts from the next stop on"),
    Row(key="containers.limits", effect=Effect.LIVE, note="also ends a back-off: more memory may help"),
)
_BY_KEY: Mapping[str, Row] = {row.key: row for row in TABLE}


def _container_fields(effect: Effect) -> tuple[str, ...]:
    # A field without a row is a mistake that must not pass unseen.
    names = [name for name in Container.__struct_fields__ if name != "name"]
    return tuple(name for name in names if _BY_KEY[f"containers.{name}"].effect is effect)


RESTARTING_FIELDS = _container_fields(Effect.CONTAINER)
LIVE_FIELDS = _container_fields(Effect.LIVE)
_INDEX = re.compile(r"\[[^]]*\]")


class Change(Struct, frozen=True, kw_only=True):
    """One field that differs; `effect` is what it does to what runs."""

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


def changes(old: Pod, new: Pod) -> tuple[Change, ...]:
    """Return the differences in the order of the pod file's fields."""
    before, after = dict(_fields(old)), dict(_fields(new))
    keys = [*before, *(key for key in after if key not in before)]
    return tuple(
        Change(
            key=key,
            old=_shown(before.get(key)),
            new=_shown(after.get(key)),
            effect=_effect(key, before.get(key), after.get(key)),
        )
        for key in keys
        if before.get(key) != after.get(key)
    )


def _fields(pod: Pod) -> Iterator[tuple[str, Any]]:
    plain = msgspec.to_builtins(pod)
    yield "restart", plain["restart"]
    yield "network", plain["network"]["mode"]
    yield "network.dns", plain["network"]["dns"]
    for nic in plain["network"]["nics"]:
        yield from _flat(f"network.nics[{nic['name']}]", nic)
    for volume in plain["volumes"]:
        yield from _flat(f"volumes[{volume['name']}]", volume)
    for container in plain["containers"]:
        yield from _flat(f"containers[{container['name']}]", container)


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
