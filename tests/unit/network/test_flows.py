"""Which flows of UDP a change of ports makes wrong."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tank_agent.linux.namespaces import create_network_namespace, in_network_namespace, unpin
from tank_agent.network.firewall import Forward
from tank_agent.network.flows import Flow, Flows, is_stale

_RULES = "table inet other { chain mine { type filter hook output priority 0; ct state invalid drop; }; }"

OWN, POD, OLD = "10.0.0.2", "10.89.0.2", "10.89.0.9"
FORWARDS = [
    Forward(protocol="udp", address=None, port=53, target=POD, target_port=5353),
    Forward(protocol="udp", address="127.0.0.1", port=53, target="10.89.0.3", target_port=53),
    Forward(protocol="udp", address=None, port=9000, target=POD, target_port=80, count=3),
    Forward(protocol="udp", address=None, port=53, target="fd12::2", target_port=5353),
]


@pytest.mark.parametrize(
    ("flow", "stale"),
    [
        (Flow(OWN, 53, POD, 5353), False),
        (Flow(OWN, 53, OWN, 53), True),
        (Flow(OWN, 53, OLD, 5353), True),
        (Flow(OWN, 53, POD, 53), True),
        (Flow("127.0.0.1", 53, "10.89.0.3", 53), False),
        (Flow("127.0.0.1", 53, POD, 5353), True),
        (Flow(OWN, 9002, POD, 82), False),
        (Flow(OWN, 9002, POD, 80), True),
        (Flow(OWN, 9003, OWN, 9003), False),
        (Flow("fd00::2", 53, "fd12::2", 5353), False),
        (Flow("fd00::2", 53, "fd00::2", 53), True),
        # A port that was withdrawn, and one of another program's.
        (Flow(OWN, 54, OLD, 5353), True),
        (Flow(OWN, 54, "172.17.0.2", 5353), False),
        (Flow(OLD, 54, OLD, 54), False),
    ],
)
def test_a_flow_is_stale_if_it_would_begin_anew_with_another_end(flow: Flow, *, stale: bool) -> None:
    assert is_stale(flow, FORWARDS, {OLD}) is stale


@pytest.mark.machine
def test_flows_of_both_families_to_a_port_are_forgotten_and_no_others(tmp_path: Path) -> None:
    create_network_namespace(tmp_path / "netns")

    def look() -> tuple[int, int]:
        # With rules, the machine remembers flows.
        subprocess.run(["nft", _RULES], check=True, timeout=10)
        for family, to in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as asker:
                asker.sendto(b"?", (to, 53))
                asker.sendto(b"?", (to, 54))
        before = count()
        targets = ("10.89.0.2", "fd12::2")
        Flows().follow(
            [Forward(protocol="udp", address=None, port=53, target=to, target_port=53) for to in targets]
        )
        return before, count()

    def count() -> int:
        return int(Path("/proc/thread-self/net/stat/nf_conntrack").read_text().split("\n")[1].split()[0], 16)

    try:
        assert in_network_namespace(tmp_path / "netns", look) == (4, 2)
    finally:
        unpin(tmp_path / "netns")
