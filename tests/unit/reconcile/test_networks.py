"""Networks of pods: what is remembered of each, what counts as drift, and what a failed change waits for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from tank_agent.errors import Retry, Stalled
from tank_agent.network.addresses import Pool
from tank_agent.network.host_facts import HostDns
from tank_agent.network.host_side import HostSide, Reservation
from tank_agent.network.pod_network import NetworkState
from tank_agent.network.shim import HostAccess
from tank_agent.reconcile import networks as module
from tank_agent.reconcile.networks import PACE, Networks
from tank_agent.spec.model import Container, Network, Pod
from tests.unit.reconcile.test_troubles import StillClock

NONE, HOST = Network(mode="none"), Network(mode="host")
OTHER = Network(mode="none", dns=("10.0.0.1",))


def pod(network: Network = NONE) -> Pod:
    return Pod(name="web", containers=(Container(name="app", rootfs="/r", command=("x",)),), network=network)


class Made:
    """Pod networks that exist on paper: a number for each namespace."""

    def __init__(self) -> None:
        self.states: dict[str, NetworkState] = {}
        self.number = 0
        self.fails: Exception | None = None
        self.drifts: tuple[str, ...] = ()
        self.did: list[str] = []

    def ensure(self, pod: str, network: Network, _: Mapping[str, str]) -> NetworkState:
        self.did.append(f"ensure {pod}")
        if self.fails is not None:
            raise self.fails
        if pod not in self.states:
            self.number += 1
            self.states[pod] = NetworkState(netns=Path(f"/netns/{pod}"), netns_inode=self.number)
        return self.states[pod]

    def observe(self, pod: str) -> NetworkState | None:
        return self.states.get(pod)

    def drift(
        self, pod: str, network: Network, *, inode: int | None = None, sysctls: Mapping[str, str]
    ) -> tuple[str, ...]:
        if inode != self.states[pod].netns_inode:
            return ("another namespace",)
        return self.drifts

    def remove(self, pod: str) -> None:
        self.did.append(f"remove {pod}")
        self.states.pop(pod, None)

    def sweep(self, keep: Any) -> None:
        for name in self.states.keys() - set(keep):
            del self.states[name]

    def repin(self, pod: str, pid: int) -> bool:
        self.did.append(f"repin {pod} {pid}")
        self.states[pod] = NetworkState(netns=Path(f"/netns/{pod}"), netns_inode=pid)
        return True


class World:
    def __init__(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.clock, self.run_dir = Made(), StillClock(), run_dir
        self.dns = HostDns(servers=("192.168.1.1",))
        self.namespaces: dict[int, int] = {}
        self.kept: dict[str, Reservation] = {}
        self.pins: dict[str, int | None] = {}
        monkeypatch.setattr(PACE, "jitter", 0.0)
        monkeypatch.setattr(module, "_HOSTS", run_dir / "hosts")
        monkeypatch.setattr(module, "network_namespace_inode", self.pinned)
        monkeypatch.setattr(module, "namespace_of", self.namespaces.get)
        monkeypatch.setattr(module, "unpin", lambda path: self.made.did.append(f"unpin {path}"))
        self.networks = self.new()

    def new(self) -> Networks:
        host = type("Host", (), {"dns": lambda _: self.dns})()
        side, access = HostSide(Pool(), "0.0.0.0", {}), HostAccess(self.run_dir, host, enabled=False)
        made = cast(Any, self.made)
        return Networks(made, side, host, self.run_dir, self.clock, access=access, keep=self.keep)

    def keep(self, pod: str, reserved: Reservation) -> None:
        self.kept[pod] = reserved

    def pinned(self, path: Path) -> int | None:
        state = self.made.states.get(path.name)
        return self.pins.get(path.name, state.netns_inode if state is not None else None)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_network_is_fresh_until_a_container_starts_in_it_and_goes_with_them(world: World) -> None:
    networks = world.networks
    assert (networks.state("web"), networks.pods()) == ("absent", frozenset())
    networks.make(pod())
    assert (networks.state("web"), networks.pods()) == ("fresh", {"web"})
    assert networks.namespace(pod()) == Path("/netns/web")
    assert networks.state("web") == "used"
    networks.remove("web")
    assert (networks.state("web"), networks.pods()) == ("absent", frozenset())
    networks.make(pod())
    assert networks.state("web") == "fresh"


def test_one_that_cannot_be_made_leaves_nothing(world: World) -> None:
    world.made.fails = Retry("no uplink")
    with pytest.raises(Retry):
        world.networks.make(pod())
    assert world.made.did == ["ensure web", "remove web"]
    assert (world.networks.state("web"), world.networks.change(pod())) == ("absent", None)


def test_no_container_starts_in_a_namespace_that_lost_its_pin(world: World) -> None:
    world.networks.make(pod())
    world.pins["web"] = 99
    with pytest.raises(Retry, match="not pinned"):
        world.networks.namespace(pod())
    change = world.networks.change(pod())
    assert change is not None
    assert change.reason == "the network namespace is not pinned"
    assert world.networks.namespace(pod(HOST)) is None


def test_another_spec_and_drift_are_changes_until_they_are_made(world: World) -> None:
    networks = world.networks
    networks.make(pod())
    networks.files(pod())
    assert networks.change(pod()) is None
    assert networks.change(pod(OTHER)).reason == "the pod's file changed it"  # type: ignore[union-attr]
    networks.converge(pod(OTHER), ())
    assert networks.change(pod(OTHER)) is None
    assert networks.change(pod()) is not None
    networks.converge(pod(), ())
    world.made.drifts = ("eth0 is away", "x")
    networks.check(pod())
    assert networks.change(pod()).reason == "eth0 is away"  # type: ignore[union-attr]
    world.made.drifts = ()
    networks.check(pod())
    assert networks.change(pod()) is None
    # Of a pod that nothing is known of, nothing differs, and nothing is remembered: as in a dry run.
    other = Pod(name="other", containers=pod().containers, network=OTHER)
    assert (networks.change(other), networks.check(other)) == (None, False)
    assert networks.pods() == {"web"}


def test_a_change_that_fails_waits_longer_each_time_and_another_spec_is_another_try(world: World) -> None:
    networks = world.networks
    networks.make(pod())
    world.made.fails = Stalled("no such parent")
    waits = []
    for _ in range(6):
        with pytest.raises(Stalled):
            networks.converge(pod(OTHER), ())
        change = networks.change(pod(OTHER))
        assert change is not None
        assert change.error == "no such parent"
        waits.append(change.retry_at - world.clock.now)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    third = Network(mode="none", dns=("10.0.0.2",))
    change, failure = networks.change(pod(third)), networks.failure("web")
    assert change is not None
    assert (change.error, change.retry_at) == ("", 0.0)
    assert failure is not None
    assert (failure.error, failure.count) == ("no such parent", 6)
    # What could be done is done: the files are written.
    assert (networks.directory("web") / "resolv.conf").read_text() == "nameserver 10.0.0.1\n"
    world.made.fails = None
    networks.converge(pod(OTHER), ())
    assert (networks.change(pod(OTHER)), networks.failure("web")) == (None, None)


def test_files_that_differ_are_drift_and_files_that_were_replaced_are_reported_once(world: World) -> None:
    networks = world.networks
    networks.make(pod())
    directory = networks.files(pod())
    assert {path.name for path in directory.iterdir()} == {"hosts", "hostname", "resolv.conf"}
    assert networks.check(pod()) is False
    (directory / "hostname").write_text("evil\n")
    assert networks.check(pod()) is False
    assert networks.change(pod()).reason == "/etc/hostname is not as it should be"  # type: ignore[union-attr]
    (directory / "new").write_text("web\n")
    (directory / "new").rename(directory / "hostname")
    assert networks.check(pod()) is True
    assert networks.check(pod()) is False
    assert networks.change(pod()) is None


def test_the_hosts_dns_reaches_pods_that_use_it_within_a_second(world: World) -> None:
    networks, host = world.networks, pod(HOST)
    directory = networks.files(host)
    networks.check(host)
    assert networks.change(host) is None
    world.dns = HostDns(servers=("192.168.1.2",))
    networks.check(host)
    assert networks.change(host) is None
    world.clock.now += 1.0
    networks.check(host)
    assert networks.change(host).reason == "/etc/resolv.conf is not as it should be"  # type: ignore[union-attr]
    networks.converge(host, ())
    assert (directory / "resolv.conf").read_text() == "nameserver 192.168.1.2\n"
    assert networks.state("web") == "absent"


def test_a_lost_pin_is_taken_again_from_a_process_that_is_in_the_namespace(world: World) -> None:
    networks = world.networks
    networks.make(pod())
    world.pins["web"] = 99
    world.namespaces |= {41: 5, 42: 1}
    networks.converge(pod(), [41, 42])
    assert "unpin /netns/web" in world.made.did
    assert "repin web 42" in world.made.did
    with pytest.raises(Retry, match="is gone"):
        networks.converge(pod(), [])
    assert networks.state("web") == "absent"


def test_what_runs_keeps_its_network_over_a_restart_of_the_agent_and_the_rest_goes(world: World) -> None:
    world.networks.make(pod())
    for name in ("web", "gone"):
        (world.run_dir / "pods" / name).mkdir()
    networks = world.new()
    world.namespaces[7] = 3
    networks.adopt({"web": [7], "unpinned": [8, 7], "host": []}, {}, {})
    assert networks.pods() == {"web", "unpinned"}
    assert networks.state("web") == "used"
    assert "repin unpinned 7" in world.made.did
    assert not (world.run_dir / "pods" / "gone").exists()
    networks.remove("web")
    networks.forget("web")
    assert not (world.run_dir / "pods" / "web").exists()


def test_a_pod_is_remembered_from_the_first_that_is_made_for_it_until_it_is_forgotten(world: World) -> None:
    networks = world.networks
    assert not networks.remembers("web")
    networks.make(pod())
    networks.remove("web")
    # Its network is gone, and its names and files are not.
    assert networks.pods() == frozenset()
    assert networks.remembers("web") and networks.remembered() == {"web"}
    networks.forget("web")
    assert not networks.remembers("web") and networks.remembered() == frozenset()
    world.made.fails = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        networks.make(pod())
    assert networks.remembers("web")
    # What a former agent left of one, and the names of one that is declared, go with it, too.
    networks = world.new()
    networks.adopt({"web": []}, {"db": replace(pod(), name="db")}, {})
    assert networks.remembered() == {"web", "db"} and networks.pods() == frozenset()
