"""How often obstacles are looked for, and what is said of which."""

from __future__ import annotations

import pytest

from tank_agent.errors import Retry
from tank_agent.linux import nftables, process
from tank_agent.network import obstacles
from tank_agent.network.firewall import BridgeNetworks
from tank_agent.network.obstacles import Obstacles

BRIDGE = BridgeNetworks(interface="tank-default", networks=("10.89.0.0/24",))
OTHER = BridgeNetworks(interface="tank-other", networks=("10.89.1.0/24",))
BOTH_IP = BridgeNetworks(interface="tank-six", networks=("10.89.2.0/24", "fd00::/64"))
DROPPING = """table ip filter {
	chain DOCKER-USER {
	}

	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		counter packets 0 bytes 0 jump DOCKER-USER
	}
}
"""


class Machine:
    """Stands for the kernel and its programs, and counts what is asked of them."""

    def __init__(self) -> None:
        self.settings = {"ipv4/ip_forward": "1", "ipv4/conf/eth0/forwarding": "1"}
        self.tables, self.number, self.listings = "", 1, 0
        self.legacy, self.legacy_runs, self.now = "", 0, 0.0
        self.fails = False

    def generation(self) -> int:
        return self.number

    def run(self, commands: str) -> str:
        assert commands.startswith("list ")
        if self.fails:
            raise Retry("nftables does not answer")
        self.listings += 1
        return self.tables

    def setting(self, name: str) -> str:
        if name not in self.settings:
            raise FileNotFoundError(name)
        return self.settings[name]

    def program(self, argv: list[str], *, timeout: float) -> process.Finished:
        assert argv == ["iptables-legacy", "-w", "2", "-S"]
        self.legacy_runs += 1
        return process.Finished(4, "", "locked") if self.fails else process.Finished(0, self.legacy, "")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(nftables.PacketFilter, "generation", lambda _: made.generation())
    monkeypatch.setattr(nftables.PacketFilter, "run", lambda _, commands: made.run(commands))
    monkeypatch.setattr(obstacles, "read_network_sysctl", made.setting)
    monkeypatch.setattr(process, "run", made.program)
    monkeypatch.setattr(obstacles, "_has_legacy_filter", lambda version: version == 4 and bool(made.legacy))
    return made


def looker(machine: Machine) -> Obstacles:
    return Obstacles(lambda: "eth0", clock=lambda: machine.now)


def test_without_bridges_nothing_is_asked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obstacles, "read_network_sysctl", lambda _: pytest.fail("a setting was read"))
    monkeypatch.setattr(nftables.PacketFilter, "generation", lambda _: pytest.fail("nftables was asked"))
    assert looker(machine).look([]) == ()


def test_rules_are_only_listed_when_some_changed(machine: Machine) -> None:
    found = looker(machine)
    assert found.look([BRIDGE]) == ()
    before = machine.listings
    for _ in range(3):
        found.look([BRIDGE])
    assert machine.listings == before
    machine.tables, machine.number = DROPPING, 2
    (obstacle,) = found.look([BRIDGE])
    assert obstacle.remedy.startswith("iptables -I DOCKER-USER -i tank-+ -j ACCEPT; ")
    machine.tables, machine.number = "", 3
    assert found.look([BRIDGE]) == ()
    assert found.look([]) == ()


def test_what_cannot_be_listed_is_as_before_and_asked_again(machine: Machine) -> None:
    found = looker(machine)
    machine.tables = DROPPING
    before = found.look([BRIDGE])
    assert before
    machine.fails, machine.number = True, 2
    assert found.look([BRIDGE]) == before
    machine.fails, machine.tables = False, ""
    assert found.look([BRIDGE]) == ()


