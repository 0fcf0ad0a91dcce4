"""What somebody takes from a bridge, its pods or its rules comes back within a resync, without restarts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.bridges import bridge_agent, get, nft, reaches, web
from tests.support.lan import LanAgent

OWN = "10.0.0.2"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with bridge_agent(tmp_path) as made:
        made.start()
        made.write("web", web(made, 'ports = ["8080:80"]\n'))
        made.write("other", web(made, '[network]\nbridges = ["default", "back"]\n'))
        made.wait_phase("web", "running")
        made.wait_phase("other", "running")
        wait_for(lambda: works(made), "it works")
        yield made


def works(agent: LanAgent) -> bool:
    """Return whether the page of `web` is reached on all ways."""
    own = str(agent.statuses("web")[0]["addresses"][0]).partition("/")[0]
    other = agent.pod("other")
    return all(
        reaches(network, address, port)
        for network, address, port in (
            (agent.lan, OWN, 8080),
            (agent.host, "127.0.0.1", 8080),
            (agent.host, own, 80),
            (other, own, 80),
            (other, OWN, 8080),
        )
    )


def peer(agent: LanAgent, pod: str) -> str:
    """Return the machine's end of a pod's eth0."""
    index = agent.pod(pod).ip("-o link show eth0").partition("eth0@if")[2].partition(":")[0]
    links = agent.host.ip("-o link show").splitlines()
    return next(link.split(": ")[1].partition("@")[0] for link in links if link.startswith(f"{index}: "))


def run(agent: LanAgent, command: str) -> None:
    agent.host(lambda: subprocess.run(command.split(), check=True, timeout=60))


MACHINE = [
    "ip link del tank-default",
    "ip link del tank-back",
    "ip link set tank-default down",
    "ip link set tank-default name mine",
    "ip addr flush dev tank-default",
    "ip addr del 10.89.0.1/24 dev tank-default",
    "sysctl -qw net.ipv4.conf.tank-default.forwarding=0",
    "sysctl -qw net.ipv4.conf.tank-default.route_localnet=0",
    "nft flush ruleset",
    "nft delete table inet tank",
    "nft flush chain inet tank publish",
    "nft flush map inet tank any4",
    "nft add rule inet tank forward drop",
    "nft insert rule inet tank forward drop",
    "nft delete chain inet tank raw",
]
PORTS = [
    "ip link del {end}",
    "ip link set {end} down",
    "ip link set {end} nomaster",
    "ip link set {end} master tank-back",
    "ip link set {end} name mine0",
]
POD = [
    "link del eth0",
    "link set eth0 down",
    "addr flush dev eth0",
    "route del default",
]


def assert_healed(agent: LanAgent, before: dict[str, object], what: str) -> None:
    wait_for(lambda: works(agent), f"it works after {what}")
    wait_for(lambda: state(agent) == before, f"{what}: all is as it was, {before}, not {state(agent)}")


def state(agent: LanAgent) -> dict[str, object]:
    return {
        "rules": nft(agent, "list", "table", "inet", "tank")
        if "tank" in nft(agent, "list", "tables")
        else "",
        "links": agent.host.links(),
        "pods": [(pod["name"], pod["addresses"], pod["containers"][0]["pid"]) for pod in agent.statuses()],
    }


@pytest.mark.parametrize(
    "commands", [MACHINE[:5], MACHINE[5:10], MACHINE[10:]], ids=["first", "then", "last"]
)
def test_bridges_and_rules(agent: LanAgent, commands: list[str]) -> None:
    before = state(agent)
    for command in commands:
        run(agent, command)
        assert_healed(agent, before, command)


def test_one_entry_of_a_map(agent: LanAgent) -> None:
    before = state(agent)
    nft(agent, "delete", "element", "inet", "tank", "any4", "{ tcp . 8080 }")
    assert_healed(agent, before, "one entry")
    nft(agent, "add", "element", "inet", "tank", "any4", "{ tcp . 8081 : 10.89.0.2 . 80 }")
    wait_for(lambda: not reaches(agent.lan, OWN, 8081), "a port that nobody published is closed again")
    assert_healed(agent, before, "one entry more")


def test_the_machines_ends(agent: LanAgent) -> None:
    before = state(agent)
    for command in PORTS:
        run(agent, command.format(end=peer(agent, "web")))
        assert_healed(agent, before, command)


def test_the_pods_ends(agent: LanAgent) -> None:
    before = state(agent)
    for command in POD:
        agent.pod("web").ip(command)
        assert_healed(agent, before, command)


def test_rules_of_others_stay(agent: LanAgent) -> None:
    nft(agent, "add table ip mine; add chain ip mine c; add rule ip mine c counter")
    before = nft(agent, "list", "table", "ip", "mine")
    nft(agent, "delete", "table", "inet", "tank")
    wait_for(lambda: works(agent), "it works again")
    assert nft(agent, "list", "table", "ip", "mine") == before


def test_a_route_to_the_pool_of_somebody_else(agent: LanAgent) -> None:
    """It leads nothing of ours away, and a new bridge gets another network."""
    agent.host.ip("route add 10.89.0.0/16 dev eth1")
    agent.host.ip("route add 10.89.0.0/24 dev eth1 metric 50")
    agent.write("third", web(agent, '[network]\nbridges = ["third"]\n'))
    wait_for(lambda: works(agent), "it works")
    wait_for(
        lambda: "10.89.0.0/16 is on eth1" in str((agent.status("third") or {}).get("error")), "it is said"
    )
    agent.host.ip("route del 10.89.0.0/16 dev eth1")
    agent.host.ip("route add 10.89.2.0/24 dev eth1")
    status = agent.wait_phase("third", "running")
    assert status["addresses"] == ["10.89.3.2/24"]


def test_an_interface_of_somebody_else_with_a_bridges_name(agent: LanAgent) -> None:
    agent.host.ip("link add tank-third type bridge")
    agent.write("third", web(agent, '[network]\nbridges = ["third"]\n'))
    wait_for(lambda: "tank did not make it" in str((agent.status("third") or {}).get("error")), "it is said")
    agent.host.ip("link del tank-default")
    wait_for(lambda: works(agent), "the others do not wait for it")
    agent.host.ip("link del tank-third")
    agent.wait_phase("third", "running")


def test_a_reboot_keeps_the_addresses(agent: LanAgent) -> None:
    """The run directory, interfaces and rules are gone, the journal is not."""
    before = [(pod["name"], pod["addresses"]) for pod in agent.statuses()]
    pids = [agent.pid(name) for name in ("web", "other")]
    links = agent.host.links()
    assert agent.stop() == 0
    journal = agent.data / "journal"
    kept = agent.home / "journal"
    subprocess.run(["cp", "-a", str(journal), str(kept)], check=True)
    agent.start("--stop-pods")
    assert agent.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert agent.host.links() <= {"lo", "eth0", "eth1"}, "--stop-pods leaves no bridge"
    assert "tank" not in nft(agent, "list", "tables"), "--stop-pods leaves no rules"
    subprocess.run(["rm", "-rf", str(agent.run), str(journal)], check=True)
    subprocess.run(["cp", "-a", str(kept), str(journal)], check=True)
    agent.start()
    for name in ("web", "other"):
        agent.wait_phase(name, "running")
    wait_for(lambda: works(agent), "it works")
    assert [(pod["name"], pod["addresses"]) for pod in agent.statuses()] == before
    assert agent.host.links() == links
    assert agent.host(get, "127.0.0.1", 8080) == "web"
