"""`host_access`: the machine and its own pods on the LAN reach each other, and nobody else notices."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tank_agent.linux.namespaces import set_network_sysctl
from tank_agent.network.wanted import stable_mac
from tests.support.agent import wait_for
from tests.support.lan import LanAgent, Network, nic, stopped_lan_agent, talk

FIVE, SIX = nic(["10.0.0.5/24", "fd00::5/64"]), nic(["10.0.0.6/24", "fd00::6/64"])
# linux/if_ether.h, asm-generic/socket.h
ETH_P_ALL, SO_RCVBUFFORCE = 0x0003, 33
ON, OFF = "host_access = true", "host_access = false"
OWN = ("10.0.0.2", "fd00::2")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with stopped_lan_agent(tmp_path) as made:
        made.host.ip("addr add fd00::2/64 dev eth0 nodad")
        made.config.write_text(f"{made.config.read_text()}[network]\n{ON}\n")
        yield made


def switch(agent: LanAgent, old: str, new: str) -> None:
    agent.config.write_text(agent.config.read_text().replace(old, new))
    if agent.process is not None:
        agent.process.send_signal(signal.SIGHUP)


def shims(agent: LanAgent) -> set[str]:
    return {name for name in agent.host.links() if name.startswith("tank")}


def shim(agent: LanAgent, parent: str = "eth0") -> str:
    return f"tank{agent.host(socket.if_nametoindex, parent)}"


def reach(one: Network, other: Network, address: str) -> bool:
    try:
        return talk(one, other, address) == b"hello"
    except OSError:
        return False


def both_ways(agent: LanAgent, pod: str, number: int) -> bool:
    there = agent.pod(pod)
    return all(
        reach(agent.host, there, f"{prefix}{number}") and reach(there, agent.host, own)
        for prefix, own in (("10.0.0.", OWN[0]), ("fd00::", OWN[1]))
    )


def macs(network: Network) -> set[tuple[str, str]]:
    """Return the addresses and MAC addresses of a machine's neighbours."""
    lines = map(str.split, network.ip("neigh").splitlines())
    return {(line[0], line[4]) for line in lines if "lladdr" in line}


def test_both_ways_in_both_families_and_the_lan_notices_nothing(agent: LanAgent) -> None:
    # As careful as a machine can be.
    for name, value in (("rp_filter", "1"), ("arp_ignore", "2"), ("arp_announce", "2")):
        agent.host(set_network_sysctl, f"ipv4/conf/all/{name}", value)
    with agent.lan(listen_to_all) as frames:
        both_ways_in_both_families(agent)
        seen = senders(frames)
    assert stable_mac("web", "eth0") in seen
    assert shim_mac(agent) not in seen


def shim_mac(agent: LanAgent) -> bytes:
    return stable_mac(str(agent.run / "netns"), shim(agent))


def listen_to_all() -> socket.socket:
    frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    frames.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    frames.bind(("port0", 0))
    frames.setblocking(False)
    return frames


def senders(frames: socket.socket) -> set[bytes]:
    found = set()
    with suppress(BlockingIOError):
        while frame := frames.recv(1 << 16):
            found.add(frame[6:12])
    return found


def both_ways_in_both_families(agent: LanAgent) -> None:
    for own in OWN:
        assert reach(agent.lan, agent.host, own)
    before = macs(agent.lan)
    agent.start()
    agent.write("web", agent.nics_text(FIVE))
    agent.write("db", agent.nics_text(SIX))
    agent.wait_phase("web", "running")
    agent.wait_phase("db", "running")
    assert shims(agent) == {shim(agent)}
    assert both_ways(agent, "web", 5)
    assert both_ways(agent, "db", 6)
    assert agent.host.ip(f"-o addr show dev {shim(agent)}") == "", "it has no address"
    assert shim_mac(agent).hex(":") in agent.host.ip(f"link show {shim(agent)}")
    for address in ("10.0.0.5", "fd00::5"):
        assert reach(agent.lan, agent.pod("web"), address)
        assert reach(agent.pod("db"), agent.pod("web"), address)
    agent.lan.ip("neigh flush all")
    for own in OWN:
        assert reach(agent.lan, agent.host, own)
    assert before <= macs(agent.lan), "the machine has the MAC address that it had"
    # An address changes, a pod goes, and the last pod.
    agent.write("web", agent.nics_text(nic(["10.0.0.7/24", "fd00::7/64"])))
    wait_for(lambda: both_ways(agent, "web", 7), "the new address is reached")
    assert "10.0.0.5" not in agent.host.ip("route")
    (agent.pods / "web.toml").unlink()
    agent.wait_gone("web")
    assert "10.0.0.7" not in agent.host.ip("route")
    assert both_ways(agent, "db", 6)
    (agent.pods / "db.toml").unlink()
    agent.wait_gone("db")
    assert shims(agent) == set()