def test_the_older_filter_is_asked_at_last_once_a_minute(machine: Machine) -> None:
    machine.legacy = "-P FORWARD ACCEPT\n"
    found = looker(machine)
    asked = []
    for machine.now in range(0, 300, 5):
        before = machine.legacy_runs
        assert found.look([BRIDGE]) == ()
        asked += [machine.now] * (machine.legacy_runs - before)
    assert asked == [0, 5, 15, 35, 75, 135, 195, 255]
    machine.legacy, machine.now = "-P FORWARD DROP\n", 315
    (obstacle,) = found.look([BRIDGE])
    assert "ip filter FORWARD of iptables-legacy" in obstacle.problem
    assert "iptables-legacy -I FORWARD -o tank-+ -j ACCEPT" in obstacle.remedy
    machine.fails, machine.now = True, 316
    assert found.look([BRIDGE]) == (obstacle,), "it is locked: as before"
    machine.fails = False
    machine.legacy, machine.now = "-P FORWARD ACCEPT\n", 317
    assert found.look([BRIDGE]) == (), "the end of an obstacle is seen at once"


@pytest.mark.parametrize(
    ("settings", "problem", "remedy"),
    [
        (
            {"ipv4/ip_forward": "0", "ipv4/conf/eth0/forwarding": "0"},
            "forward packets:",
            "net.ipv4.ip_forward=1",
        ),
        ({"ipv4/conf/eth0/forwarding": "0"}, "comes in by eth0", "net/ipv4/conf/eth0/forwarding=1"),
        ({"ipv6/conf/all/forwarding": "0"}, "of IPv6", "net.ipv6.conf.all.forwarding=1"),
        (
            {"ipv6/conf/all/forwarding": "0", "ipv6/conf/eth0/accept_ra": "1"},
            "of IPv6",
            "net/ipv6/conf/eth0/accept_ra=2",
        ),
        ({"bridge/bridge-nf-call-ip6tables": "1"}, "::1", "net.bridge.bridge-nf-call-ip6tables=0"),
    ],
)
def test_settings(machine: Machine, settings: dict[str, str], problem: str, remedy: str) -> None:
    machine.settings |= {"ipv6/conf/all/forwarding": "1", **settings}
    (obstacle,) = looker(machine).look([BRIDGE, BOTH_IP], at_loopback=True)
    assert problem in obstacle.problem
    assert f"echo {remedy} >>/etc/sysctl.d/90-tank.conf" in obstacle.remedy
    assert ("of IPv6" in problem) == (obstacle.interfaces == {"tank-six"})


@pytest.mark.parametrize(
    "settings",
    [
        # A machine that forwards only what comes in by its uplink.
        {"ipv4/ip_forward": "0"},
        {"ipv6/conf/all/forwarding": "0", "ipv6/conf/eth0/force_forwarding": "1"},
        {"bridge/bridge-nf-call-iptables": "1"},
    ],
)
def test_settings_that_are_no_obstacle(machine: Machine, settings: dict[str, str]) -> None:
    machine.settings |= {"ipv6/conf/all/forwarding": "1", **settings}
    assert looker(machine).look([BOTH_IP], at_loopback=True) == ()


def test_ipv6_is_only_looked_at_where_bridges_have_it(machine: Machine) -> None:
    machine.settings |= {"ipv6/conf/all/forwarding": "0"}
    machine.tables = DROPPING.replace("table ip ", "table ip6 ")
    assert looker(machine).look([BRIDGE]) == ()
    assert len(looker(machine).look([BOTH_IP])) == 2


def test_an_obstacle_names_the_bridges_that_it_is_about(machine: Machine) -> None:
    machine.tables = DROPPING.replace(
        "jump DOCKER-USER\n", 'jump DOCKER-USER\n\t\tiifname "tank-other" accept\n'
    )
    (obstacle,) = looker(machine).look([OTHER, BRIDGE])
    assert obstacle.interfaces == {"tank-default", "tank-other"}
    machine.tables = machine.tables.replace("accept\n", 'accept\n\t\toifname "tank-other" accept\n')
    (obstacle,) = looker(machine).look([OTHER, BRIDGE])
    assert obstacle.interfaces == {"tank-default"}


def test_br_netfilter_with_a_drop_parts_pods_of_one_bridge(machine: Machine) -> None:
    machine.tables = DROPPING
    assert "of one bridge" not in looker(machine).look([BRIDGE])[0].problem
    machine.settings["bridge/bridge-nf-call-iptables"] = "1"
    assert (
        "pods of one bridge do not reach each other (br_netfilter)"
        in looker(machine).look([BRIDGE])[0].problem
    )
