"""A change of [network.bridge] in agent.toml: nothing at a reload; at the next start, in place."""

from __future__ import annotations

import ipaddress
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_bridge import reaches, web
from tests.support.agent import wait_for
from tests.support.lan import LanAgent, stopped_lan_agent


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with stopped_lan_agent(tmp_path) as made:
        made.host(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        made.start()
        yield made


def set_bridge(agent: LanAgent, lines: str) -> None:
    text = agent.config.read_text().partition("[network.bridge]")[0]
    agent.config.write_text(f"{text}[network.bridge]\n{lines}\n")


def addresses(agent: LanAgent, name: str = "web") -> list[str]:
    return [str(address) for address in agent.statuses(name)[0]["addresses"]]


def restart(agent: LanAgent) -> None:
    agent.kill()
    agent.start()


def test_a_change_counts_from_the_next_start_and_moves_pods_in_place(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
    agent.write("db", web(agent, 'network = "bridge"\n'))
    for name in ("web", "db"):
        agent.wait_phase(name, "running")
    wait_for(lambda: reaches(agent.lan, "10.0.0.2", 8080), "it answers")
    pids = [agent.pid(name) for name in ("web", "db")]
    before = addresses(agent)
    set_bridge(agent, 'pool = "10.77.0.0/16"\nprefix = 22\npublish = "127.0.0.1"')
    agent.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    wait_for(lambda: "needs_restart" in agent.log.read_text(), "it is reloaded")
    agent.client.sync(wait=10)
    assert addresses(agent) == before
    assert reaches(agent.lan, "10.0.0.2", 8080)
    restart(agent)

    def moved() -> bool:
        pool = ipaddress.ip_network("10.77.0.0/16")
        found = [ipaddress.ip_interface(text) for name in ("web", "db") for text in addresses(agent, name)]
        return len(found) == 2 and all(each.ip in pool and each.network.prefixlen == 22 for each in found)

    wait_for(moved, "both have addresses of the new pool")
    wait_for(lambda: reaches(agent.host, "127.0.0.1", 8080), "the port leads there")
    assert not reaches(agent.lan, "10.0.0.2", 8080), "it is published where agent.toml says"
    assert [port["address"] for port in agent.statuses("web")[0]["ports"]] == ["127.0.0.1"]
    assert [agent.pid(name) for name in ("web", "db")] == pids
    bridge = agent.host.ip("-4 -br addr show dev tank-default").split()
    assert [text for text in bridge if "/" in text] == ["10.77.0.1/22"], "and none of the former network"
    hosts = agent.tank("exec", "web", "--", "cat", "/etc/hosts").stdout
    assert f"{addresses(agent, 'db')[0].partition('/')[0]} db" in hosts


def test_ipv6_comes_and_goes_in_place(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
    agent.wait_phase("web", "running")
    pid, (four,) = agent.pid("web"), addresses(agent)
    set_bridge(agent, 'ipv6 = "fd12:3456:789a::/48"')
    restart(agent)
    wait_for(lambda: len(addresses(agent)) == 2, "it has an address of IPv6, too")
    assert addresses(agent)[0] == four
    assert addresses(agent)[1].startswith("fd12:3456:789a:")
    set_bridge(agent, "")
    restart(agent)
    wait_for(lambda: addresses(agent) == [four], "it has none any more")
    assert agent.pid("web") == pid


def test_a_pool_that_this_machine_routes_elsewhere_is_said(agent: LanAgent) -> None:
    agent.host.ip("route add 10.77.0.0/16 dev eth1")
    set_bridge(agent, 'pool = "10.77.0.0/20"')
    restart(agent)
    agent.write("web", web(agent, 'ports = ["8080:80"]\n'))

    def said() -> bool:
        status = agent.status("web")
        return status is not None and "10.77.0.0/16 is on eth1" in (status["error"] or "")

    wait_for(said, "it says which route is in the way")
    assert "pool" in (agent.statuses("web")[0]["error"] or "")
    agent.host.ip("route del 10.77.0.0/16 dev eth1")
    agent.wait_phase("web", "running")


def test_a_file_with_errors_changes_nothing(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
    agent.wait_phase("web", "running")
    set_bridge(agent, 'pool = "10.77.0.0/24"\nprefix = 16')
    agent.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    try:
        wait_for(lambda: "does not fit into pool" in agent.log.read_text(), "it is said")
    finally:
        # The agent starts once more at the end.
        set_bridge(agent, "")
    assert agent.status("web")["phase"] == "running"  # type: ignore[index]
