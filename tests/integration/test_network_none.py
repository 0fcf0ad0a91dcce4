"""Pods without interfaces: a namespace of their own, or the host's."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.errors import Retry
from tank_agent.linux import namespaces
from tank_agent.linux.clock import Clock
from tank_agent.linux.mounts import mount_points, unmount
from tank_agent.network import pod_network
from tank_agent.network.addresses import Leases, Pool
from tank_agent.network.host_facts import StaticHostFacts
from tank_agent.network.host_side import HostSide
from tank_agent.network.pod_network import NetworkState, PodNetworks
from tank_agent.network.shim import HostAccess
from tank_agent.reconcile.networks import Networks
from tank_agent.spec.model import Network, Pod

_ENSURE = """
import sys
from pathlib import Path
from tank_agent.network.addresses import Leases, Pool
from tank_agent.network.host_facts import StaticHostFacts
from tank_agent.network.pod_network import PodNetworks
from tank_agent.spec.model import Network
PodNetworks(Path(sys.argv[1]), StaticHostFacts(None, ()), Leases(Pool(), {}, list)).ensure("web", Network())
"""

NONE = Network()
HOST = Network(mode="host")


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[PodNetworks]:
    made = PodNetworks(tmp_path, StaticHostFacts(None, ()), Leases(Pool(), {}, list))
    yield made
    made.sweep(())
    assert mount_points(tmp_path) == frozenset()
    assert list((tmp_path / "netns").glob("*")) == []


def loopback_talks() -> bytes:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=60) as client:
            client.sendall(b"hello")
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(30)
            return accepted.recv(5)


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_a_pod_without_network_has_its_own_namespace_with_loopback_up(networks: PodNetworks) -> None:
    state = networks.ensure("web", NONE)
    assert state.netns is not None
    assert state.netns_inode == inode(state.netns)
    assert state.netns_inode != inode(Path("/proc/thread-self/ns/net"))
    assert namespaces.in_network_namespace(state.netns, loopback_talks) == b"hello"
    assert namespaces.in_network_namespace(state.netns, socket.if_nameindex) == [(1, "lo")]
    assert state.addresses == ()
    assert networks.drift("web", NONE) == ()


def test_any_user_may_bind_low_ports_and_ping(networks: PodNetworks) -> None:
    state = networks.ensure("web", NONE)
    assert state.netns is not None
    as_nobody = """
