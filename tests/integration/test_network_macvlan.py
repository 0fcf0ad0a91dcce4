"""Pods with interfaces, on real ones: a network namespace stands for the machine, another for its LAN.

lan:   br0 10.0.0.1/24 fd00::1/64      br1 192.168.5.1/24
        │ veth                          │ veth
host:  eth0 10.0.0.2/24, default        eth1
        │ macvlan                       │ macvlan
pods:  eth0                            eth1
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.linux.mounts import mount_points
from tank_agent.network import probe, wanted
from tank_agent.network.addresses import Leases, Pool
from tank_agent.network.host_facts import AutoHostFacts
from tank_agent.network.pod_network import NetworkState, PodNetworks
from tank_agent.network.wanted import stable_mac
from tank_agent.spec.model import Network, Nic
from tests.support.lan import Lan, talk
from tests.support.lan import Network as Namespace


class Lab(Lan):
    """The machine, its LAN, and the agent's networks on it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.directory = directory
        self.run_dir = directory / "run"
        self.networks = PodNetworks(self.run_dir, AutoHostFacts(), Leases(Pool(), {}, list))

    def ensure(self, pod: str, network: Network) -> NetworkState:
        return self.host(self.networks.ensure, pod, network)

    def drift(self, pod: str, network: Network) -> tuple[str, ...]:
        return self.host(self.networks.drift, pod, network)

    def pod(self, pod: str) -> Namespace:
        return Namespace(self.run_dir / "netns" / pod)

    def close(self) -> None:
        self.host(self.networks.sweep, ())
        assert self.host.links() <= {"lo", "eth0", "eth1", "br9", "eth8", "eth9", "up9"}
        self.remove_networks()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Lab]:
    if request.cls is not TestRefusals:
        # Their addresses are free; how long one listens for an objection is not what they prove.
        monkeypatch.setattr(probe, "INTERVAL_SECONDS", 0.01)
    made = Lab(tmp_path)
    yield made
    made.close()
    assert mount_points(tmp_path) == frozenset()


def nics(*made: Nic) -> Network:
    return Network(mode="nics", nics=made)


def eth0(*addresses: str, gateway: tuple[str, ...] = (), parent: str = "auto") -> Nic:
    return Nic(name="eth0", ip=addresses or ("10.0.0.5/24",), gateway=gateway, parent=parent)


