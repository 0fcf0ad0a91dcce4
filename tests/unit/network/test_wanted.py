"""The pod file's interfaces, looked up on a host."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from tank_agent.errors import Retry
from tank_agent.network import wanted
from tank_agent.network.host_facts import HostDns, HostFacts, StaticHostFacts, UserHostFacts
from tank_agent.network.wanted import LINK_GROUP, check_parent, stable_mac, wanted_nics
from tank_agent.spec.model import Network, Nic

HOST = StaticHostFacts("lo", ())


def test_auto_is_the_hosts_uplink_and_others_are_themselves() -> None:
    network = Network(mode="nics", nics=(Nic(name="eth0"), Nic(name="eth1", parent="nosuch0")))
    first, second = wanted_nics("web", network, HOST)
    assert (first.parent, first.parent_index) == ("lo", 1)
    assert (second.parent, second.parent_index) == ("nosuch0", 0)
    (lost,) = wanted_nics("web", Network(mode="nics", nics=(Nic(name="eth0"),)), StaticHostFacts(None, ()))
    assert (lost.parent, lost.parent_index) == (None, 0)


def test_addresses_keep_their_prefix_and_host_part() -> None:
    nic = Nic(name="eth0", ip=("10.0.0.5/24", "fd00::5/64"), gateway=("10.0.0.1", "fd00::1"))
    (found,) = wanted_nics("web", Network(mode="nics", nics=(nic,)), HOST)
    assert found.addresses == (
        (ipaddress.ip_address("10.0.0.5").packed, 24),
        (ipaddress.ip_address("fd00::5").packed, 64),
    )
    assert [len(gateway) for gateway in found.gateways] == [4, 16]


def test_no_network_no_interfaces() -> None:
    assert wanted_nics("web", Network(), HOST) == ()


class TestMac:
    def test_it_depends_on_pod_interface_and_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = {stable_mac("web", "eth0"), stable_mac("web", "eth1"), stable_mac("db", "eth0")}
        found.add(stable_mac("webe", "th0"))
        monkeypatch.setattr(wanted, "_machine_id", lambda: "another")
        found.add(stable_mac("web", "eth0"))
        assert len(found) == 5
        assert stable_mac("web", "eth0") == stable_mac("web", "eth0")

    def test_it_is_a_locally_administered_unicast_address(self) -> None:
        for number in range(200):
            mac = stable_mac(f"pod{number}", "eth0")
            assert len(mac) == 6
            assert mac[0] & 0b11 == 0b10

    def test_the_machine_is_its_machine_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = (tmp_path / "missing", tmp_path / "empty", tmp_path / "machine-id")
        files[1].write_text("\n")
        files[2].write_text("0123456789abcdef0123456789abcdef\n")
        monkeypatch.setattr(wanted, "_MACHINE_ID_FILES", files)
        assert wanted._machine_id.__wrapped__() == "0123456789abcdef0123456789abcdef"
        monkeypatch.setattr(wanted, "_MACHINE_ID_FILES", files[:2])
        monkeypatch.setattr("socket.gethostname", lambda: "edge-1")
        assert wanted._machine_id.__wrapped__() == "edge-1"

    def test_the_first_name_fits_and_is_of_this_interface(self) -> None:
        first, second = wanted_nics(
            "web", Network(mode="nics", nics=(Nic(name="eth0"), Nic(name="eth1"))), HOST
        )
        assert first.first_name == "tk" + first.mac.hex()
        assert len(first.first_name) <= 15
        assert first.first_name != second.first_name


def test_the_mark_is_tank_in_ascii() -> None:
    assert LINK_GROUP.to_bytes(4, "big") == b"tank"


class Unconnected:
    """A user's own adapter that knows no uplink now."""

    def uplink(self) -> str | None:
        return None

    def dns(self) -> HostDns:
        return HostDns()


@pytest.mark.parametrize(
    ("host", "why", "hint"),
    [
        (StaticHostFacts(None, ()), 'no uplink: adapter "static"', "or an uplink in the [host] table"),
        # [host] takes no uplink beside an adapter of one's own.
        (
            UserHostFacts("my.Adapter", Unconnected()),
            "no uplink: my.Adapter.uplink() returned None",
            "adapter name",
        ),
    ],
)
def test_the_reason_for_no_uplink_is_the_adapters(host: HostFacts, why: str, hint: str) -> None:
    (nic,) = wanted_nics("web", Network(mode="nics", nics=(Nic(name="eth0"),)), host)
    with pytest.raises(Retry) as caught:
        check_parent(nic)
    assert why in caught.value.message and "default route" not in caught.value.message
    assert hint in (caught.value.hint or "")
