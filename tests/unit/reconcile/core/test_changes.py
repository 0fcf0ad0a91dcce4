"""The change table: complete, in the words of `tank plan`, and the one that restarts follow."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.reconcile.core.changes import LIVE_FIELDS, RESTARTING_FIELDS, TABLE, changes, row_of
from tank_agent.reconcile.core.hashes import container_hash, settings_hash
from tank_agent.spec.file import ContainerTable, NetworkTable, PodTable, VolumeTable
from tank_agent.spec.keys import Effect, keys_of
from tank_agent.spec.model import (
    Container,
    CpuLimit,
    Limits,
    Mount,
    Network,
    Nic,
    Pod,
    RestartPolicy,
    Volume,
)
from tests.unit.test_completeness import OTHER as VALUES
from tests.unit.test_completeness import parsed, with_value

# Of every field of a container, a value that is not its default.
OTHER: dict[str, Any] = {
    declared.name: getattr(
        parsed(
            with_value(f"containers.{declared.name}", VALUES[f"containers.{declared.name}"])
        ).pod.containers[0],
        declared.name,
    )
    for declared in keys_of(ContainerTable)
    if declared.name not in ("name", "mounts")
} | {"mounts": (Mount(volume="data", path="/data"),)}
APP = Container(name="app", rootfs="/root", command=("/bin/app",))
POD = Pod(name="web", containers=(APP, replace(APP, name="other")), volumes=(Volume(name="data"),))


def edited(**fields: object) -> Pod:
    return replace(POD, containers=(replace(APP, **fields), POD.containers[1]))


def lines(new: Pod) -> list[str]:
    return [str(change) for change in changes(POD, new)]


def test_every_key_of_the_pod_file_has_a_row() -> None:
    keys = {row.key for row in TABLE}
    assert len(keys) == len(TABLE)
    tables = {"": PodTable, "containers.": ContainerTable, "network.": NetworkTable, "volumes.": VolumeTable}
    for prefix, table in tables.items():
        wanted = {f"{prefix}{name}" for name in table.__struct_fields__}
        # What names a thing of a list is the thing itself: it comes or goes.
        assert wanted - {"containers.name", "volumes.name"} <= keys, prefix
    assert set(RESTARTING_FIELDS) | set(LIVE_FIELDS) | {"name", "pull"} == set(Container.__struct_fields__)
    assert set(OTHER) == set(Container.__struct_fields__) - {"name"}


@pytest.mark.parametrize("field", sorted(OTHER))
def test_hashes_follow_the_table(field: str) -> None:
    new = edited(**{field: OTHER[field]})
    restarts = container_hash(POD, APP) != container_hash(new, new.containers[0])
    live = settings_hash(APP) != settings_hash(new.containers[0])
    effect = row_of(f"containers.{field}").effect
    assert (restarts, live) == (effect is Effect.CONTAINER, effect is Effect.LIVE)
    assert container_hash(POD, POD.containers[1]) == container_hash(new, new.containers[1])
    said = {
        Effect.NOTHING: "(nothing restarts)",
        Effect.LIVE: "changed live, nothing restarts",
        Effect.CONTAINER: "restarts container app",
    }[effect]
    assert any(said in line for line in lines(new)), lines(new)


def test_pod_fields() -> None:
    def restarts(new: Pod) -> bool:
        return container_hash(POD, APP) != container_hash(new, APP)

    nic = Nic(name="eth0", ip=("10.0.0.5/24",))
    for new, restarted, said in (
        (replace(POD, restart=RestartPolicy.NEVER), False, 'restart: "always" → "never" (nothing restarts)'),
        (replace(POD, network=Network(mode="nics", nics=(nic,))), False, "(changed live, nothing restarts)"),
        (
            replace(POD, network=Network(dns=("10.0.0.1",))),
            False,
            'network.dns: none → ["10.0.0.1"] (changed',
        ),
        (
            replace(POD, network=Network(mode="host")),
            True,
            'network: "none" → "host" (restarts the whole pod)',
        ),
        (replace(POD, volumes=()), False, 'volumes[data]: "present" → none (nothing restarts)'),
        (replace(POD, containers=(APP,)), False, "(stops container other)"),
    ):
        assert restarts(new) is restarted
        assert any(said in line for line in lines(new)), lines(new)


def test_a_volume_that_moves_restarts_those_that_mount_it() -> None:
    mounting = edited(mounts=OTHER["mounts"])
    moved = replace(mounting, volumes=(Volume(name="data", host="/srv"),))
    app, other = mounting.containers
    assert container_hash(mounting, app) != container_hash(moved, app)
    assert container_hash(mounting, other) == container_hash(moved, other)
    (line,) = changes(mounting, moved)
    assert str(line) == 'volumes[data].host: none → "/srv" (restarts the containers that mount it)'


def test_a_limit_is_shown_by_its_own_key() -> None:
    (line,) = changes(POD, edited(limits=Limits(cpu=CpuLimit(quota=1000))))[:1]
    assert line.key.startswith("containers[app].limits.cpu")
