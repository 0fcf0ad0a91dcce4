"""Frames that ask for an address, and frames that answer."""

from __future__ import annotations

import ipaddress
import random

import pytest

from tank_agent.network import probe
from tank_agent.network.probe import Target, holder_in

MINE = bytes.fromhex("020000000001")
THEIRS = bytes.fromhex("020000000002")
IPV4 = ipaddress.ip_address("10.0.0.5").packed
IPV6 = ipaddress.ip_address("fd00::5").packed


def target(packed: bytes, mac: bytes = MINE) -> Target:
    return Target(1, mac, packed)


@pytest.mark.parametrize("packed", [IPV4, IPV6])
@pytest.mark.parametrize("frame", [probe._question, probe._statement])
def test_anothers_frame_about_the_address_names_the_other(packed: bytes, frame: object) -> None:
    assert callable(frame)
    assert holder_in(frame(target(packed, THEIRS)), target(packed)) == THEIRS


@pytest.mark.parametrize("packed", [IPV4, IPV6])
@pytest.mark.parametrize("frame", [probe._question, probe._statement])
def test_our_own_frame_means_nothing(packed: bytes, frame: object) -> None:
    assert callable(frame)
    assert holder_in(frame(target(packed)), target(packed)) is None


@pytest.mark.parametrize(("packed", "other"), [(IPV4, "10.0.0.6"), (IPV6, "fd00::6")])
def test_frames_about_another_address_mean_nothing(packed: bytes, other: str) -> None:
    asked = target(ipaddress.ip_address(other).packed, THEIRS)
    for frame in (probe._question(asked), probe._statement(asked)):
        assert holder_in(frame, target(packed)) is None


def test_a_host_that_only_looks_for_the_address_does_not_have_it() -> None:
    asking = ipaddress.ip_address("10.0.0.9").packed
    assert holder_in(probe._arp_frame(THEIRS, asking, IPV4), target(IPV4)) is None
    frame = bytearray(probe._question(target(IPV6, THEIRS)))
    frame[22:38] = ipaddress.ip_address("fd00::9").packed
    assert holder_in(bytes(frame), target(IPV6)) is None


def test_an_advertisement_from_beyond_the_lan_is_not_believed() -> None:
    frame = bytearray(probe._statement(target(IPV6, THEIRS)))
    frame[21] = 254
    assert holder_in(bytes(frame), target(IPV6)) is None


def test_an_advertisement_without_option_is_its_senders() -> None:
    frame = probe._statement(target(IPV6, THEIRS))[:-8]
    assert holder_in(frame, target(IPV6)) == THEIRS


def test_icmpv6_checksums_add_up_to_zero() -> None:
    for frame in (probe._question(target(IPV6)), probe._statement(target(IPV6))):
        source_and_destination, message = frame[22:54], frame[54:]
        pseudo = source_and_destination + len(message).to_bytes(4, "big") + (58).to_bytes(4, "big")
        assert probe._checksum(pseudo + message) == 0


def test_solicited_node_group_and_its_mac_address() -> None:
    packed = ipaddress.ip_address("fd00::12:3456:789a").packed
    group = probe._solicited_node(packed)
    assert str(ipaddress.ip_address(group)) == "ff02::1:ff56:789a"
    assert probe._multicast_mac(group).hex(":") == "33:33:ff:56:78:9a"


def test_cut_and_random_frames_are_harmless() -> None:
    chance = random.Random(4)
    for packed in (IPV4, IPV6):
        whole = probe._statement(target(packed, THEIRS))
        for length in range(len(whole)):
            holder_in(whole[:length], target(packed))
        for _ in range(500):
            holder_in(chance.randbytes(chance.randrange(120)), target(packed))
