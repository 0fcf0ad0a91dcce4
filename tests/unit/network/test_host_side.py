"""This machine's side of bridges in a namespace of its own: made, shared by many threads, and removed."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Network
from pathlib import Path
from typing import TypeVar

import pytest

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.linux.namespaces import create_network_namespace, in_network_namespace, unpin
from tank_agent.network import rtnetlink
from tank_agent.network.addresses import Pool
from tank_agent.network.host_side import HostSide, Reservation
from tank_agent.network.wanted import LINK_GROUP, bridge_interface
from tank_agent.spec.model import Container, Network, Pod, Port
from tests.support.counting import audited

T = TypeVar("T")
EVERYWHERE = "0.0.0.0"


@contextmanager
def host_side() -> Iterator[HostSide]:
    side = HostSide(Pool(), EVERYWHERE, {})
    try:
        yield side
    finally:
        side.end()


def pod(name: str, *bridges: str, ports: tuple[Port, ...] = (), mode: str = "bridge") -> Pod:
    network = Network(mode=mode, bridges=bridges)  # type: ignore[arg-type]
    containers = (Container(name="app", rootfs="/r", command=("x",)),)
    return Pod(name=name, containers=containers, network=network, ports=ports)


def tcp(host: int, address: str | None = None) -> Port:
    return Port(host=host, pod=80, address=address)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[[Callable[[], T]], T]]:
    path = tmp_path / "netns"
    create_network_namespace(path)
    yield lambda function: in_network_namespace(path, function)
    unpin(path)


def links() -> set[str]:
    with rtnetlink.open_socket() as netlink:
        return {link.name for link in rtnetlink.read_links(netlink)}


def tables() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True, text=True).stdout


def join(side: HostSide, joining: Pod) -> None:
    refused = side.reserve(joining)
    if refused is not None:
        raise refused
    side.prepare(joining)
    side.publish(joining.name)


def test_what_a_pod_reserves_is_its_own_until_it_is_freed() -> None:
    side = HostSide(Pool(), EVERYWHERE, {})
    web = pod("web", "default", ports=(tcp(8080),))
    assert side.concerns(web)
    assert not side.concerns(pod("none", mode="none"))
    assert side.difference(pod("none", mode="none")) is None
    assert side.difference(web) == "it is not in the bridges that its file names"
    assert side.reserve(web) is None
    assert side.reserved("web") == Reservation({"default": ("10.89.0.2/24",)}, (tcp(8080, EVERYWHERE),))
    assert side.difference(web) is None
    assert side.ports("web") == (), "they lead to it when it has a network"
    other = pod("other", "default", ports=(tcp(8080),))
    refused = side.reserve(other)
    assert isinstance(refused, Retry)
    assert side.reserved("other").leases == {"default": ("10.89.0.3/24",)}, "all that it can have, it has"
    assert side.difference(other) == "it does not have the ports that its file names"
    moved = pod("web", "back", ports=(tcp(9090),))
    assert side.difference(moved) == "it is not in the bridges that its file names"
    assert isinstance(side.reserve(pod("web", "back", ports=(tcp(1, "::1"),))), Stalled)
    assert side.reserve(moved) is None
    assert list(side.reserved("web").leases) == ["back", "default"]
    assert side.reserve(other) is None


def test_the_next_agent_has_what_this_one_had_and_those_that_run_come_first() -> None:
    known = {
        "asks": Reservation({"default": ("10.89.0.3/24",)}, (tcp(8080, EVERYWHERE),)),
        "has": Reservation({"default": ("10.89.0.2/24",)}, (tcp(8080, EVERYWHERE), tcp(1, EVERYWHERE))),
    }
    side = HostSide(Pool(), EVERYWHERE, known)
    side.adopt({"has"})
    assert side.reserved("has") == known["has"]
    assert side.reserved("asks") == Reservation(known["asks"].leases, ())
    assert side.ports("has") == known["has"].ports
    refused = side.reserve(pod("asks", "default", ports=(tcp(8080),)))
    assert "pod has publishes it" in str(refused)
    assert side.difference(pod("has", "default", ports=(tcp(8080),))) is not None, "one port less"


def test_nothing_is_asked_or_loaded_where_no_pod_is_in_a_bridge() -> None:
    side = HostSide(Pool(), EVERYWHERE, {})
    none = pod("none", mode="none")

    def look() -> None:
        for _ in range(100):
            assert side.check() == ()
            assert side.difference(none) is None
            assert not side.concerns(none)
            assert side.look_for_obstacles() == ()
            assert side.warnings("none") == ()
        side.free("none")
        side.close("none")

    assert audited(look) == []
    assert audited(lambda: Path("/").stat() and open("/dev/null").close()) == ["open"], "it is seen"


@pytest.mark.machine
def test_bridges_and_rules_come_with_the_first_pod_and_go_with_the_last(
    machine: Callable[[Callable[[], None]], None],
) -> None:
    def act() -> None:
        with host_side() as side:
            assert side.check() == ()
            assert tables() == ""
            join(side, pod("web", "default", ports=(tcp(8080),)))
            join(side, pod("db", "default", "back"))
            assert links() == {"lo", "tank-default", "tank-back"}
            assert "tcp . 8080 : 10.89.0.2 . 80" in tables()
            assert side.check() == ()
            side.close("web")
            assert "tcp . 8080" not in tables()
            side.free("web")
            assert links() == {"lo", "tank-default", "tank-back"}
            moved = pod("db", "back")
            assert side.reserve(moved) is None
            assert links() == {"lo", "tank-default", "tank-back"}, "its interface is still in it"
            assert side.settle(moved)
            assert not side.settle(moved)
            assert links() == {"lo", "tank-back"}
            side.free("db")
            assert links() == {"lo"}
            assert tables() == ""

    machine(act)


@pytest.mark.machine
def test_what_an_agent_left_that_was_killed_is_removed(machine: Callable[[Callable[[], None]], None]) -> None:
    def act() -> None:
        with host_side() as left:
            join(left, pod("web", "default", ports=(tcp(8080),)))
        with host_side() as side:
            side.adopt(())
            assert side.check() == ("tank-default was not needed",)
            assert (links(), tables()) == ({"lo"}, "")
            assert side.check() == ()

    machine(act)


@pytest.mark.machine
def test_pods_that_the_journal_does_not_know_keep_what_they_have(
    machine: Callable[[Callable[[], None]], None],
) -> None:
    pool = Pool(ipv6=IPv6Network("fd12::/48"))
    udp = Port(host=53, pod=5353, protocol="udp", address="10.0.0.2")
    web = pod("web", "default", ports=(tcp(8080), tcp(8443, "::1"), udp))

    def act() -> None:
        before, after = HostSide(pool, EVERYWHERE, {}), HostSide(pool, EVERYWHERE, {})
        try:
            join(before, web)
            rules, had = tables(), before.reserved("web")
            before.end()
            after.adopt({"web"})
            after.recover("web", had.leases)
            assert after.check() == ()
            assert tables() == rules
            assert after.reserved("web").leases == had.leases
            assert "pod web publishes it" in str(after.reserve(pod("other", "default", ports=(tcp(8080),))))
            after.free("other")
            assert after.reserve(web) is None
            assert after.reserved("web") == had
        finally:
            after.free("web")
            before.end()
            after.end()
        assert (links(), tables()) == ({"lo"}, "")

    machine(act)


@pytest.mark.machine
def test_of_two_agents_one_has_the_bridges(machine: Callable[[Callable[[], None]], None]) -> None:
    def act() -> None:
        other = HostSide(Pool(), EVERYWHERE, {}, group=LINK_GROUP + 1)
        with host_side() as one:
            join(one, pod("web", "default", ports=(tcp(8080),)))
            rules = tables()
            other.adopt(())
            assert other.check() == ()
            with pytest.raises(Retry, match="another agent of this machine has its bridges"):
                join(other, pod("db", "back"))
            other.free("db")
            assert (links(), tables()) == ({"lo", "tank-default"}, rules)
            assert one.check() == ()
            one.free("web")
            join(other, pod("db", "back"))
            assert links() == {"lo", "tank-back"}
            other.free("db")
            other.end()

    machine(act)


@pytest.mark.machine
def test_one_bridge_that_cannot_be_made_keeps_no_other(machine: Callable[[Callable[[], None]], None]) -> None:
    def act() -> None:
        subprocess.run(["ip", "link", "add", "tank-a", "type", "bridge"], check=True)
        with host_side() as side:
            with pytest.raises(Stalled, match="tank did not make it"):
                join(side, pod("web", "a"))
            join(side, pod("db", "b"))
            assert links() == {"lo", "tank-a", "tank-b"}
            with pytest.raises(Stalled, match="tank did not make it"):
                side.check()
            subprocess.run(["ip", "link", "del", "tank-b"], check=True)
            with pytest.raises(Stalled, match="tank did not make it"):
                side.check()
            assert "tank-b" in links()
            for name in ("web", "db"):
                side.free(name)
            assert (links(), tables()) == ({"lo", "tank-a"}, "")

    machine(act)


@pytest.mark.machine
def test_many_come_and_go_at_once(machine: Callable[[Callable[[], None]], None]) -> None:
    failures: list[str] = []

    def work(side: HostSide, number: int) -> None:
        chance = random.Random(number)
        for turn in range(15):
            bridges = chance.sample(["a", "b", "c"], chance.randrange(1, 3))
            joining = pod(f"pod-{number}", *bridges, ports=(tcp(8000 + chance.randrange(6)),))
            try:
                join(side, joining)
                own = {bridge_interface(bridge) for bridge in bridges}
                if not own <= links():
                    failures.append(f"{joining.name}, turn {turn}: {own - links()} is not there")
                side.settle(joining)
            except TankError as error:
                if "publishes it" not in str(error):
                    failures.append(f"{joining.name}, turn {turn}: {error}")
            if chance.random() < 0.7:
                side.close(joining.name)
                side.free(joining.name)
        side.free(f"pod-{number}")

    def act() -> None:
        with host_side() as side:
            threads = [threading.Thread(target=work, args=(side, number), daemon=True) for number in range(8)]
            # Somebody looks all the time, as the resync does.
            done = threading.Event()

            def look() -> None:
                while not done.wait(0.001):
                    side.check()

            looking = threading.Thread(target=look, daemon=True)
            for thread in (*threads, looking):
                thread.start()
            for thread in threads:
                thread.join(60)
            done.set()
            looking.join(60)
            assert failures == []
            assert (links(), tables()) == ({"lo"}, "")

    machine(act)