class TestReach:
    def test_the_lan_reaches_a_pod_and_the_pod_the_lan_over_ipv4_and_ipv6(self, lab: Lab) -> None:
        state = lab.ensure("web", nics(eth0("10.0.0.5/24", "fd00::5/64")))
        assert state.addresses == ("10.0.0.5/24", "fd00::5/64")
        for address in ("10.0.0.5", "fd00::5"):
            assert talk(lab.lan, lab.pod("web"), address) == b"hello"
        for address in ("10.0.0.1", "fd00::1"):
            assert talk(lab.pod("web"), lab.lan, address) == b"hello"

    def test_two_pods_on_one_uplink_reach_each_other(self, lab: Lab) -> None:
        lab.ensure("a", nics(eth0("10.0.0.5/24", "fd00::5/64")))
        lab.ensure("b", nics(eth0("10.0.0.6/24", "fd00::6/64")))
        assert talk(lab.pod("a"), lab.pod("b"), "10.0.0.6") == b"hello"
        assert talk(lab.pod("b"), lab.pod("a"), "fd00::5") == b"hello"

    def test_two_interfaces_on_two_uplinks(self, lab: Lab) -> None:
        second = Nic(name="eth1", parent="eth1", ip=("192.168.5.5/24",))
        state = lab.ensure("web", nics(eth0(), second))
        assert state.addresses == ("10.0.0.5/24", "192.168.5.5/24")
        assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"
        assert talk(lab.lan, lab.pod("web"), "192.168.5.5") == b"hello"

    def test_gateways_become_default_routes_and_the_first_interface_wins(self, lab: Lab) -> None:
        lab.lan.ip("addr add 10.99.0.1/32 dev lo")
        lab.lan.ip("addr add fd99::1/128 dev lo nodad")
        second = Nic(name="eth1", parent="eth1", ip=("192.168.5.5/24",), gateway=("192.168.5.1",))
        lab.ensure("web", nics(eth0("10.0.0.5/24", "fd00::5/64", gateway=("10.0.0.1", "fd00::1")), second))
        assert talk(lab.pod("web"), lab.lan, "10.99.0.1") == b"hello"
        assert talk(lab.pod("web"), lab.lan, "fd99::1") == b"hello"
        routes = lab.pod("web").ip("-4 route show default").splitlines()
        assert [route.split()[2] for route in routes] == ["10.0.0.1", "192.168.5.1"]

    def test_a_gateway_outside_the_prefix_is_on_the_link(self, lab: Lab) -> None:
        lab.lan.ip("route add 10.7.7.7/32 dev br0")
        lab.lan.ip("addr add 10.99.0.1/32 dev lo")
        lab.ensure("web", nics(eth0("10.7.7.7/32", gateway=("10.0.0.1",))))
        assert talk(lab.pod("web"), lab.lan, "10.99.0.1") == b"hello"

    def test_a_link_local_gateway(self, lab: Lab) -> None:
        lab.lan.ip("addr add fe80::1/64 dev br0 nodad")
        lab.lan.ip("addr add fd99::1/128 dev lo nodad")
        lab.ensure("web", nics(eth0("fd00::5/64", gateway=("fe80::1",))))
        assert talk(lab.pod("web"), lab.lan, "fd99::1") == b"hello"

    def test_the_mtu_is_the_parents(self, lab: Lab) -> None:
        lab.host.ip("link set eth0 mtu 1400")
        lab.ensure("web", nics(eth0()))
        assert "mtu 1400" in lab.pod("web").ip("link show eth0")

    def test_the_mac_address_is_the_same_after_the_pod_was_removed(self, lab: Lab) -> None:
        expected = stable_mac("web", "eth0").hex(":")
        for _ in range(2):
            lab.ensure("web", nics(eth0()))
            assert expected in lab.pod("web").ip("link show eth0")
            lab.host(lab.networks.remove, "web")

    def test_only_what_the_file_names_no_ipv6_on_an_ipv4_interface(self, lab: Lab) -> None:
        lab.ensure("web", nics(eth0()))
        assert "inet6" not in lab.pod("web").ip("addr show eth0")

    def test_a_name_that_the_host_has_too(self, lab: Lab) -> None:
        # "eth0" and "eth1" are both the host's; this pod's eth1 lies on the host's eth0.
        lab.ensure("web", nics(Nic(name="eth1", parent="eth0", ip=("10.0.0.5/24",))))
        assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"
        assert lab.host.links() == {"lo", "eth0", "eth1"}