def test_it_is_made_and_removed_at_a_reload(agent: LanAgent) -> None:
    switch(agent, ON, OFF)
    agent.start()
    agent.write("web", agent.nics_text(FIVE))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    assert shims(agent) == set()
    assert not reach(agent.host, agent.pod("web"), "10.0.0.5")
    for _ in range(2):
        switch(agent, OFF, ON)
        wait_for(lambda: both_ways(agent, "web", 5), "both reach each other")
        assert "waiting for a restart" not in agent.log.read_text()
        switch(agent, ON, OFF)
        wait_for(lambda: not shims(agent), "it is gone")
        assert "PERMANENT" not in agent.pod("web").ip("neigh")
    assert agent.pid("web") == pid


def test_what_is_taken_away_comes_back(agent: LanAgent) -> None:
    agent.start()
    agent.write("web", agent.nics_text(FIVE))
    agent.wait_phase("web", "running")
    assert both_ways(agent, "web", 5)
    name = shim(agent)
    for command in (
        f"link del {name}",
        f"link set {name} down",
        f"link set {name} arp on",
        "route del 10.0.0.5",
        "-6 route del fd00::5",
        f"route replace 10.0.0.5/32 dev {name}",
        f"neigh del 10.0.0.5 dev {name}",
        "addr del fd00::2/64 dev eth0",
    ):
        agent.host.ip(command)
        if "addr" in command:
            agent.host.ip("addr add fd00::2/64 dev eth0 nodad")
        wait_for(lambda: both_ways(agent, "web", 5) and healed(agent, name), f"it is back after {command}")
    agent.pod("web").ip("neigh del 10.0.0.2 dev eth0")
    wait_for(lambda: both_ways(agent, "web", 5), "the pod knows the machine again")
    # The machine gets another address.
    agent.host.ip("addr del 10.0.0.2/24 dev eth0")
    agent.host.ip("addr add 10.0.0.3/24 dev eth0")
    wait_for(lambda: reach(agent.pod("web"), agent.host, "10.0.0.3"), "the pod knows it")
    wait_for(lambda: reach(agent.host, agent.pod("web"), "10.0.0.5"), "it comes from there")


def healed(agent: LanAgent, name: str) -> bool:
    return (
        "NOARP" in agent.host.ip(f"link show {name}")
        and "src 10.0.0.2" in agent.host.ip("route show 10.0.0.5")
        and "src fd00::2" in agent.host.ip("-6 route show fd00::5")
    )


def test_each_lan_has_its_own_and_a_machine_without_an_address_there_none(agent: LanAgent) -> None:
    agent.start()
    agent.write("web", agent.nics_text(FIVE, nic("192.168.5.5/24", name="eth1", parent="eth1")))
    agent.wait_phase("web", "running")
    assert shims(agent) == {shim(agent)}
    agent.host.ip("addr add 192.168.5.2/24 dev eth1")
    wait_for(lambda: shims(agent) == {shim(agent), shim(agent, "eth1")}, "it is made with the address")
    wait_for(lambda: reach(agent.pod("web"), agent.host, "192.168.5.2"), "the pod knows it")
    assert reach(agent.host, agent.pod("web"), "192.168.5.5")
    assert both_ways(agent, "web", 5)


