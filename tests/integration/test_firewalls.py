"""Firewalls of other programs and settings of the kernel: found, said, passed after the line was typed."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration import test_bridge
from tests.support import firewalls
from tests.support.agent import wait_for
from tests.support.bridges import reaches, web
from tests.support.firewalls import Shell
from tests.support.lan import LanAgent, Network, stopped_lan_agent

TYPE = "; type: "
TO_PODS = "other machines do not reach their pods' ports"
FROM_PODS = "their pods do not reach other machines"
PUBLISHED = "pods do not reach each other's published ports"
AMONG_PODS = "pods of one bridge do not reach each other (br_netfilter)"
OUTSIDE = 9999


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with stopped_lan_agent(tmp_path) as made:
        made.host(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        with made.config.open("a") as config:
            config.write('[network.bridge]\nipv6 = "fd00:89::/48"\n')
        for command in ("addr add fd00::2/64 dev eth0 nodad", "-6 route add default via fd00::1"):
            made.host.ip(command)
        made.host(lambda: Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1"))
        yield made


@pytest.fixture
def at(agent: LanAgent, tmp_path: Path) -> Iterator[Shell]:
    """Give a shell of the machine."""
    packages = tmp_path / "no-packages"
    packages.mkdir()
    with firewalls.shell(agent.host, packages) as made:
        yield made


def connects(network: Network, address: str, port: int) -> bool:
    """Return whether a connection is made; a firewall may as well reject it as drop it."""
    try:
        network(lambda: socket.create_connection((address, port), timeout=3).close())
    except OSError:
        return False
    return True


def start(agent: LanAgent, head: str = 'ports = ["8080:80"]\n') -> None:
    agent.start()
    agent.write("web", web(agent, head))
    agent.write("peer", web(agent, 'network = "bridge"\n'))
    for name in ("web", "peer"):
        agent.wait_phase(name, "running")
        agent.wait_output(name, "started")
    wait_for(lambda: reaches(agent.host, "10.0.0.2", 8080), "it answers on its own machine")


def warnings(agent: LanAgent) -> list[str]:
    return list(agent.statuses("web")[0]["warnings"])


def doctor(agent: LanAgent) -> str:
    return agent.host(lambda: agent.tank("doctor", "--config", str(agent.config))).stdout


def check_effects(agent: LanAgent, said: str) -> None:
    """Fail unless what a warning says is what does not work, and all of that."""
    own = agent.statuses("web")[0]["addresses"][0].partition("/")[0]
    with agent.lan(lambda: socket.create_server(("10.0.0.1", OUTSIDE))):
        found = {
            TO_PODS: connects(agent.lan, "10.0.0.2", 8080),
            PUBLISHED: connects(agent.pod("peer"), "10.0.0.2", 8080),
            FROM_PODS: connects(agent.pod("web"), "10.0.0.1", OUTSIDE),
            AMONG_PODS: connects(agent.pod("peer"), own, 80),
        }
    assert found == {effect: effect not in said for effect in found}, said


def check_all_the_way(agent: LanAgent, put_up: Callable[[], object], at: Shell, owner: str) -> None:
    """Fail unless a firewall is found, and passed within a resync once the line was typed."""
    start(agent)
    assert warnings(agent) == []
    check_effects(agent, "")
    put_up()
    said = wait_for(lambda: warnings(agent), f"{owner} is found")
    assert len(said) == 1
    assert owner in said[0]
    check_effects(agent, said[0])
    assert said[0].partition(TYPE)[2] in doctor(agent)
    assert agent.statuses("web")[0]["phase"] == "running", "it is no error"
    at(said[0].partition(TYPE)[2])
    wait_for(lambda: not warnings(agent), f"the warning about {owner} goes")
    check_effects(agent, "")
    own = agent.statuses("web")[0]["addresses"][0].partition("/")[0]
    agent.lan.ip(f"route add {own}/32 via 10.0.0.2")
    assert not connects(agent.lan, own, 80), "what is not published stays closed"
    assert said[0].partition(TYPE)[2] not in doctor(agent)


@pytest.mark.parametrize("kind", ["nft", "legacy"])
@pytest.mark.parametrize("rules", [firewalls.DOCKER, firewalls.DOCKER_28], ids=["20-27", "28"])
def test_docker(agent: LanAgent, at: Shell, kind: str, rules: str) -> None:
    check_all_the_way(agent, lambda: at(f"iptables-{kind}-restore", rules), at, "Docker")


def documented(start: str) -> list[str]:
    """Return the commands of docs/networking.md that begin so."""
    lines = (Path(__file__).parents[2] / "docs/networking.md").read_text().splitlines()
    found = [line for line in lines if line.startswith(start)]
    assert found
    return found


def test_a_port_is_closed_by_a_rule_about_what_is_forwarded(agent: LanAgent, at: Shell) -> None:
    start(agent, 'ports = ["8080:80", "8081:80"]\n')
    for command in documented("nft 'add "):
        at(command.replace("10.0.0.0/24", "10.0.0.9"))
    assert not connects(agent.lan, "10.0.0.2", 8080)
    assert connects(agent.lan, "10.0.0.2", 8081)
    assert connects(agent.host, "127.0.0.1", 8080)
    for command in documented("nft 'add rule inet mine"):
        at(f"nft flush chain inet mine forward; {command}")
    assert connects(agent.lan, "10.0.0.2", 8080), "from the addresses that it names, it is open"


@pytest.mark.parametrize("value", ["0", "1"])
def test_bridges_with_and_without_br_netfilter(agent: LanAgent, at: Shell, value: str) -> None:
    if not Path("/proc/sys/net/bridge").exists():
        pytest.skip("br_netfilter is not loaded")
    for name in ("iptables", "ip6tables"):
        at(f"sysctl -qw net.bridge.bridge-nf-call-{name}={value}")
    agent.start()
    test_bridge.test_a_port_is_reached_from_everywhere(agent)


def test_docker_with_ipv6(agent: LanAgent, at: Shell) -> None:
    start(agent)
    at("ip6tables-restore", firewalls.DOCKER_IPV6)
    assert not connects(agent.lan, "fd00::2", 8080)
    said = wait_for(lambda: warnings(agent), "it is found")
    assert "by IPv6" in said[0]
    at(said[0].partition(TYPE)[2])
    wait_for(lambda: not warnings(agent), "the warning goes")
    wait_for(lambda: connects(agent.lan, "fd00::2", 8080), "it answers")


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_ufw(agent: LanAgent, at: Shell, kind: str) -> None:
    for program in ("iptables", "ip6tables"):
        for part in ("", "-save", "-restore"):
            at(f"ln -sf /usr/sbin/{program}-{kind}{part} /etc/alternatives/{program}{part}")
    check_all_the_way(agent, lambda: at("ufw --force enable"), at, "ufw")
    assert connects(agent.lan, "fd00::2", 8080), "one line lets both versions of IP through"
    # As docs/networking.md says.
    at("ufw deny 8080")
    assert connects(agent.lan, "10.0.0.2", 8080), "INPUT rules do not protect a published port"
    with agent.host(lambda: socket.create_server(("10.0.0.2", OUTSIDE))):
        assert not connects(agent.pod("web"), "10.0.0.2", OUTSIDE), "they protect this machine from pods"
        at("ufw allow in on tank-+")
        assert connects(agent.pod("web"), "10.0.0.2", OUTSIDE)
    for command in documented("ufw route insert"):
        at(command)
    assert not connects(agent.lan, "10.0.0.2", 8080), "FORWARD rules do, by the pod's port"
    assert warnings(agent) == []


def test_ufw_and_docker(agent: LanAgent, at: Shell) -> None:
    start(agent)
    at("ufw --force enable")
    at("iptables-restore --noflush", firewalls.DOCKER)
    wait_for(lambda: [line.split()[0] for line in warnings(agent)] == ["Docker", "ufw"], "both are found")
    check_effects(agent, " ".join(warnings(agent)))
    docker, ufw = warnings(agent)
    assert "by IPv6" in ufw
    at(docker.partition(TYPE)[2])
    wait_for(lambda: warnings(agent) == [ufw], "the warning about Docker goes")
    at(ufw.partition(TYPE)[2])
    wait_for(lambda: not warnings(agent), "the warning about ufw goes")
    check_effects(agent, "")


def test_a_plain_policy(agent: LanAgent, at: Shell) -> None:
    check_all_the_way(
        agent, lambda: at("nft -f -", firewalls.PLAIN), at, "the firewall (inet filter forward)"
    )


def test_a_rejecting_rule_at_the_end(agent: LanAgent, at: Shell) -> None:
    rule = "iptables -A FORWARD -j REJECT --reject-with icmp-host-prohibited"
    check_all_the_way(agent, lambda: at(rule), at, "the firewall (ip filter FORWARD)")


@pytest.mark.parametrize("assigned", [False, True], ids=["as-it-comes", "uplink-in-a-zone"])
def test_firewalld(agent: LanAgent, tmp_path: Path, assigned: bool) -> None:
    if not firewalls.unpack_firewalld(tmp_path):
        pytest.skip("no package of firewalld can be had here")
    start(agent)
    with (
        firewalls.shell(agent.host, tmp_path / "root") as at,
        firewalls.running_firewalld(agent.host, at),
    ):
        if assigned:
            # As NetworkManager does.
            at("firewall-cmd --zone=public --add-interface=eth0")

        def found() -> list[str]:
            # Between interfaces of one zone it forwards.
            said = warnings(agent)
            return said if said and (FROM_PODS in said[0]) != assigned else []

        said = wait_for(found, "it is found")
        assert "firewalld" in said[0]
        check_effects(agent, said[0])
        at(said[0].partition(TYPE)[2])
        wait_for(lambda: not warnings(agent), "the warning goes")
        check_effects(agent, "")


def test_a_machine_that_does_not_forward(agent: LanAgent, at: Shell) -> None:
    start(agent)
    at("sysctl -qw net.ipv4.ip_forward=0")
    said = wait_for(lambda: warnings(agent), "it is found")
    assert "this machine does not forward packets: " in said[0]
    wait_for(lambda: agent.host(forwards, "tank-default"), "its bridge forwards again")
    check_effects(agent, f"{TO_PODS} {FROM_PODS}")
    assert reaches(agent.pod("peer"), "10.0.0.2", 8080), "between pods it does"
    assert said[0].partition(TYPE)[2] in doctor(agent)
    at(said[0].partition(TYPE)[2])
    wait_for(lambda: not warnings(agent), "the warning goes")
    check_effects(agent, "")
    assert at("cat /etc/sysctl.d/90-tank.conf") == "net.ipv4.ip_forward=1\n"


def forwards(interface: str) -> bool:
    return Path(f"/proc/sys/net/ipv4/conf/{interface}/forwarding").read_text() == "1\n"


def test_an_uplink_that_does_not_forward(agent: LanAgent, at: Shell) -> None:
    start(agent)
    at("sysctl -qw net.ipv4.conf.eth0.forwarding=0")
    said = wait_for(lambda: warnings(agent), "it is found")
    assert "what comes in by eth0" in said[0]
    check_effects(agent, f"{TO_PODS} {FROM_PODS}")
    at(said[0].partition(TYPE)[2])
    wait_for(lambda: not warnings(agent), "the warning goes")
    check_effects(agent, "")


def test_a_machine_that_does_not_forward_ipv6(agent: LanAgent, at: Shell) -> None:
    start(agent)
    wait_for(lambda: connects(agent.lan, "fd00::2", 8080), "it answers")
    at("sysctl -qw net.ipv6.conf.all.forwarding=0")
    said = wait_for(lambda: warnings(agent), "it is found")
    assert "IPv6" in said[0]
    assert not connects(agent.lan, "fd00::2", 8080)
    assert connects(agent.lan, "10.0.0.2", 8080)
    at(said[0].partition(TYPE)[2])
    wait_for(lambda: not warnings(agent), "the warning goes")
    assert connects(agent.lan, "fd00::2", 8080)
    assert at("sysctl -n net.ipv6.conf.eth0.accept_ra") == "2\n", "it still takes its route from the router"


def test_loopback_of_ipv6_with_br_netfilter(agent: LanAgent, at: Shell) -> None:
    at("sysctl -qw net.bridge.bridge-nf-call-ip6tables=1")
    start(agent, 'ports = ["8080:80", "[::1]:8443:80"]\n')
    said = wait_for(lambda: warnings(agent), "it is found")
    assert "::1" in said[0]
    assert not agent.statuses("peer")[0]["warnings"], "which publishes nothing there"
    assert not connects(agent.host, "::1", 8443)
    assert said[0].partition(TYPE)[2] in doctor(agent)
    at(said[0].partition(TYPE)[2])
    wait_for(lambda: not warnings(agent), "the warning goes")
    wait_for(lambda: connects(agent.host, "::1", 8443), "it answers")


def test_a_rule_about_a_bridge_is_its_owners_decision(agent: LanAgent, at: Shell) -> None:
    at("nft -f -", firewalls.PLAIN)
    at("nft 'add rule inet filter forward oifname \"tank-default\" ip saddr 10.0.0.1 tcp dport 80 accept'")
    at("nft 'add rule inet filter forward iifname \"tank-default\" udp dport 53 accept'")
    start(agent)
    at("sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0")
    wait_for(lambda: connects(agent.lan, "10.0.0.2", 8080), "it answers")
    agent.write("other", web(agent, 'ports = ["8081:80"]\n[network]\nbridges = ["other"]\n'))
    agent.wait_phase("other", "running")
    said = agent.statuses("other")[0]["warnings"]
    assert said, "known at once, not only after a resync"
    assert "tank-other" in said[0]
    assert not warnings(agent)
    assert "warning for other: the firewall" in agent.tank("status").stdout


def test_no_rules_are_changed(agent: LanAgent, at: Shell) -> None:
    def of_others() -> str:
        return "".join(at(f"nft -s list table {table}") for table in ("ip filter", "ip nat"))

    at("iptables-restore", firewalls.DOCKER)
    before = of_others()
    start(agent)
    wait_for(lambda: warnings(agent), "it is found")
    assert of_others() == before


LIBRARY = "/usr/lib/*/libnftables.so.1"
PROGRAM = "/usr/sbin/nft"


def hide(agent: LanAgent, *files: str) -> None:
    """Have the agent find nothing in some files of this machine."""
    mounts = f'for file in {" ".join(files)}; do mount --bind /dev/null "$file"; done'
    agent.through = ["unshare", "--mount", "sh", "-ec", f'{mounts}; exec "$@"', "sh"]


def test_the_program_where_python_finds_no_library(agent: LanAgent, tmp_path: Path) -> None:
    # The program is one that has a library of its own.
    own, program = tmp_path / "libnftables", tmp_path / "nft"
    shutil.copy(next(Path("/usr/lib").glob("*/libnftables.so.1")), own)
    shutil.copy(PROGRAM, tmp_path / "real-nft")
    program.write_text(f'#!/bin/sh\nLD_PRELOAD={own} exec {tmp_path}/real-nft "$@"\n')
    program.chmod(0o755)
    hide(agent, LIBRARY)
    agent.through[3:5] = ["-ec", f"mount --bind {program} {PROGRAM}; {agent.through[4]}"]
    agent.start()
    agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
    agent.wait_phase("web", "running")
    wait_for(lambda: reaches(agent.lan, "10.0.0.2", 8080), "it answers")
    agent.host(lambda: subprocess.run(["nft", "flush", "ruleset"], check=True))
    wait_for(lambda: reaches(agent.lan, "10.0.0.2", 8080), "it is back")


def test_neither_library_nor_program(agent: LanAgent) -> None:
    hide(agent, LIBRARY, PROGRAM)
    agent.start()
    agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
    agent.write("quiet", web(agent, 'network = "bridge"\n'))
    agent.write("alone", web(agent))
    agent.wait_phase("alone", "running")
    for name in ("web", "quiet"):
        error = wait_for(lambda name=name: (agent.status(name) or {}).get("error"), "it is said")
        assert "pods in bridges and ports need nftables, which is not installed" in error
        assert "apt install nftables" in error
        assert len(error.splitlines()) <= 2
    assert agent.host.links() == {"lo", "eth0", "eth1"}, "nothing is made of what would not be safe"
    assert "made right" not in agent.log.read_text()
    for name in ("web", "quiet"):
        (agent.pods / f"{name}.toml").unlink()
        agent.wait_gone(name)