class TestChanges:
    """A running pod's network follows its file, in the same namespace and on the same interface."""

    def change(self, lab: Lab, before: Network, after: Network) -> NetworkState:
        first = lab.ensure("web", before)
        assert lab.drift("web", after) != ()
        second = lab.ensure("web", after)
        assert second.netns_inode == first.netns_inode == lab.pod("web").inode()
        assert lab.drift("web", after) == ()
        return second

    def index(self, lab: Lab, name: str) -> int:
        return lab.pod("web")(socket.if_nametoindex, name)

    def test_an_address_is_replaced_while_the_interface_stays(self, lab: Lab) -> None:
        lab.ensure("web", nics(eth0("10.0.0.5/24", gateway=("10.0.0.1",))))
        before = self.index(lab, "eth0")
        state = self.change(
            lab,
            nics(eth0("10.0.0.5/24", gateway=("10.0.0.1",))),
            nics(eth0("10.0.0.6/24", gateway=("10.0.0.1",))),
        )
        assert state.addresses == ("10.0.0.6/24",)
        assert self.index(lab, "eth0") == before
        assert "default via 10.0.0.1" in lab.pod("web").ip("route")
        assert talk(lab.lan, lab.pod("web"), "10.0.0.6") == b"hello"

    def test_an_open_connection_survives_a_second_address(self, lab: Lab) -> None:
        lab.ensure("web", nics(eth0("10.0.0.5/24")))
        with lab.pod("web")(lambda: socket.create_server(("10.0.0.5", 0))) as server:
            server.settimeout(5)
            with lab.lan(lambda: socket.create_connection(server.getsockname(), timeout=5)) as client:
                accepted, _ = server.accept()
                lab.ensure("web", nics(eth0("10.0.0.4/24", "10.0.0.5/24", "fd00::5/64")))
                lab.ensure("web", nics(eth0("10.0.0.5/24")))
                with accepted:
                    accepted.settimeout(5)
                    client.sendall(b"still")
                    assert accepted.recv(5) == b"still"

    def test_another_prefix_length(self, lab: Lab) -> None:
        state = self.change(
            lab, nics(eth0("10.0.0.5/24", "fd00::5/64")), nics(eth0("10.0.0.5/16", "fd00::5/48"))
        )
        assert state.addresses == ("10.0.0.5/16", "fd00::5/48")

    def test_ipv6_comes_to_an_ipv4_interface(self, lab: Lab) -> None:
        self.change(lab, nics(eth0("10.0.0.5/24")), nics(eth0("10.0.0.5/24", "fd00::5/64")))
        assert talk(lab.lan, lab.pod("web"), "fd00::5") == b"hello"

    def test_ipv6_goes_with_its_last_address_and_comes_back(self, lab: Lab) -> None:
        both = nics(eth0("10.0.0.5/24", "fd00::5/64", gateway=("10.0.0.1", "fd00::1")))
        self.change(lab, both, nics(eth0("10.0.0.5/24", gateway=("10.0.0.1",))))
        assert "inet6" not in lab.pod("web").ip("addr show eth0")
        # Nor does it come back with the interface.
        lab.pod("web").ip("link set eth0 down")
        lab.ensure("web", nics(eth0("10.0.0.5/24", gateway=("10.0.0.1",))))
        assert "inet6" not in lab.pod("web").ip("addr show eth0")
        self.change(lab, nics(eth0("10.0.0.5/24", gateway=("10.0.0.1",))), both)
        assert talk(lab.lan, lab.pod("web"), "fd00::5") == b"hello"

    def test_another_gateway(self, lab: Lab) -> None:
        lab.lan.ip("addr add 10.0.0.254/24 dev br0")
        self.change(lab, nics(eth0(gateway=("10.0.0.1",))), nics(eth0(gateway=("10.0.0.254",))))
        assert lab.pod("web").ip("route show default").split()[2] == "10.0.0.254"
        self.change(lab, nics(eth0(gateway=("10.0.0.254",))), nics(eth0()))
        assert lab.pod("web").ip("route show default") == ""

    def test_an_interface_comes_and_goes(self, lab: Lab) -> None:
        second = Nic(name="eth1", parent="eth1", ip=("192.168.5.5/24",))
        state = self.change(lab, nics(eth0()), nics(eth0(), second))
        assert state.addresses == ("10.0.0.5/24", "192.168.5.5/24")
        state = self.change(lab, nics(eth0(), second), nics(eth0()))
        assert state.addresses == ("10.0.0.5/24",)
        assert lab.pod("web").links() == {"lo", "eth0"}

    def test_an_interface_moves_to_another_parent(self, lab: Lab) -> None:
        self.change(lab, nics(eth0("192.168.5.5/24")), nics(eth0("192.168.5.5/24", parent="eth1")))
        assert talk(lab.lan, lab.pod("web"), "192.168.5.5") == b"hello"

    def test_from_interfaces_to_none_and_back(self, lab: Lab) -> None:
        self.change(lab, nics(eth0()), Network())
        assert lab.pod("web").links() == {"lo"}
        self.change(lab, Network(), nics(eth0()))
        assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"

    def test_the_old_interface_stays_if_the_new_parent_is_impossible(self, lab: Lab) -> None:
        lab.ensure("web", nics(eth0()))
        with pytest.raises(Retry, match="no interface 'eth7'"):
            lab.ensure("web", nics(eth0(parent="eth7")))
        lab.host.ip("link add macvlan9 link eth1 type macvlan mode bridge")
        with pytest.raises(Stalled, match="macvlan9 is itself a macvlan"):
            lab.ensure("web", nics(eth0(parent="macvlan9")))
        lab.host.ip("link del macvlan9")
        assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"


