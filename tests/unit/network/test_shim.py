"""The machine's ways to its pods on the LAN: whose address is whose neighbour."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from tank_agent.network import shim
from tank_agent.network.host_facts import StaticHostFacts
from tank_agent.network.rtnetlink import Address
from tank_agent.network.shim import HostAccess, _on_link, _ways
from tank_agent.network.wanted import WantedNic
from tank_agent.spec.model import Network, Nic


def nic(*addresses: str, parent: int = 2) -> WantedNic:
    interfaces = [ip_interface(text) for text in addresses]
    return WantedNic(
        name="eth0",
        mac=b"\x02\0\0\0\0\x05",
        parent="eth0",
        parent_index=parent,
        addresses=tuple((each.ip.packed, each.network.prefixlen) for each in interfaces),
        gateways=(),
        metric=100,
    )


def own(text: str, index: int = 2) -> Address:
    interface = ip_interface(text)
    return Address(index=index, packed=interface.ip.packed, prefix=interface.network.prefixlen)


def packed(text: str) -> bytes:
    return ip_address(text).packed


def test_the_machine_sends_from_its_address_in_the_pods_network_or_else_its_first() -> None:
    addresses = [own("192.168.1.1/24"), own("10.0.0.2/24"), own("fd00::2/64"), own("10.1.0.2/24", 3)]
    ways = _ways([nic("10.0.0.5/24", "fd00::5/64"), nic("172.16.0.5/24"), nic("10.1.0.5/24")], addresses)
    assert [(way.packed, way.source) for way in ways[2]] == [
        (packed("10.0.0.5"), packed("10.0.0.2")),
        (packed("fd00::5"), packed("fd00::2")),
        (packed("172.16.0.5"), packed("192.168.1.1")),
        (packed("10.1.0.5"), packed("192.168.1.1")),
    ]


def test_without_an_address_of_the_machine_there_is_no_way() -> None:
    assert _ways([nic("10.0.0.5/24")], [own("fd00::2/64"), own("10.0.0.2/24", 3)]) == {}


def test_a_pod_is_told_only_of_addresses_that_it_asks_for_itself() -> None:
    addresses = [own("10.0.0.2/8"), own("10.9.0.2/24"), own("fd00::2/64"), own("10.0.0.3/24", 3)]
    assert list(_on_link(nic("10.0.0.5/24"), addresses)) == [packed("10.0.0.2")]
    assert list(_on_link(nic("10.0.0.5/24", "fd00::5/64"), addresses)) == [
        packed("10.0.0.2"),
        packed("fd00::2"),
    ]


def test_switched_off_or_without_pods_on_the_lan_it_asks_the_kernel_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for enabled, network in ((False, Network(mode="nics", nics=(Nic(name="eth0", ip=("10.0.0.5/24",)),))),
                             (True, Network(mode="bridge"))):  # fmt: skip
        access = HostAccess(tmp_path, StaticHostFacts(None, ()), enabled=enabled)
        access.note("web", network)
        # Only the first look, for what a former agent left.
        assert access.ensure() == ()
        with monkeypatch.context() as patched:
            patched.delattr(shim.rtnetlink, "open_socket")
            assert access.ensure() == ()
            assert access.ensure("web") == ()


def test_only_pods_that_are_or_were_on_the_lan_concern_it(tmp_path: Path) -> None:
    access = HostAccess(tmp_path, StaticHostFacts(None, ()), enabled=True)
    on_lan = Network(mode="nics", nics=(Nic(name="eth0", ip=("10.0.0.5/24",)),))
    given = (Network(), on_lan, on_lan, Network(mode="bridge"), None, on_lan, None)
    assert [access.note("web", network) for network in given] == [False, True, True, True, False, True, True]
