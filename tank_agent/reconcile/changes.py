"""What differs between two specs of a pod, and what each difference does: the lines of `tank plan`.

The table says what a user will see; what is done follows from `container_hash`, and a test holds the two
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from tank_agent.spec.model import Pod


class Change(Struct, frozen=True, kw_only=True):
    """One field that differs; `effect` is what it does to what runs."""

    key: str
    old: str
    new: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} → {self.new} ({self.effect})"


_NOTHING = "nothing restarts"


def changes(old: Pod, new: Pod) -> tuple[Change, ...]:
    """Return the differences in the order of the pod file's fields."""
    before, after = dict(_fields(old)), dict(_fields(new))
    keys = [*before, *(key for key in after if key not in before)]
    return tuple(
        Change(key=key, old=_shown(before.get(key)), new=_shown(after.get(key)), effect=_effect(key))
        for key in keys
        if before.get(key) != after.get(key)
    )


def _fields(pod: Pod) -> Iterator[tuple[str, Any]]:
    plain = msgspec.to_builtins(pod)
    yield "restart", plain["restart"]
    yield "network.mode", plain["network"]["mode"]
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


def _effect(key: str) -> str:
    head = key.partition(".")[0]
    if head.startswith("containers["):
        return f"restarts container {head[len('containers[') : -1]}"
    if head.startswith("volumes["):
        return "restarts the containers that mount it"
    if key == "network.mode":
        return "restarts the whole pod"
    return _NOTHING
