"""The change table: complete, in the words of `tank plan`, and the one that restarts follow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck as Suppressed
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tank_agent.reconcile.core.changes import (
    LIVE_FIELDS,
    RESTARTING_FIELDS,
    TABLE,
    changes,
    restarts_nothing,
    row_of,
)
from tank_agent.reconcile.core.hashes import container_hash, network_hash, settings_hash
from tank_agent.spec.file import ContainerTable, NetworkTable, PodTable, VolumeTable
from tank_agent.spec.keys import Effect, keys_of
from tank_agent.spec.model import (
    Container,
    CpuLimit,
    HealthCheck,
    HttpProbe,
    Limits,
    Mount,
    Network,
    Nic,
    Pod,
    RestartPolicy,
    Update,
    Volume,
)
from tests.unit.spec.test_render import pods
from tests.unit.test_completeness import OTHER as VALUES
from tests.unit.test_completeness import parsed, with_value

# Keys that are in other fields: env_file in env, read_only in security.
ELSEWHERE_IN_THE_FILE = {"env_file", "read_only"}
# Of every field of a container, a value that is not its default.
OTHER: dict[str, Any] = {
    declared.name: getattr(
        parsed(
            with_value(f"containers.{declared.name}", VALUES[f"containers.{declared.name}"])
        ).pod.containers[0],
        declared.name,
    )
    for declared in keys_of(ContainerTable)
    if declared.name not in ("name", "mounts", *ELSEWHERE_IN_THE_FILE)
} | {"mounts": (Mount(volume="data", path="/data"),)}
# What makes a container another one, and what restarts and changes nothing that runs.
ELSEWHERE = {"name", "pull", "after", "health"}
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
    assert set(RESTARTING_FIELDS) | set(LIVE_FIELDS) | ELSEWHERE == set(Container.__struct_fields__)
    assert set(OTHER) == set(Container.__struct_fields__) - {"name"}


@pytest.mark.parametrize("field", sorted(OTHER))
def test_hashes_follow_the_table(field: str) -> None:
    new = edited(**{field: OTHER[field]})
    restarts = container_hash(POD, APP) != container_hash(new, new.containers[0])
    live = settings_hash(APP) != settings_hash(new.containers[0])
    effect = row_of(f"containers.{field}").effect
    assert (restarts, live) == (effect is Effect.CONTAINER, effect is Effect.LIVE)
    same = container_hash(POD, POD.containers[1]) == container_hash(new, new.containers[1])
    # What runs before all others has run for them.
    assert same is (field != "init")
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


def test_the_plan_says_whom_an_init_container_restarts() -> None:
    first = Container(name="first", rootfs="/root", command=("/bin/first",), init=True)
    before = replace(POD, containers=(first, *POD.containers))
    changed = replace(before, containers=(replace(first, args=("x",)), *POD.containers))
    limited = replace(before, containers=(replace(first, limits=Limits(pids=5)), *POD.containers))
    second = replace(before, containers=(replace(first, name="second"), *before.containers))
    turned = replace(second, containers=(first, replace(first, name="second"), *POD.containers))
    for old, new, said in (
        (second, turned, ': ["second","first"] → ["first","second"] (restarts all that are not init)'),
        (before, changed, '[first].args: none → ["x"] (restarts container first, and all that are not init)'),
        (before, limited, "[first].limits.pids: none → 5 (changed live, nothing restarts)"),
    ):
        (line,) = changes(old, new)
        assert str(line) == f"containers{said}"
        assert restarts_nothing(old, new) is False
    # Of what comes or goes, nothing is said that is so without a word.
    start, *rest = (str(line) for line in changes(POD, before))
    others = "container first, and restarts all that are not init)"
    assert start == f'containers[first]: none → "present" (starts {others}'
    assert [line.partition(" (")[0] for line in rest] == [
        'containers[first].rootfs: none → "/root"',
        'containers[first].command: none → ["/bin/first"]',
        "containers[first].init: none → true",
    ]
    assert str(changes(before, POD)[0]).endswith(f"(stops {others}")
    # The others start in any order.
    other = replace(POD, containers=tuple(reversed(POD.containers)))
    assert changes(POD, other) == ()
    # An init container of the same name as a volume says nothing about the volume.
    volumes = (Volume(name="first"),)
    assert restarts_nothing(before, replace(before, volumes=volumes))


def test_health_order_and_updates_are_shown_by_their_keys() -> None:
    check = HealthCheck(http=HttpProbe(port=80, path="/a"), retries=5)
    new = replace(
        edited(health=check, after=("other",)),
        after=("db",),
        update=Update(rollback=False),
        volumes=(Volume(name="data", snapshot=True),),
    )
    shown = [str(line) for line in changes(POD, new)]
    assert all(line.endswith(" (nothing restarts)") for line in shown)
    assert [line.removesuffix(" (nothing restarts)") for line in shown] == [
        'after: none → ["db"]',
        "update.rollback: true → false",
        "volumes[data].snapshot: false → true",
        'containers[app].after: none → ["other"]',
        "containers[app].health.http.port: none → 80",
        'containers[app].health.http.path: none → "/a"',
        "containers[app].health.retries: none → 5",
    ]
    # To ignore what an image says is a change; to say that it counts is none.
    (line,) = changes(POD, edited(health=HealthCheck(image=False)))
    assert line.key == "containers[app].health.image"
    assert changes(POD, edited(health=HealthCheck())) == ()


def test_volumes_in_another_order_restart_who_mounts_them_and_the_plan_says_so() -> None:
    mounts = (Mount(volume="data", path="/data"), Mount(volume="more", path="/more"))
    volumes = (Volume(name="data"), Volume(name="more"), Volume(name="unused"))
    before = replace(edited(mounts=mounts), volumes=volumes)
    after = replace(before, volumes=tuple(reversed(volumes)))
    app, other = before.containers
    assert container_hash(before, app) != container_hash(after, app)
    assert container_hash(before, other) == container_hash(after, other)
    assert [str(line) for line in changes(before, after)] == [
        'volumes: ["data","more"] → ["more","data"] (restarts container app)'
    ]
    moved = replace(before, volumes=(volumes[2], *volumes[:2]))
    assert changes(before, moved) == ()
    assert container_hash(before, app) == container_hash(moved, app)


@st.composite
def edits(draw: st.DrawFn) -> tuple[Pod, Pod]:
    """Return a pod, and the same with some values of another one."""
    old, other = draw(pods()), draw(pods())
    new = {
        key: getattr(other, key)
        for key in ("restart", "network", "ports", "after", "update")
        if draw(st.booleans())
    }
    volumes = [
        draw(st.sampled_from([one, replace(one, host="/srv/h"), replace(one, host=None, snapshot=True)]))
        for one in old.volumes
    ]
    containers = [
        replace(
            one,
            **{
                field: getattr(other.containers[0], field)
                for field in Container.__struct_fields__
                if field not in ("name", "mounts") and draw(st.integers(0, 4)) == 0
            },
        )
        for one in old.containers
    ]
    new["volumes"] = tuple(draw(st.permutations(volumes)))
    new["containers"] = tuple(draw(st.permutations(containers)))
    return old, replace(old, **new)


@settings(max_examples=60, deadline=None, suppress_health_check=list(Suppressed))
@given(edits())
def test_whatever_restarts_or_changes_what_runs_is_a_line_of_the_plan(pair: tuple[Pod, Pod]) -> None:
    old, new = pair
    later = {container.name: container for container in new.containers}
    touched = network_hash(old) != network_hash(new) or any(
        container_hash(old, one) != container_hash(new, later[one.name])
        or settings_hash(one) != settings_hash(later[one.name])
        for one in old.containers
    )
    # A rollout begins, and is watched, by what the plan says.
    assert not (touched and restarts_nothing(old, new)), changes(old, new)


def test_a_limit_is_shown_by_its_own_key() -> None:
    (line,) = changes(POD, edited(limits=Limits(cpu=CpuLimit(quota=1000))))[:1]
    assert line.key.startswith("containers[app].limits.cpu")