import os, socket
os.setgid(65534)
os.setuid(65534)
socket.create_server(("127.0.0.1", 80)).close()
socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
"""
    namespaces.in_network_namespace(
        state.netns, lambda: subprocess.run([sys.executable, "-c", as_nobody], check=True, timeout=60)
    )


def test_without_the_right_to_make_namespaces_the_error_says_what_is_needed(tmp_path: Path) -> None:
    without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    command = [*without, sys.executable, "-c", _ENSURE, os.fspath(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Stalled: cannot make a network namespace: Operation not permitted" in ended.stderr
    assert "CAP_SYS_ADMIN" in ended.stderr


def test_ensure_again_keeps_the_namespace(networks: PodNetworks) -> None:
    first = networks.ensure("web", NONE)
    assert networks.ensure("web", NONE) == first == networks.observe("web")


def test_a_pod_in_the_hosts_network_gets_nothing(networks: PodNetworks, tmp_path: Path) -> None:
    assert networks.ensure("web", HOST) == NetworkState()
    assert networks.observe("web") is None
    assert networks.drift("web", HOST) == ()
    assert not (tmp_path / "netns").exists()


def test_a_pod_that_moves_to_the_hosts_network_loses_its_namespace(networks: PodNetworks) -> None:
    networks.ensure("web", NONE)
    assert networks.drift("web", HOST) == ("a network namespace is left over",)
    networks.ensure("web", HOST)
    assert networks.observe("web") is None


def test_pins_are_listed_and_what_nobody_wants_is_swept(networks: PodNetworks, tmp_path: Path) -> None:
    assert networks.pinned() == frozenset()
    assert networks.sweep(()) == ()
    for pod in ("a", "b", "c"):
        networks.ensure(pod, NONE)
    (tmp_path / "netns" / "half-made").touch()
    assert networks.pinned() == {"a", "b", "c"}
    assert networks.sweep({"b"}) == ("a", "c", "half-made")
    assert networks.pinned() == {"b"}


def test_remove_can_be_repeated_and_ends_the_pin(networks: PodNetworks) -> None:
    state = networks.ensure("web", NONE)
    assert state.netns is not None
    networks.remove("web")
    networks.remove("web")
    assert not state.netns.exists()


@pytest.mark.parametrize("error", [OSError("no"), RuntimeError("no"), Retry("no")])
def test_a_network_that_cannot_be_finished_is_removed_whatever_the_error(
    networks: PodNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def create_and_fail(path: Path, _: object) -> None:
        create(path, None)
        raise error

    create = pod_network._create
    monkeypatch.setattr(pod_network, "_create", create_and_fail)
    side, facts = HostSide(Pool(), "0.0.0.0", {}), StaticHostFacts(None, ())
    access = HostAccess(tmp_path / "netns", facts, enabled=False)
    known = Networks(networks, side, facts, tmp_path, Clock(), access=access, keep=lambda *_: None)
    with pytest.raises(type(error)):
        known.make(Pod(name="web", containers=()))
    assert networks.pinned() == frozenset() == known.pods()


@pytest.mark.parametrize("moment", ["before the pin is gone", "after it"])
def test_a_look_while_a_network_is_removed_does_not_keep_its_namespace(
    networks: PodNetworks, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    open_before = sorted(Path("/proc/self/fd").iterdir())
    networks.ensure("web", NONE)
    if moment == "before the pin is gone":
        unpin = namespaces.unpin

        def look_and_unpin(path: Path) -> None:
            networks.drift("web", NONE)
            unpin(path)

        monkeypatch.setattr(namespaces, "unpin", look_and_unpin)
        networks.remove("web")
    else:

        def open_and_lose(path: Path, inode: int) -> pod_network._Reader:
            reader = real(path, inode)
            networks.remove("web")
            return reader

        real = pod_network._Reader
        monkeypatch.setattr(pod_network, "_Reader", open_and_lose)
        with pytest.raises(Retry, match="removed meanwhile"):
            networks.drift("web", NONE)
    assert sorted(Path("/proc/self/fd").iterdir()) == open_before


def test_a_pin_that_somebody_unmounted_is_drift_and_made_anew(networks: PodNetworks) -> None:
    first = networks.ensure("web", NONE)
    assert first.netns is not None
    unmount(first.netns)
    assert networks.drift("web", NONE) == ("the network namespace is not pinned",)
    second = networks.ensure("web", NONE)
    assert second.netns == first.netns
    assert networks.drift("web", NONE) == ()


def test_a_lost_pin_is_taken_again_from_a_running_process(networks: PodNetworks) -> None:
    state = networks.ensure("web", NONE)
    assert state.netns is not None

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    with namespaces.in_network_namespace(state.netns, start) as workload:
        assert not networks.repin("web", workload.pid)
        unmount(state.netns)
        assert networks.repin("web", workload.pid)
        assert networks.observe("web") == state
        assert workload.stdin is not None
        workload.stdin.close()
        assert workload.wait(timeout=60) == 0


def test_loopback_that_was_set_down_is_drift_and_raised_again(networks: PodNetworks) -> None:
    state = networks.ensure("web", NONE)
    assert state.netns is not None
    namespaces.in_network_namespace(
        state.netns, lambda: subprocess.run(["ip", "link", "set", "lo", "down"], check=True, timeout=60)
    )
    assert networks.drift("web", NONE) == ("lo is down",)
    networks.ensure("web", NONE)
    assert networks.drift("web", NONE) == ()
    assert namespaces.in_network_namespace(state.netns, loopback_talks) == b"hello"


def test_an_error_inside_the_namespace_reaches_the_caller(networks: PodNetworks) -> None:
    state = networks.ensure("web", NONE)
    assert state.netns is not None
    with pytest.raises(OSError, match="nosuch0") as caught:
        namespaces.in_network_namespace(state.netns, lambda: namespaces.raise_link("nosuch0"))
    assert caught.value.errno == errno.ENODEV


@pytest.mark.parametrize("pod", ["../web", "", ".", "a/b", "WEB"])
def test_a_name_that_is_no_pods_never_becomes_a_path(networks: PodNetworks, pod: str) -> None:
    with pytest.raises(ValueError, match="no pod's name"):
        networks.ensure(pod, NONE)


@pytest.mark.parametrize(
    "fault", ["network:namespace-made", "network:pin-created", "network:namespace-pinned"]
)
def test_killed_while_it_makes_a_namespace_the_next_agent_goes_on(
    networks: PodNetworks, tmp_path: Path, fault: str
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _ENSURE, os.fspath(tmp_path)],
        env={**os.environ, "TANK_FAULT": fault},
        timeout=60,
        check=False,
    )
    assert killed.returncode == -9
    state = networks.ensure("web", NONE)
    assert networks.drift("web", NONE) == ()
    assert networks.pinned() == {"web"}
    assert state.netns is not None
    assert namespaces.in_network_namespace(state.netns, loopback_talks) == b"hello"


def test_no_heavy_import_for_a_pod_without_interfaces() -> None:
    code = "import sys, tank_agent.network.pod_network; sys.exit('pyroute2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