class TestDrift:
    NETWORK = nics(eth0("10.0.0.5/24", "fd00::5/64", gateway=("10.0.0.1", "fd00::1")))

    @pytest.mark.parametrize(
        ("damage", "sentences"),
        [
            ("addr del 10.0.0.5/24 dev eth0", {"eth0 lacks 10.0.0.5/24"}),
            ("addr del fd00::5/64 dev eth0", {"eth0 lacks fd00::5/64"}),
            ("-4 route del default", {"eth0 lacks the default route via 10.0.0.1"}),
            ("-6 route del default", {"eth0 lacks the default route via fd00::1"}),
            ("link set eth0 down", {"eth0 is down"}),
            ("link del eth0", {"eth0 is missing"}),
            ("link set lo down", {"lo is down"}),
            ("addr add 10.0.0.77/24 dev eth0", {"eth0 has 10.0.0.77/24, which the pod does not name"}),
            (
                "route add default via 10.0.0.254 metric 5",
                {"eth0 has a default route via 10.0.0.254 that the pod does not name"},
            ),
            (
                "-6 route add default via fd00::99 dev eth0 metric 5",
                {"eth0 has a default route via fd00::99 that the pod does not name"},
            ),
            (
                "route add default dev eth0 metric 7 proto dhcp",
                {"eth0 has a default route that the pod does not name"},
            ),
            (
                "link set eth0 address 02:00:00:00:00:01",
                {"eth0 has the MAC address 02:00:00:00:00:01 instead of", "eth0 is missing"},
            ),
        ],
    )
    def test_what_is_damaged_is_named_and_repaired(self, lab: Lab, damage: str, sentences: set[str]) -> None:
        first = lab.ensure("web", self.NETWORK)
        assert lab.drift("web", self.NETWORK) == ()
        lab.pod("web").ip(damage)
        found = lab.drift("web", self.NETWORK)
        for sentence in sentences:
            assert any(each.startswith(sentence) for each in found), found
        assert lab.ensure("web", self.NETWORK) == first
        assert lab.drift("web", self.NETWORK) == ()
        assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"
        assert talk(lab.pod("web"), lab.lan, "fd00::1") == b"hello"

    def test_a_renamed_interface_is_rebuilt(self, lab: Lab) -> None:
        lab.ensure("web", self.NETWORK)
        lab.pod("web").ip("link set eth0 down")
        lab.pod("web").ip("link set eth0 name lost0")
        assert lab.drift("web", self.NETWORK) == ("lost0 is not named by the pod", "eth0 is missing")
        lab.ensure("web", self.NETWORK)
        assert lab.pod("web").links() == {"lo", "eth0"}

    def test_an_interface_of_the_pods_own_is_left_alone_unless_it_takes_our_name(self, lab: Lab) -> None:
        lab.ensure("web", Network())
        lab.pod("web").ip("link add own0 type bridge")
        lab.pod("web").ip("link add eth0 type bridge")
        assert lab.drift("web", Network()) == ()
        lab.ensure("web", self.NETWORK)
        assert lab.pod("web").links() == {"lo", "eth0", "own0"}
        assert lab.drift("web", self.NETWORK) == ()

    def test_a_parent_that_went_away_and_came_back(self, lab: Lab) -> None:
        lab.ensure("web", self.NETWORK)
        lab.host.ip("link del eth0")
        assert lab.pod("web").links() == {"lo"}
        assert lab.drift("web", self.NETWORK) == ("eth0 is missing",)
        with pytest.raises(Retry, match="no uplink"):
            lab.ensure("web", self.NETWORK)
        lab.add_uplink(0)
        lab.host.ip("addr add 10.0.0.2/24 dev eth0")
        lab.host.ip("route add default via 10.0.0.1")
        lab.ensure("web", self.NETWORK)
        assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"

    def test_an_uplink_without_default_route_for_a_while_changes_nothing(self, lab: Lab) -> None:
        lab.ensure("web", self.NETWORK)
        lab.host.ip("route del default")
        assert lab.drift("web", self.NETWORK) == ()
        lab.ensure("web", self.NETWORK)
        assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"

    def test_a_new_uplink_is_followed(self, lab: Lab) -> None:
        lab.ensure("web", nics(eth0("192.168.5.5/24")))
        lab.host.ip("route del default")
        lab.host.ip("addr add 192.168.5.2/24 dev eth1")
        lab.host.ip("route add default via 192.168.5.1")
        assert lab.drift("web", nics(eth0("192.168.5.5/24"))) == (
            "eth0 lies on another interface than eth1",
            "eth0 is missing",
        )
        lab.ensure("web", nics(eth0("192.168.5.5/24")))
        assert talk(lab.lan, lab.pod("web"), "192.168.5.5") == b"hello"