def test_it_moves_with_the_uplink_and_comes_back_with_the_cable(agent: LanAgent) -> None:
    agent.start()
    agent.write("web", agent.nics_text(FIVE))
    agent.wait_phase("web", "running")
    former = shim(agent)
    agent.host.ip("addr add 10.0.0.3/24 dev eth1")
    agent.host.ip("route replace default via 192.168.5.1 dev eth1 onlink")
    wait_for(lambda: shims(agent) == {shim(agent, "eth1")}, "it has moved")
    wait_for(lambda: reach(agent.host, agent.pod("web"), "10.0.0.5"), "it is reached there")
    agent.host.ip("route replace default via 10.0.0.1 dev eth0")
    wait_for(lambda: shims(agent) == {former}, "it has moved back")
    agent.host.ip("link del eth0")
    agent.host.ip("link del eth1")
    for number in (0, 1):
        agent.add_uplink(number)
    for address in (f"{OWN[0]}/24", f"{OWN[1]}/64"):
        agent.host.ip(f"addr add {address} dev eth0")
    agent.host.ip("route add default via 10.0.0.1")
    wait_for(lambda: both_ways(agent, "web", 5), "both reach each other again")
    assert shims(agent) == {shim(agent)} != {former}


def test_a_port_of_a_pod_in_a_bridge_is_reached_from_a_pod_on_the_lan(agent: LanAgent) -> None:
    agent.host(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
    agent.start()
    listen = 'ports = ["8080:80"]\n[[containers]]\nname = "app"\nstop_grace = "300ms"\n'
    serve = "mkdir /www; echo hello >/www/index.html; exec /bin/busybox httpd -f -p 80 -h /www"
    agent.write("inside", f'{listen}rootfs = "{agent.rootfs}"\ncommand = ["/bin/sh", "-c", "{serve}"]\n')
    agent.write("web", agent.nics_text(FIVE))
    agent.wait_phase("web", "running")
    agent.wait_phase("inside", "running")

    def page() -> bool:
        with suppress(OSError), socket.create_connection(("10.0.0.2", 8080), timeout=20) as connection:
            connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
            return b"200 OK" in connection.recv(4096)
        return False

    wait_for(lambda: agent.pod("web")(page), "it answers")
    # And the other way, from the machine's address on that LAN.
    assert reach(agent.pod("inside"), agent.pod("web"), "10.0.0.5")
    agent.host.ip("addr add 192.168.5.2/24 dev eth1")
    agent.write("second", agent.nics_text(nic("192.168.5.5/24", parent="eth1")))
    agent.wait_phase("second", "running")
    assert reach(agent.pod("inside"), agent.pod("second"), "192.168.5.5")


@pytest.mark.parametrize(
    "point", ["network:shim-made", "network:shim-up", "network:shim-routed", "network:shim-told"]
)
def test_killed_while_it_is_made(agent: LanAgent, point: str) -> None:
    agent.write("web", agent.nics_text(FIVE))
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_phase("web", "running")
    wait_for(lambda: both_ways(agent, "web", 5), "both reach each other")
    agent.kill()
    assert both_ways(agent, "web", 5), "without the agent, too"
    # The next agent has it switched off.
    switch(agent, ON, OFF)
    agent.start()
    wait_for(lambda: not shims(agent), "it is gone")
    assert "PERMANENT" not in agent.pod("web").ip("neigh")


def test_killed_while_it_goes(agent: LanAgent) -> None:
    agent.write("web", agent.nics_text(FIVE))
    agent.start()
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.kill()
    (agent.pods / "web.toml").unlink()
    agent.launch(fault="network:link-removed")
    assert agent.died() == -signal.SIGKILL
    agent.launch(fault="network:shim-removed")
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_gone("web")
    assert shims(agent) == set()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_interface_of_somebody_else_stays(agent: LanAgent) -> None:
    name = shim(agent)
    agent.host.ip(f"link add {name} type bridge")
    agent.start()
    agent.write("web", agent.nics_text(FIVE))
    agent.wait_phase("web", "running")
    wait_for(lambda: f"an interface {name} already" in agent.log.read_text(), "it is said")
    assert "bridge" in agent.host.ip(f"-d link show {name}")
    agent.host.ip(f"link del {name}")
    wait_for(lambda: both_ways(agent, "web", 5), "it is made once the name is free")
