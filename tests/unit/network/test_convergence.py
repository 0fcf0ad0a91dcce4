"""Steps lead from any state to the wanted one, and only touch what differs."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tank_agent.network
from tank_agent.linux.namespaces import IFF_UP
from tank_agent.network.convergence import (
    AddAddress,
    AddLink,
    AddRoute,
    RaiseLink,
    RemoveAddress,
    RemoveLink,
    RemoveRoute,
    Step,
    SwitchOffIpv6,
    pod_addresses,
    steps,
)
from tank_agent.network.rtnetlink import Address, DefaultRoute, Link, NamespaceState
from tank_agent.network.wanted import LINK_GROUP, LINK_KIND, VETH, WantedNic, stable_mac

LOOPBACK = Link(index=1, name="lo", flags=IFF_UP, kind="", mac=bytes(6), group=0, parent=0)
ADDRESSES = [
    (ipaddress.ip_interface(text).packed, ipaddress.ip_interface(text).network.prefixlen)
    for text in ("10.0.0.5/24", "10.0.0.6/24", "10.0.0.5/16", "fd00::5/64", "fd00::5/48", "fe80::5/64")
]
GATEWAYS = [ipaddress.ip_address(text).packed for text in ("10.0.0.1", "10.0.0.254", "fd00::1")]
NAMES = ["eth0", "eth1", "old0"]


def nic(
    name: str = "eth0",
    *,
    parent: str | None = "up0",
    parent_index: int = 7,
    addresses: tuple[tuple[bytes, int], ...] = (ADDRESSES[0],),
    gateways: tuple[bytes, ...] = (),
) -> WantedNic:
    return WantedNic(
        name=name,
        mac=stable_mac("web", name),
        parent=parent,
        parent_index=parent_index,
        addresses=addresses,
        gateways=gateways,
        metric=100 + NAMES.index(name),
    )


def link(index: int, name: str, *, up: bool = True, group: int = LINK_GROUP, parent: int = 7) -> Link:
    flags = IFF_UP if up else 0
    mac = stable_mac("web", name)
    return Link(index=index, name=name, flags=flags, kind=LINK_KIND, mac=mac, group=group, parent=parent)


def sentences(observed: NamespaceState, *wanted: WantedNic) -> list[str]:
    return [str(step) for step in steps(observed, wanted)]


def test_what_is_right_needs_nothing() -> None:
    observed = NamespaceState(
        links=(LOOPBACK, link(2, "eth0")),
        addresses=(Address(index=2, packed=ADDRESSES[0][0], prefix=24),),
        routes=(DefaultRoute(index=2, family=2, gateway=GATEWAYS[0], metric=100),),
    )
    assert sentences(observed, nic(gateways=(GATEWAYS[0],))) == []
    assert pod_addresses(observed) == ("10.0.0.5/24",)


def test_a_missing_interface_is_one_sentence_not_five() -> None:
    assert sentences(NamespaceState(links=(LOOPBACK,)), nic(gateways=(GATEWAYS[0],))) == ["eth0 is missing"]


def test_an_interface_that_is_down_is_one_sentence() -> None:
    assert sentences(NamespaceState(links=(LOOPBACK, link(2, "eth0", up=False))), nic()) == ["eth0 is down"]


def test_a_lost_uplink_leaves_what_works() -> None:
    observed = NamespaceState(links=(LOOPBACK, link(2, "eth0")))
    assert sentences(observed, nic(parent=None, parent_index=0, addresses=())) == []


def test_a_parent_that_is_gone_is_said() -> None:
    observed = NamespaceState(links=(LOOPBACK, link(2, "eth0")))
    found = sentences(observed, nic(parent="up9", parent_index=0, addresses=()))
    assert found == ["eth0 lies on another interface than up9", "eth0 is missing"]


def test_a_half_made_interface_is_made_again() -> None:
    wanted = nic()
    half = msgspec.structs.replace(link(2, "eth0"), name=wanted.first_name)
    assert sentences(NamespaceState(links=(LOOPBACK, half)), wanted) == [
        f"{wanted.first_name} is not named by the pod",
        "eth0 is missing",
    ]


def test_new_addresses_come_before_old_ones_go_but_a_changed_prefix_goes_first() -> None:
    old = tuple(
        Address(index=2, packed=packed, prefix=prefix) for packed, prefix in (ADDRESSES[1], ADDRESSES[2])
    )
    observed = NamespaceState(links=(LOOPBACK, link(2, "eth0")), addresses=old)
    assert sentences(observed, nic()) == [
        "eth0 has 10.0.0.5/16, which the pod does not name",
        "eth0 lacks 10.0.0.5/24",
        "eth0 has 10.0.0.6/24, which the pod does not name",
    ]


def test_link_local_addresses_are_the_kernels_and_not_shown() -> None:
    packed = ipaddress.ip_address("fe80::1").packed
    observed = NamespaceState(
        links=(LOOPBACK, link(2, "eth0")), addresses=(Address(index=2, packed=packed, prefix=64),)
    )
    assert sentences(observed, nic(addresses=(ADDRESSES[3],))) == ["eth0 lacks fd00::5/64"]
    assert pod_addresses(observed) == ()
    # Without another IPv6 address it stands for IPv6 that is on.
    assert sentences(observed, nic(addresses=())) == ["eth0 has IPv6, but no address of it in the pod's file"]


def test_a_default_route_straight_to_the_interface() -> None:
    route = DefaultRoute(index=2, family=2, gateway=b"", metric=0)
    observed = NamespaceState(links=(LOOPBACK, link(2, "eth0")), routes=(route,))
    assert sentences(observed, nic(addresses=())) == ["eth0 has a default route that the pod does not name"]


class Model:
    """A namespace that obeys the steps as the kernel does."""

    def __init__(self, observed: NamespaceState) -> None:
        self.links = {each.index: each for each in observed.links}
        self.addresses = list(observed.addresses)
        self.routes = list(observed.routes)
        self.next_index = max(self.links) + 1

    def observed(self) -> NamespaceState:
        return NamespaceState(
            links=tuple(self.links.values()), addresses=tuple(self.addresses), routes=tuple(self.routes)
        )

    def apply(self, step: Step) -> None:
        match step:
            case RemoveLink(link=gone):
                del self.links[gone.index]
                self.flush(gone.index)
            case AddLink(nic=new):
                assert new.name not in {each.name for each in self.links.values()}
                assert all(each.mac != new.mac or each.group != LINK_GROUP for each in self.links.values())
                made = link(self.next_index, new.name, up=False, parent=new.parent_index)
                self.links[self.next_index] = made
                self.next_index += 1
            case RaiseLink(interface=name):
                found = next(each for each in self.links.values() if each.name == name)
                self.links[found.index] = msgspec.structs.replace(found, flags=IFF_UP)
            case AddAddress(address=address):
                index, packed = address.index, address.packed
                assert self.links[index].up
                if len(packed) == 16:
                    assert all(each.packed != packed or each.index != index for each in self.addresses)
                self.addresses.append(address)
            case RemoveAddress(address=address):
                self.addresses.remove(address)
            case AddRoute(route=route):
                assert route not in self.routes
                self.routes.append(route)
            case RemoveRoute(route=route):
                # Those of IPv6 are gone already where it was switched off, which is no error.
                self.routes = [each for each in self.routes if each != route]
            case SwitchOffIpv6(interface=name):
                index = next(each.index for each in self.links.values() if each.name == name)
                self.addresses = [a for a in self.addresses if a.index != index or len(a.packed) == 4]
                self.routes = [r for r in self.routes if r.index != index or r.family == 2]

    def flush(self, index: int) -> None:
        self.addresses = [each for each in self.addresses if each.index != index]
        self.routes = [each for each in self.routes if each.index != index]


@st.composite
def observations(draw: st.DrawFn) -> NamespaceState:
    links = [msgspec.structs.replace(LOOPBACK, flags=draw(st.sampled_from([0, IFF_UP])))]
    addresses: set[Address] = set()
    routes: set[DefaultRoute] = set()
    for index, name in enumerate(draw(st.lists(st.sampled_from([*NAMES, "own0"]), unique=True)), start=2):
        up = draw(st.booleans())
        group = draw(st.sampled_from([0, LINK_GROUP]))
        links.append(link(index, name, up=up, group=group, parent=draw(st.sampled_from([7, 8]))))
        if up:
            chosen = dict(draw(st.lists(st.sampled_from(ADDRESSES))))
            addresses |= {Address(index=index, packed=p, prefix=n) for p, n in chosen.items()}
            for gateway in draw(st.lists(st.sampled_from(GATEWAYS))):
                family, metric = 2 if len(gateway) == 4 else 10, draw(st.sampled_from([0, 100, 101]))
                routes.add(DefaultRoute(index=index, family=family, gateway=gateway, metric=metric))
    return NamespaceState(links=tuple(links), addresses=tuple(addresses), routes=tuple(routes))


wanted_sets = st.lists(
    st.builds(
        nic,
        st.sampled_from(NAMES),
        parent=st.sampled_from(["up0"]),
        parent_index=st.sampled_from([7, 8]),
        addresses=st.lists(st.sampled_from(ADDRESSES[:4]), unique_by=lambda each: each[0]).map(tuple),
        gateways=st.lists(st.sampled_from(GATEWAYS), unique_by=len).map(tuple),
    ),
    unique_by=lambda each: each.name,
)


@settings(deadline=None)
@given(observations(), wanted_sets)
def test_from_anywhere_to_what_is_wanted_in_four_looks(
    observed: NamespaceState, wanted: list[WantedNic]
) -> None:
    model = Model(observed)
    taken = {each.name for each in wanted}
    own = {each for each in observed.links[1:] if each.group == 0 and each.name not in taken}
    for _ in range(3):
        for step in steps(model.observed(), wanted):
            model.apply(step)
    assert tuple(steps(model.observed(), wanted)) == ()
    found = {each.name: each for each in model.links.values()}
    for each in wanted:
        index = found[each.name].index
        assert {(a.packed, a.prefix) for a in model.addresses if a.index == index} >= set(each.addresses)
        if all(len(packed) == 4 for packed, _ in each.addresses):
            assert all(len(a.packed) == 4 for a in model.addresses if a.index == index)
        assert {r.gateway for r in model.routes if r.index == index} == set(each.gateways)
    assert {each for each in model.links.values() if each.group == 0 and each.name != "lo"} == own


def test_every_fault_point_is_killed_at_in_the_integration_tests() -> None:
    package = Path(tank_agent.network.__file__).parent
    sources = [*package.glob("*.py"), package.parent / "linux" / "namespaces.py"]
    points = {name for path in sources for name in re.findall(r'fault\.point\("(.*?)"\)', path.read_text())}
    tests = Path(__file__).parents[2] / "integration"
    names = ("test_network_macvlan.py", "test_host_access.py", "test_parameters.py")
    files = [*(tests / name for name in names), *tests.glob("test_bridge*.py")]
    killed = "".join(file.read_text() for file in files)
    assert points
    assert points <= set(re.findall(r'"(network:[a-z0-9-]+)"', killed))


BRIDGED = WantedNic(
    name="eth0",
    mac=stable_mac("web", "eth0"),
    parent="tank-default",
    parent_index=7,
    addresses=(ADDRESSES[0],),
    gateways=(),
    metric=100,
    kind=VETH,
)


def end(*, up: bool = True, master: int = 7) -> dict[str, Link]:
    flags = IFF_UP if up else 0
    made = Link(
        index=9,
        name=BRIDGED.port,
        flags=flags,
        kind=VETH,
        mac=bytes(6),
        group=LINK_GROUP,
        parent=2,
        master=master,
    )
    return {made.name: made}


@pytest.mark.parametrize(
    ("ports", "wrong"),
    [
        (end(), []),
        (end(up=False), ["eth0 is not in the bridge tank-default"]),
        (end(master=0), ["eth0 is not in the bridge tank-default"]),
        (end(master=8), ["eth0 is not in the bridge tank-default"]),
        ({}, ["eth0 has no other end on this machine", "eth0 is missing"]),
    ],
    ids=["right", "down", "in no bridge", "in another", "away"],
)
def test_the_machines_end_of_an_interface_in_a_bridge(ports: dict[str, Link], wrong: list[str]) -> None:
    observed = NamespaceState(
        links=(LOOPBACK, msgspec.structs.replace(link(2, "eth0"), kind=VETH, parent=9)),
        addresses=(Address(index=2, packed=ADDRESSES[0][0], prefix=24),),
    )
    assert [str(step) for step in steps(observed, [BRIDGED], ports)] == wrong


def test_another_kind_of_network_is_another_interface() -> None:
    macvlan = NamespaceState(links=(LOOPBACK, link(2, "eth0")))
    found = [str(step) for step in steps(macvlan, [BRIDGED], end())]
    assert found == ["eth0 is a macvlan instead of a veth", "eth0 is missing"]