class TestOneOfTwoFails:
    """What one interface cannot have is no reason to leave the other as it is."""

    SECOND = Nic(name="eth1", parent="eth1", ip=("192.168.5.5/24",))

    def test_an_uplink_is_gone_and_the_interface_on_the_other_is_repaired(self, lab: Lab) -> None:
        network = nics(eth0("10.0.0.5/24", gateway=("10.0.0.1",)), self.SECOND)
        lab.ensure("web", network)
        lab.host.ip("link del eth1")
        for damage in ("addr del 10.0.0.5/24 dev eth0", "route del default", "link del eth0"):
            lab.pod("web").ip(damage)
            with pytest.raises(Retry, match="no interface 'eth1'"):
                lab.ensure("web", network)
            assert lab.drift("web", network) == ("eth1 is missing",), damage
            assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"
            assert "default via 10.0.0.1" in lab.pod("web").ip("route")

    def test_an_uplink_is_gone_and_the_interface_on_the_other_is_changed(self, lab: Lab) -> None:
        lab.ensure("web", nics(eth0("10.0.0.5/24"), self.SECOND))
        lab.host.ip("link del eth1")
        with pytest.raises(Retry, match="no interface 'eth1'"):
            lab.ensure("web", nics(eth0("10.0.0.6/24"), self.SECOND))
        state = lab.host(lab.networks.observe, "web")
        assert state is not None
        assert state.addresses == ("10.0.0.6/24",)
        lab.add_uplink(1)
        lab.ensure("web", nics(eth0("10.0.0.6/24"), self.SECOND))
        assert talk(lab.lan, lab.pod("web"), "192.168.5.5") == b"hello"

    def test_a_renamed_interface_is_made_again_though_another_cannot_be_made(self, lab: Lab) -> None:
        network = nics(eth0(), self.SECOND)
        lab.ensure("web", network)
        lab.host.ip("link del eth1")
        lab.pod("web").ip("link set eth0 down")
        lab.pod("web").ip("link set eth0 name lost0")
        with pytest.raises(Retry, match="no interface 'eth1'"):
            lab.ensure("web", network)
        assert lab.pod("web").links() == {"lo", "eth0"}
        assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"

    def test_an_interface_stays_if_what_takes_its_place_under_another_name_is_impossible(
        self, lab: Lab
    ) -> None:
        lab.ensure("web", nics(eth0()))
        with pytest.raises(Retry, match="no interface 'eth7'"):
            lab.ensure("web", nics(Nic(name="lan0", parent="eth7", ip=("10.0.0.5/24",))))
        assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"

    def test_a_taken_address_keeps_no_other_from_the_pod_and_costs_it_none(self, lab: Lab) -> None:
        lab.ensure("web", nics(eth0("10.0.0.5/24", "10.0.0.9/24", gateway=("10.0.0.1",)), self.SECOND))
        wanted = nics(eth0("10.0.0.1/24", "10.0.0.5/24", gateway=("10.0.0.1",)), self.SECOND)
        lab.pod("web").ip("addr del 10.0.0.5/24 dev eth0")
        lab.pod("web").ip("addr add 192.168.5.9/24 dev eth1")
        with pytest.raises(Retry, match=r"10\.0\.0\.1 is taken"):
            lab.ensure("web", wanted)
        state = lab.host(lab.networks.observe, "web")
        assert state is not None
        assert set(state.addresses) == {"10.0.0.5/24", "10.0.0.9/24", "192.168.5.5/24"}
        assert "default via 10.0.0.1" in lab.pod("web").ip("route")

    def test_a_pod_that_does_not_start_shows_none_of_its_addresses(self, lab: Lab) -> None:
        taken = Nic(name="eth1", parent="eth1", ip=("192.168.5.1/24",))
        with pytest.raises(Retry, match=r"192\.168\.5\.1 is taken"):
            lab.ensure("web", nics(eth0(), taken))
        assert "10.0.0.5" not in lab.pod("web").ip("addr")


