"""An agent of an older format refuses what it would misunderstand, and reads all else."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import Stalled
from tank_agent.journal.formats import ADDED, NEWEST, OLDEST, format_of
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import ContainerStatus, Good, PodStatus
from tank_agent.journal.stops import Wish
from tank_agent.journal.store import MemoryStore, Table, Write
from tank_agent.journal.transitions import SCHEMA_KEY
from tank_agent.spec.model import (
    ConfigFile,
    Container,
    CpuLimit,
    HealthCheck,
    HttpProbe,
    Limits,
    Mount,
    Network,
    Pod,
    Schedule,
    Secret,
    Security,
    Ulimit,
    Volume,
)
from tests.unit.journal.builders import FakeClock, pod

# What the agents of format 1 knew. It never changes: a field that is not here is one of a newer format.
FIRST = {
    "Pod": "name containers restart network ports volumes after update",
    "Container": "name image pull rootfs command args env working_dir user tty "
    "stop_signal stop_grace mounts limits security init after health",
    "Mount": "volume path read_only",
    "Limits": "memory pids cpu",
    "CpuLimit": "quota period",
    "Security": "add drop read_only_root privileged seccomp apparmor devices userns",
    "HealthCheck": "http tcp exec image interval timeout retries start_period start_interval on_failure",
    "HttpProbe": "port path headers tls",
    "Network": "mode nics bridges dns dns_search dns_options extra_hosts",
    "Nic": "name mode parent ip gateway",
    "Port": "host pod protocol address count",
    "Volume": "name host snapshot",
    "Update": "min_healthy deadline max_restarts rollback image",
}
VALUES: dict[tuple[type[Struct], str], Any] = {
    (Pod, "schedule"): Schedule(cron="0 3 * * *"),
    (Pod, "files"): (ConfigFile(name="conf", content=b"x"),),
    (Pod, "secrets"): (Secret(name="key", host="/etc/key"),),
    (Pod, "sysctls"): {"net.core.somaxconn": "100"},
    (Pod, "hostname"): "nas.lan",
    (Network, "aliases"): ("my_db",),
    (Volume, "shared"): True,
    (Container, "shm_size"): 1 << 20,
    (Container, "ulimits"): {"nofile": Ulimit(soft=1, hard=2)},
    (Container, "groups"): ("44",),
    (Limits, "memory_reservation"): 1,
    (Limits, "swap"): 0,
    (Limits, "cpu_weight"): 50,
    (Limits, "cpus"): "0",
    (Mount, "file"): "conf",
    (Mount, "secret"): "key",
    (Mount, "tmpfs"): 1 << 20,
    (Mount, "subpath"): "a",
    (Mount, "from_image"): True,
    (Mount, "on_change"): "nothing",
    (Mount, "mode"): 0o600,
    (Mount, "owner"): "web",
}
OLD_DEVICES = Security(devices=("/dev/fuse",), privileged=True)
OLD = replace(
    pod(),
    volumes=(Volume(name="data", snapshot=True),),
    containers=(
        Container(
            name="app",
            rootfs="/srv/app",
            mounts=(Mount(volume="data", path="/data", read_only=True),),
            limits=Limits(memory=1 << 20, pids=5, cpu=CpuLimit(quota=1, period=2)),
            health=HealthCheck(http=HttpProbe(port=80)),
            security=OLD_DEVICES,
        ),
    ),
)


def structs_in(kind: Any) -> Iterator[type[Struct]]:
    for argument in typing.get_args(kind):
        yield from structs_in(argument)
    if isinstance(kind, type) and issubclass(kind, Struct):
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from structs_in(field.type)


def test_a_new_field_is_in_a_format() -> None:
    added = {(kind, name) for kinds in ADDED.values() for kind, names in kinds.items() for name in names}
    reached = {kind for kind, _ in added}
    known = {(kind.__name__, name) for kind, name in added}
    for kind in set(structs_in(Pod)):
        if kind.__name__ in FIRST:
            reached.add(kind)
            known |= {(kind.__name__, name) for name in FIRST[kind.__name__].split()}
    fields = {(kind.__name__, name) for kind in reached for name in kind.__struct_fields__}
    assert fields == known
    assert added == set(VALUES)


def with_value(kind: type[Struct], name: str, value: Any) -> Pod:
    changed = {name: value}
    app = OLD.containers[0]
    if kind is Pod:
        return replace(OLD, **changed)
    if kind is Network:
        return replace(OLD, network=replace(OLD.network, **changed))
    if kind is Volume:
        return replace(OLD, volumes=(replace(OLD.volumes[0], **changed),))
    if kind is Mount:
        app = replace(app, mounts=(*app.mounts, replace(app.mounts[0], **changed)))
    elif kind is Limits:
        app = replace(app, limits=replace(app.limits, **changed))
    elif kind is Security:
        app = replace(app, security=replace(app.security, **changed))
    else:
        app = replace(app, **changed)
    return replace(OLD, containers=(*OLD.containers, app))


@pytest.mark.parametrize(("kind", "name"), list(VALUES))
def test_a_pod_that_uses_a_new_field_is_of_the_new_format(kind: type[Struct], name: str) -> None:
    assert format_of(OLD) == OLDEST
    assert format_of(with_value(kind, name, VALUES[kind, name])) == 2


@pytest.mark.parametrize("device", ["/dev/fuse:/dev/fuse0", "/dev/fuse:/dev/fuse:r", "vendor.com/gpu=all"])
def test_a_device_that_is_mapped_is_of_the_new_format(device: str) -> None:
    assert format_of(with_value(Security, "devices", (device,))) == 2


def test_the_journal_has_the_format_that_its_pods_ever_needed() -> None:
    store, clock = MemoryStore(), FakeClock()

    def stored() -> bytes | None:
        return store.get(Table.META, SCHEMA_KEY)

    journal = Journal(store, clock=clock)
    journal.put(OLD, "r")
    assert stored() == b"1"
    journal.put(replace(OLD, schedule=Schedule(cron="0 3 * * *")), "r")
    assert stored() == b"2"
    # Its history still has the job.
    journal.put(OLD, "r")
    journal.delete("web")
    assert stored() == b"2"
    journal.close()
    Journal(store, clock=clock).close()
    assert stored() == b"2"
    store.write([Write(Table.META, SCHEMA_KEY, str(NEWEST + 1).encode())])
    with pytest.raises(Stalled, match="newer tank-agent"):
        Journal(store, clock=clock)


# As commit 460cfee6 wrote it, the last before pods could be stopped by hand and had further names.
STATUS_BEFORE_STOPS = (
    b'{"containers":{"app":{"hash":"c0ffee","restarts":2,"failures":0,"instance":"0a1b2c3d4e5f",'
    b'"boot_id":"b00t","started_at":1000.0,"retry_at":null,"exit":null,"settings":"","network":"",'
    b'"error":null,"health":null,"digest":"","ended_boot":""}},"error":null,'
    b'"leases":{"default":["10.90.0.2/24"]},"ports":[],"released":"b00t","rollout":null,'
    b'"good":{"generation":1,"hash":"h","at":1000.0,"images":{},"snapshots":{}},"bad":[],"blocked":null,'
    b'"job":null}'
)


def test_a_pod_of_an_agent_before_stop_and_restart_goes_on_and_can_be_stopped_and_restarted() -> None:
    store, clock = MemoryStore(), FakeClock()
    former = Journal(store, clock=clock)
    former.put(OLD, "r")
    former.close()
    store.write([Write(Table.STATUS, b"web", STATUS_BEFORE_STOPS)])
    journal = Journal(store, clock=clock)
    app = ContainerStatus(
        hash="c0ffee", restarts=2, instance="0a1b2c3d4e5f", boot_id="b00t", started_at=1000.0
    )
    assert journal.status("web") == PodStatus(
        containers={"app": app},
        leases={"default": ("10.90.0.2/24",)},
        released="b00t",
        good=Good(generation=1, hash="h", at=1000.0),
        stopped=None,
        replacing=(),
        aliases={},
    )
    wish = Wish(by="root", boot_id="b00t", monotonic=5.0)
    journal.restart("web", "app", wish)
    assert journal.status("web").replacing == ("0a1b2c3d4e5f",)
    assert journal.stop("web", "root")
    assert journal.status("web").stopped is not None
