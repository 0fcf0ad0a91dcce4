"""The change table: the effect on running containers when a key of the pod file changes.

It derives from the declarations. `plan` restarts and changes by it, `tank plan` prints its words, and the
reference shows it; a test compares every row with a real agent.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.reconcile.core.content_changes import IDLE, LIVE, KeyChange, content_changes
from tank_agent.spec import written
from tank_agent.spec.file import ContainerTable, PodTable
from tank_agent.spec.keys import Effect, keys_of
from tank_agent.spec.model import Container, HealthCheck, HttpProbe, Mount, Nic, Pod, Volume, defaults_of

_NO_CHECK = msgspec.to_builtins(HealthCheck())
_OF_JOBS = {"schedule": "cron", "time_zone": "time_zone", "catch_up": "catch_up", "timeout": "timeout"}
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
    # Some keys are in another field of the normalised container, as read_only is.
    fields = set(Container.__struct_fields__) - {"name"}
    names = [declared.name for declared in keys_of(ContainerTable) if declared.name in fields]
    return tuple(name for name in names if _BY_KEY[f"containers.{name}"].effect is effect)


RESTARTING_FIELDS = _container_fields(Effect.CONTAINER)
LIVE_FIELDS = _container_fields(Effect.LIVE)


def init_of(pod: Pod) -> tuple[Container, ...]:
    """Return the containers that run before the others, in their order."""
    return tuple(container for container in pod.containers if container.init)


def row_of(key: str) -> Row:
    """Return the row of a key such as "containers[app].limits.memory": its own, or its nearest parent's."""
    plain = _INDEX.sub("", key)
    while plain not in _BY_KEY:
        plain = plain.rpartition(".")[0]
    return _BY_KEY[plain]


def changes(old: Pod, new: Pod) -> tuple[KeyChange, ...]:
    """Return the differences in the order of the pod file's fields.

    Of what comes or goes, only the values that are not at their default.
    """
    before, after = dict(_fields(old)), dict(_fields(new))
    pairs = {key: (before.get(key), after.get(key)) for key in {**before, **after}}
    init = {container.name for pod in (old, new) for container in init_of(pod)}
    found = [
        KeyChange(key=key, old=_shown(was), new=_shown(is_), effect=_effect(key, was, is_, init))
        for key, (was, is_) in pairs.items()
        if was != is_ and not (None in (was, is_) and _defaults().get(_INDEX.sub("", key), ...) in (was, is_))
    ]
    return (*found, *content_changes(old, new), *_turned(old, new))


def _turned(old: Pod, new: Pod) -> Iterator[KeyChange]:
    """Yield what only has another order, where that counts."""
    former = {container.name: _mounted(old, container) for container in old.containers}
    was, is_ = ([container.name for container in init_of(pod)] for pod in (old, new))
    orders = [("containers", was, is_, "restarts all that are not init")]
    # The hash of a container has its volumes in the pod's order.
    orders += [
        ("volumes", former.get(one.name, []), _mounted(new, one), f"restarts container {one.name}")
        for one in new.containers
    ]
    for key, was, is_, effect in orders:
        if was != is_ and sorted(was) == sorted(is_):
            yield KeyChange(key=key, old=_shown(was), new=_shown(is_), effect=effect)


def _mounted(pod: Pod, container: Container) -> list[str]:
    used = {mount.volume for mount in container.mounts}
    return [volume.name for volume in pod.volumes if volume.name in used]


def restarts_nothing(old: Pod, new: Pod) -> bool:
    """Return whether no difference concerns a container, nor anything that changes while one runs."""
    return all(change.effect == IDLE for change in changes(old, new))


def _fields(pod: Pod) -> Iterator[tuple[str, Any]]:
    # Their contents are compared apart.
    plain = msgspec.to_builtins(replace(pod, files=(), secrets=()))
    yield "restart", plain["restart"]
    job = plain["schedule"] or {}
    for key, field in _OF_JOBS.items():
        yield key, job.get(field) or None
    yield "network", plain["network"]["mode"]
    for key in ("bridges", "dns", "dns_search", "dns_options", "extra_hosts", "aliases"):
        yield f"network.{key}", plain["network"][key]
    yield "ports", [str(port) for port in pod.ports]
    yield "after", plain["after"]
    yield "hostname", plain["hostname"] or None
    yield from _flat("sysctls", plain["sysctls"])
    yield from _flat("update", plain["update"])
    lists = {**plain, "network.nics": plain["network"]["nics"]}
    for container in plain["containers"]:
        # A container without a check has what its image says, as one whose check says nothing.
        container["health"] = container["health"] or _NO_CHECK
        container["read_only"] = container["security"].pop("read_only_root")
    for container, table in zip(pod.containers, plain["containers"], strict=True):
        table["mounts"] = [_mount(one) for one in container.mounts]
    for key in ("network.nics", "volumes", "containers"):
        for table in lists[key]:
            yield from _flat(f"{key}[{table['name']}]", table)


def _mount(mount: Mount) -> dict[str, Any]:
    """Return what is not at its default, as a pod file has it."""
    found = {key: value for key, default in defaults_of(Mount) if (value := getattr(mount, key)) != default}
    forms = {"mode": written.mode(mount), "tmpfs": written.size("tmpfs")(mount)}
    return {key: forms.get(key, value) for key, value in found.items()}


def _flat(prefix: str, table: Mapping[str, Any], *, named: bool = True) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if named and key == "name":
            yield prefix, "present"
        elif isinstance(value, dict):
            # A variable may be called name.
            yield from _flat(f"{prefix}.{key}", value, named=False)
        elif value not in (None, [], ()):
            yield f"{prefix}.{key}", value


@functools.cache
def _defaults() -> Mapping[str, Any]:
    """Return the defaults of what can come and go, by their keys."""
    probed = Container(name="", health=HealthCheck(http=HttpProbe(port=0)))
    found: dict[str, Any] = {}
    for prefix, plain in (
        ("network.nics", Nic(name="")),
        ("volumes", Volume(name="")),
        ("containers", probed),
    ):
        found |= _flat(prefix, msgspec.to_builtins(plain))
    found["containers.read_only"] = False
    # Only these lines say that the thing itself, or a probe, is there.
    return {key: value for key, value in found.items() if value != "present" and not key.endswith(".port")}


def _shown(value: object) -> str:
    return "none" if value in (None, [], ()) else msgspec.json.encode(value).decode()


def _effect(key: str, old: object, new: object, init: Collection[str]) -> str:
    row = row_of(key)
    name = key.partition("[")[2].partition("]")[0]
    effect = Effect.POD if key == "network" and "host" in (old, new) else row.effect
    runs_first = name in init and key.startswith("containers[")
    if row.key == "containers":
        others = ", and restarts all that are not init" if runs_first else ""
        return f"{'starts' if new is not None else 'stops'} container {name}{others}"
    others = ", and all that are not init" if runs_first else ""
    return {
        Effect.NOTHING: IDLE,
        Effect.LIVE: LIVE,
        Effect.MOUNTING: "restarts the containers that mount it",
        Effect.CONTAINER: f"restarts container {name}{others}",
        Effect.POD: "restarts the whole pod",
    }[effect]