class TestRefusals:
    def test_an_address_that_another_machine_has(self, lab: Lab) -> None:
        holder = lab.lan.ip("-br link show br0").split()[2]
        for address in ("10.0.0.1/24", "fd00::1/64"):
            with pytest.raises(Retry, match=f"{address.split('/')[0]} is taken: {holder}"):
                lab.ensure("web", nics(eth0(address)))
            assert address.split("/")[0] not in lab.pod("web").ip("addr")
        lab.lan.ip("addr del 10.0.0.1/24 dev br0")
        assert lab.ensure("web", nics(eth0("10.0.0.1/24"))).addresses == ("10.0.0.1/24",)

    def test_an_address_that_another_pod_has(self, lab: Lab) -> None:
        lab.ensure("a", nics(eth0("10.0.0.5/24", "fd00::5/64")))
        holder = stable_mac("a", "eth0").hex(":")
        for address in ("10.0.0.5/24", "fd00::5/64"):
            with pytest.raises(Retry, match=f"is taken: {holder}"):
                lab.ensure("b", nics(eth0(address)))
        lab.host(lab.networks.remove, "a")
        assert lab.ensure("b", nics(eth0("10.0.0.5/24"))).addresses == ("10.0.0.5/24",)

    def test_an_address_that_this_machine_has_on_its_uplink(self, lab: Lab) -> None:
        with pytest.raises(Stalled, match=r"10\.0\.0\.2 is this machine's own, on eth0"):
            lab.ensure("web", nics(eth0("10.0.0.2/24")))

    def test_of_two_pods_that_ask_for_one_address_at_one_moment_one_gets_it(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        states: list[NetworkState | Retry] = []
        together = threading.Barrier(2)

        def send(opened: socket.socket, frame: bytes) -> None:
            # Whoever asks waits for the other: if it asks, too, each hears the other's question.
            with suppress(threading.BrokenBarrierError):
                together.wait(timeout=30)
            real(opened, frame)

        real = probe._send
        monkeypatch.setattr(probe, "_send", send)

        def start(pod: str) -> None:
            try:
                states.append(lab.ensure(pod, nics(eth0())))
            except Retry as error:
                states.append(error)
            finally:
                # Who goes on alone asks alone.
                together.abort()

        threads = [threading.Thread(target=start, args=(pod,)) for pod in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert [type(state) for state in states] == [Retry, NetworkState]
        assert "is about to use it" in str(states[0])

    def test_one_address_on_two_lans_is_two_addresses(self, lab: Lab) -> None:
        parents = {"a": "eth0", "b": "eth1"}
        together = threading.Barrier(2, timeout=10)

        def start(pod: str) -> NetworkState:
            lab.ensure(pod, Network())
            together.wait()
            return lab.ensure(pod, nics(eth0("172.16.0.5/24", parent=parents[pod])))

        with ThreadPoolExecutor(2) as workers:
            states = list(workers.map(start, parents))
        assert [state.addresses for state in states] == [("172.16.0.5/24",)] * 2

    def test_its_own_address_is_not_asked_for_again(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        lab.ensure("web", nics(eth0()))
        lab.pod("web").ip("route add 10.50.0.0/16 dev eth0")

        def refuse(targets: object) -> dict[bytes, bytes]:
            raise AssertionError(targets)

        monkeypatch.setattr("tank_agent.network.probe.holders", refuse)
        lab.ensure("web", nics(eth0(gateway=("10.0.0.1",))))

    def test_two_addresses_of_one_kind_are_asked_for_through_one_socket(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lab.ensure("web", nics(eth0("10.0.0.5/24")))
        opened: list[socket.socket] = []

        def open_and_count(target: probe.Target) -> socket.socket:
            opened.append(real(target))
            return opened[-1]

        real = probe._open
        monkeypatch.setattr(probe, "_open", open_and_count)
        monkeypatch.setattr(probe, "announce", lambda _: None)
        lab.ensure("web", nics(eth0("10.0.0.5/24", "10.0.0.6/24", "10.0.0.7/24")))
        assert len(opened) == 1
        assert [each.fileno() for each in opened] == [-1]

    def test_no_uplink(self, lab: Lab) -> None:
        lab.host.ip("route del default")
        with pytest.raises(Retry, match="no uplink") as caught:
            lab.ensure("web", nics(eth0()))
        assert "agent.toml" in (caught.value.hint or "")

    @pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
    def test_a_default_route_that_leads_nowhere_is_no_uplink(self, lab: Lab, kind: str) -> None:
        for family in ("-4", "-6"):
            lab.host.ip(f"{family} route add {kind} default metric 5")
        # IPv6 has no other, IPv4 has one behind it.
        assert lab.host(AutoHostFacts().uplink) == "eth0"
        lab.host.ip("route del default via 10.0.0.1")
        assert lab.host(AutoHostFacts().uplink) is None

    def test_a_parent_that_is_not_there(self, lab: Lab) -> None:
        with pytest.raises(Retry, match="no interface 'eth7'"):
            lab.ensure("web", nics(eth0(parent="eth7")))

    def test_a_wireless_parent(self, lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "sys" / "eth0" / "phy80211").mkdir(parents=True)
        monkeypatch.setattr(wanted, "_SYS_CLASS_NET", tmp_path / "sys")
        with pytest.raises(Stalled, match="eth0 is a Wi-Fi interface") as caught:
            lab.ensure("web", nics(eth0()))
        assert 'network = "host"' in (caught.value.hint or "")

    def test_loopback_as_parent(self, lab: Lab) -> None:
        with pytest.raises(Stalled, match="lo can't carry a macvlan"):
            lab.ensure("web", nics(eth0(parent="lo")))

    def test_a_bridges_port_as_parent(self, lab: Lab) -> None:
        lab.host.ip("link add br9 type bridge")
        lab.host.ip("link set eth1 master br9")
        with pytest.raises(Stalled, match="eth1 can't carry a macvlan: it is a port of a bridge"):
            lab.ensure("web", nics(eth0(parent="eth1")))

    def test_a_parent_that_is_down(self, lab: Lab) -> None:
        lab.host.ip("link set eth1 down")
        lab.ensure("web", nics(eth0("192.168.5.5/24", parent="eth1")))
        lab.host.ip("link set eth1 up")
        assert talk(lab.lan, lab.pod("web"), "192.168.5.5") == b"hello"

    @pytest.mark.parametrize("name", ["a" * 16, "é" * 8])
    def test_a_name_that_is_too_long(self, lab: Lab, name: str) -> None:
        with pytest.raises(Stalled, match="too long"):
            lab.ensure("web", nics(msgspec.structs.replace(eth0(), name=name)))
        assert lab.networks.pinned() == frozenset()

    @pytest.mark.parametrize("name", ["", ".", "..", "lo", "a/b", "a b", "a:1", "all", "eth%d"])
    def test_a_name_that_no_interface_can_have(self, lab: Lab, name: str) -> None:
        with pytest.raises(Stalled, match="no interface can be named"):
            lab.ensure("web", nics(msgspec.structs.replace(eth0(), name=name)))


class TestManyAtOnce:
    def test_pods_start_and_end_in_parallel_and_leave_no_descriptor(self, lab: Lab) -> None:
        pods = {f"p{number}": nics(eth0(f"10.0.0.{number + 10}/24")) for number in range(8)}

        def together(function: Callable[..., object], *columns: Iterable[object]) -> None:
            with ThreadPoolExecutor(8) as workers:
                list(workers.map(function, *columns))

        def start_and_end() -> None:
            together(lab.networks.ensure, pods, pods.values())
            assert lab.networks.pinned() == set(pods)
            assert [lab.networks.drift(pod, network) for pod, network in pods.items()] == [()] * 8
            together(lab.networks.remove, pods)
            assert lab.networks.pinned() == frozenset()

        lab.host(start_and_end)
        before = sorted(Path("/proc/self/fd").iterdir())
        lab.host(start_and_end)
        assert sorted(Path("/proc/self/fd").iterdir()) == before


class TestRemoval:
    def test_the_address_is_free_at_once_though_a_process_holds_the_namespace(self, lab: Lab) -> None:
        lab.ensure("web", nics(eth0()))
        with lab.pod("web")(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)):
            lab.host(lab.networks.remove, "web")
            assert lab.ensure("web", nics(eth0())).addresses == ("10.0.0.5/24",)
            assert talk(lab.lan, lab.pod("web"), "10.0.0.5") == b"hello"

    def test_remove_while_nothing_is_there(self, lab: Lab) -> None:
        lab.host(lab.networks.remove, "web")
        assert lab.host(lab.networks.sweep, ()) == ()


_AGENT = """
import sys
from pathlib import Path
import msgspec
from tank_agent.network.addresses import Leases, Pool
from tank_agent.network.host_facts import AutoHostFacts
from tank_agent.network.pod_network import PodNetworks
from tank_agent.spec.model import Network
networks = PodNetworks(Path(sys.argv[1]), AutoHostFacts(), Leases(Pool(), {}, list))
for text in sys.argv[2:]:
    if text == "remove":
        networks.remove("web")
    else:
        networks.ensure("web", msgspec.json.decode(text, type=Network))
"""

_BEFORE = nics(eth0("10.0.0.7/24", gateway=("10.0.0.1",)), Nic(name="old0", ip=("10.0.0.8/24",)))
_AFTER = nics(eth0("10.0.0.5/24", "fd00::5/64", gateway=("10.0.0.254", "fd00::1")))


class TestKilled:
    """The agent is killed at every step: the host never shows a link of ours, and the next agent goes on."""

    def run(self, lab: Lab, fault: str, *arguments: str) -> int:
        def start() -> int:
            return subprocess.run(
                [sys.executable, "-c", _AGENT, os.fspath(lab.run_dir), *arguments],
                env={**os.environ, "TANK_FAULT": fault},
                timeout=60,
                check=False,
            ).returncode

        return lab.host(start)

    @pytest.mark.parametrize(
        "fault",
        [
            "network:namespace-made",
            "network:pin-created",
            "network:namespace-pinned",
            "network:link-created",
            "network:link-configured",
            "network:link-named",
            "network:link-up",
            "network:probed",
            "network:address-added",
            "network:address-added@2",
            "network:address-removed",
            "network:ipv6-switched-off",
            "network:route-added",
            "network:route-removed",
            "network:link-removed",
            "network:namespace-unmounted",
        ],
    )
    def test_nothing_is_left_on_the_host_and_the_next_agent_goes_on(self, lab: Lab, fault: str) -> None:
        # Without their states: the kernel tells of carriers when it has time.
        def links() -> list[list[str]]:
            return [line.split()[::2] for line in lab.host.ip("-br link").splitlines()]

        before = links()
        texts = [msgspec.json.encode(network).decode() for network in (_BEFORE, _AFTER, _BEFORE)]
        assert self.run(lab, fault, *texts, "remove") == -9
        assert links() == before
        assert lab.host.links() == {"lo", "eth0", "eth1"}
        lab.ensure("web", _AFTER)
        assert lab.drift("web", _AFTER) == ()
        assert lab.pod("web").links() == {"lo", "eth0"}
        assert talk(lab.lan, lab.pod("web"), "fd00::5") == b"hello"

    @pytest.mark.parametrize("fault", ["network:link-created", "network:link-up", "network:address-added"])
    def test_a_pod_that_nobody_wants_any_more_is_swept(self, lab: Lab, fault: str) -> None:
        text = msgspec.json.encode(_AFTER).decode()
        assert self.run(lab, fault, text) == -9
        assert lab.host(lab.networks.sweep, ()) == ("web",)
        assert lab.networks.pinned() == frozenset()
        # The link is gone from its parent: its MAC address can be used by another at once.
        mac = stable_mac("web", "eth0").hex(":")
        lab.host.ip(f"link add link eth0 name up9 address {mac} type macvlan mode bridge")
        lab.host.ip("link set up9 up")
        lab.host.ip("link del up9")
