"""Pods in bridges under attack: from the LAN, by pods that may send any frame, and by clumsy edits."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.bridges import bridge_agent, get, nft, running, web
from tests.support.lan import LanAgent, Network

_IPV4, _IPV6 = 0x0800, 0x86DD
OWN, ROUTER, LAN = "10.0.0.2", "fe80::1234", "10.0.0.1"
BACK = '[network]\nbridges = ["back"]\n'


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with bridge_agent(tmp_path) as made:
        made.start()
        yield made


def up(agent: LanAgent, **heads: str) -> None:
    """Start pods with these first lines, and wait until they answer."""
    for name, head in heads.items():
        agent.write(name, web(agent, head))
    running(agent, *heads)


def address(agent: LanAgent, pod: str) -> str:
    return str(agent.statuses(pod)[0]["addresses"][0]).partition("/")[0]


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def datagram(source: str, to: str, port: int) -> bytes:
    """Return an IPv4 packet of UDP that holds its source as text."""
    text = source.encode()
    payload = struct.pack("!HHHH", 4000, port, 8 + len(text), 0) + text
    ends = socket.inet_aton(source) + socket.inet_aton(to)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, socket.IPPROTO_UDP, 0) + ends
    return head[:10] + checksum(head) + head[12:] + payload


def advertisement(router: str) -> bytes:
    """Return an IPv6 packet by which a router offers itself to all (RFC 4861, section 4.2)."""
    ends = socket.inet_pton(socket.AF_INET6, router) + socket.inet_pton(socket.AF_INET6, "ff02::1")
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    pseudo = ends + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    message = message[:2] + checksum(pseudo + message) + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, 255) + ends + message


def mac(network: Network, interface: str) -> bytes:
    return bytes.fromhex(network.ip(f"-br link show {interface}").split()[2].replace(":", ""))


def send(network: Network, interface: str, to: bytes, packet: bytes, kind: int = _IPV4) -> None:
    def put() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((interface, 0))
            raw.send(to + bytes(raw.getsockname()[4]) + struct.pack("!H", kind) + packet)

    network(put)


def waiting(network: Network, port: int) -> socket.socket:
    made = network(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.bind(("", port))
    made.settimeout(60)
    return made


def test_nobody_else_sends_with_a_pods_address(agent: LanAgent) -> None:
    up(agent, web='ports = ["53:53/udp"]\n', other='network = "bridge"\n', apart=BACK)
    web_, other, apart = (address(agent, name) for name in ("web", "other", "apart"))
    uplink, default, back = (mac(agent.host, name) for name in ("eth0", "tank-default", "tank-back"))

    with waiting(agent.host, 7000) as own, waiting(agent.pod("web"), 53) as published:
        for network, interface, to, forged, honest in (
            (agent.lan, "br0", uplink, [web_, other, apart], LAN),
            (agent.pod("apart"), "eth0", back, [web_, other], apart),
            (agent.pod("other"), "eth0", default, [apart], other),
        ):
            # Frames keep their order: when the honest one has come, the forged ones would have.
            for source in (*forged, honest):
                send(network, interface, to, datagram(source, OWN, 7000))
                send(network, interface, to, datagram(source, OWN, 53))
            assert own.recv(100) == honest.encode()
            assert published.recv(100) == honest.encode()


def test_a_flow_that_began_without_rules_does_not_go_on(agent: LanAgent) -> None:
    up(agent, web='ports = ["8080:80"]\n')
    own = address(agent, "web")
    # Another program's rules keep the kernel's memory of flows.
    nft(agent, "add table ip other; add chain ip other c { type filter hook forward priority 0; }")
    nft(agent, "add rule ip other c ct state invalid drop")
    agent.lan.ip(f"route add {own}/32 via {OWN}")
    with waiting(agent.pod("web"), 5353) as pod, waiting(agent.lan, 4000) as neighbour:
        numbers = itertools.count()

        def is_answered() -> bool:
            # An earlier one may come late, when the kernel's own thread has its turn.
            hello, heard = f"hello {next(numbers)}".encode(), b""
            pod.settimeout(0.5)
            neighbour.sendto(hello, (own, 5353))
            try:
                while heard != hello:
                    heard, source = pod.recvfrom(100)
            except TimeoutError:
                return False
            pod.sendto(b"you, too", source)
            return True

        assert not is_answered()

        def began() -> bool:
            nft(agent, "delete table inet tank")
            return is_answered()

        wait_for(began, "without rules, anybody is let in")
        neighbour.settimeout(60)
        assert neighbour.recv(100) == b"you, too"
        wait_for(lambda: "inet tank" in nft(agent, "list", "tables"), "the rules are back")
        assert not is_answered()


def test_a_pod_does_not_become_the_machines_router(agent: LanAgent) -> None:
    agent.host(lambda: Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("0"))
    up(agent, web='network = "bridge"\n')
    setting = Path("/proc/sys/net/ipv6/conf/tank-default/accept_ra")
    everybody = bytes.fromhex("333300000001")

    def router() -> str:
        send(agent.pod("web"), "eth0", everybody, advertisement(ROUTER), _IPV6)
        return agent.host.ip("-6 route show default")

    assert [router() for _ in range(20)] == [""] * 20
    agent.host(setting.write_text, "1")
    wait_for(lambda: agent.host(setting.read_text) == "0\n", "it is set again")
    agent.host.ip("-6 route flush default", check=False)
    assert [router() for _ in range(20)] == [""] * 20


def test_pods_swap_their_ports_while_they_run(agent: LanAgent) -> None:
    up(agent, a='ports = ["8080:80"]\n', b='ports = ["8081:80"]\n', c='ports = ["8082:80"]\n')
    pids = [agent.pid(name) for name in "abc"]

    def answers() -> str:
        try:
            return "".join(agent.lan(get, OWN, port) for port in (8080, 8081, 8082))
        except OSError:
            return ""

    # Two swap, then all three go round.
    for wanted in ("bac", "acb"):
        for name in "abc":
            agent.write(name, web(agent, f'ports = ["{8080 + wanted.index(name)}:80"]\n'))
        wait_for(lambda: answers() == wanted, f"{wanted} answer")  # noqa: B023
    assert [agent.pid(name) for name in "abc"] == pids
    wait_for(lambda: not any(agent.statuses(name)[0]["error"] for name in "abc"), "nobody waits for a port")
