"""IPv6 in bridges: reached as IPv4 is, from the same places."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.bridges import IPV6_POOL, bridge_agent, reaches, running, set_bridge, web
from tests.support.lan import LanAgent, talk

OWN6, LAN6 = "fd00::2", "fd00::1"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with bridge_agent(tmp_path, ipv6=IPV6_POOL) as made:
        made.start()
        yield made


def addresses(agent: LanAgent, name: str) -> list[str]:
    return [text.partition("/")[0] for text in agent.wait_phase(name, "running")["addresses"]]


def test_a_port_is_reached_from_everywhere_by_both_families(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'ports = ["8080:80", "[::1]:8443:80", "[fd00::2]:8444:80"]\n'))
    agent.write("other", web(agent, 'network = "bridge"\n'))
    agent.write("apart", web(agent, '[network]\nbridges = ["back"]\n'))
    running(agent, "web", "other", "apart")
    wait_for(lambda: reaches(agent.host, "127.0.0.1", 8080), "it answers")
    # Until the machines have found each other.
    wait_for(lambda: reaches(agent.lan, OWN6, 8080), "it answers by IPv6")
    _, own6 = addresses(agent, "web")
    assert own6.startswith("fd12:3456:789a:")
    for name, network, targets in (
        ("the LAN", agent.lan, ["10.0.0.2", OWN6]),
        ("its own machine", agent.host, ["10.0.0.2", OWN6, "127.0.0.1", "::1"]),
        ("another pod", agent.pod("other"), ["10.0.0.2", OWN6]),
        ("a pod of another bridge", agent.pod("apart"), ["10.0.0.2", OWN6]),
        ("itself", agent.pod("web"), ["10.0.0.2", OWN6]),
    ):
        for address in targets:
            assert reaches(network, address, 8080), f"{name}, {address}"
    assert reaches(agent.host, "::1", 8443)
    assert not reaches(agent.host, OWN6, 8443)
    assert not reaches(agent.lan, OWN6, 8443)
    assert reaches(agent.lan, OWN6, 8444)
    assert not reaches(agent.host, "::1", 8444)
    assert reaches(agent.pod("other"), own6, 80), "without a port that is published"
    assert not reaches(agent.pod("apart"), own6, 80), "the bridges are apart"
    agent.lan.ip(f"route add {own6}/128 via {OWN6}")
    assert not reaches(agent.lan, own6, 80), "what is not published is not routed either"
    agent.lan.ip(f"route add ::1/128 via {OWN6} table 77")
    agent.lan.ip("-6 rule add to ::1 lookup 77 pref 0")
    assert not reaches(agent.lan, "::1", 8443), "from outside"


def test_pods_reach_out_with_the_machines_address(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'network = "bridge"\n'))
    agent.wait_phase("web", "running")
    assert talk(agent.pod("web"), agent.lan, LAN6) == b"hello"
    assert talk(agent.pod("web"), agent.lan, "10.0.0.1") == b"hello"


def test_ipv6_comes_to_pods_that_run_and_goes(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
    both = addresses(agent, "web")
    pid = agent.pid("web")
    assert agent.stop() == 0
    set_bridge(agent)
    agent.start()
    wait_for(lambda: addresses(agent, "web") == both[:1], "it has IPv4 alone")
    assert not reaches(agent.lan, OWN6, 8080)
    assert agent.stop() == 0
    set_bridge(agent, ipv6=IPV6_POOL)
    agent.start()
    wait_for(lambda: addresses(agent, "web") == both, "it has both again")
    wait_for(lambda: reaches(agent.lan, OWN6, 8080), "it answers")
    assert agent.pid("web") == pid


def test_a_port_of_ipv6_needs_ipv6(tmp_path: Path) -> None:
    with bridge_agent(tmp_path) as agent:
        agent.start()
        agent.write("web", web(agent, 'ports = ["[::1]:8443:80"]\n'))

        def said() -> bool:
            return "set `ipv6`" in str((agent.status("web") or {}).get("error"))

        wait_for(said, "it is said")


@pytest.mark.parametrize(
    "command",
    [
        "ip -6 route del local ::1 dev tank-default table local",
        "ip -6 addr flush dev tank-default scope global",
        "sysctl -qw net.ipv6.conf.tank-default.disable_ipv6=1",
        "ip link del tank-default",
    ],
)
def test_what_is_taken_away_comes_back(agent: LanAgent, command: str) -> None:
    agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
    agent.wait_phase("web", "running")
    wait_for(lambda: reaches(agent.host, "::1", 8080), "it answers")
    agent.host(lambda: subprocess.run(command.split(), check=True))
    wait_for(lambda: reaches(agent.host, "::1", 8080) and reaches(agent.lan, OWN6, 8080), "it is back")
