"""Published ports: of UDP, of one address, as ranges; whom they keep out, who gets one."""

from __future__ import annotations

import ipaddress
import itertools
import re
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.bridges import bridge_agent, get, nft, reaches, running, set_bridge, web
from tests.support.lan import LanAgent, Network

# After so many seconds, nobody answers.
_NO_ANSWER = 0.2
OWN, LAN = "10.0.0.2", "10.0.0.1"


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[LanAgent]:
    with bridge_agent(tmp_path) as made:
        yield made


@pytest.fixture
def agent(stopped: LanAgent) -> LanAgent:
    stopped.start()
    return stopped


class Asker:
    """A socket of UDP that goes on asking, as a resolver does, from one port."""

    def __init__(self, network: Network, address: str, port: int) -> None:
        self._socket = network(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._to = (address, port)
        self._socket.settimeout(_NO_ANSWER)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self) -> str:
        """Return the answer; empty if there is none."""
        try:
            self._socket.sendto(b"who\n", self._to)
            answer, source = self._socket.recvfrom(100)
        except OSError:
            return ""
        assert source == self._to
        return answer.decode().strip()


class Server:
    """A program in a pod that answers over UDP with the address of who asks, as it sees it."""

    def __init__(self, pod: Network, port: int) -> None:
        self._socket = pod(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.bind(("", port))
        # A packet comes when the kernel's own thread has its turn: maybe when this waits for the next one.
        self._socket.settimeout(2)
        self._numbers = itertools.count()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def asked_by(self, asker: Asker) -> str:
        """Have somebody ask, and return the address that this sees; empty if nothing comes."""
        asked, heard = f"who {next(self._numbers)}".encode(), b""
        asker._socket.sendto(asked, asker._to)
        try:
            while heard != asked:
                heard, source = self._socket.recvfrom(100)
            self._socket.sendto(b"you", source)
            asker._socket.settimeout(2)
            answer, answering = asker._socket.recvfrom(100)
        except TimeoutError:
            return ""
        finally:
            asker._socket.settimeout(_NO_ANSWER)
        assert (answer, answering) == (b"you", asker._to)
        return str(source[0])


def open_ports(agent: LanAgent, name: str) -> list[str]:
    """Return the entries of the table that lead to a pod."""
    # The whole of the rules, since the table may go at any moment.
    table = nft(agent, "list", "ruleset")
    own = [address.partition("/")[0] for address in agent.statuses(name)[0].get("addresses", [])]
    return [
        found for address in own for found in re.findall(rf"[^{{,]+ : {re.escape(address)} \. \d+", table)
    ]


def published(agent: LanAgent, name: str) -> None:
    wait_for(lambda: open_ports(agent, name), f"the ports of {name} are open")


def test_udp_from_everywhere_with_the_source_kept(agent: LanAgent) -> None:
    agent.write("dns", web(agent, 'ports = ["53:5353/udp", "127.0.0.1:54:5353/udp"]\n'))
    agent.write("other", web(agent, 'network = "bridge"\n'))
    agent.write("apart", web(agent, '[network]\nbridges = ["back"]\n'))
    running(agent, "dns", "other", "apart")
    published(agent, "dns")
    own = {name: agent.statuses(name)[0]["addresses"][0].partition("/")[0] for name in ("dns", "other")}
    with Server(agent.pod("dns"), 5353) as server:
        gateway = str(ipaddress.ip_interface(f"{own['dns']}/24").network[1])
        for network, address, seen in (
            (agent.lan, OWN, LAN),
            (agent.host, OWN, OWN),
            (agent.host, "127.0.0.1", gateway),
            (agent.pod("other"), OWN, gateway),
            (agent.pod("dns"), OWN, gateway),
        ):
            with Asker(network, address, 53) as asker:
                assert wait_for(lambda a=asker: server.asked_by(a), "it arrives") == seen, address
        with Asker(agent.pod("apart"), OWN, 53) as asker:
            seen = wait_for(lambda: server.asked_by(asker), "a pod of another bridge is heard")
            assert seen.startswith("10.89.")
        with Asker(agent.pod("other"), own["dns"], 5353) as asker:
            seen = wait_for(lambda: server.asked_by(asker), "one of its bridge is heard")
            assert seen == own["other"], "in the bridge, each is itself"
        with Asker(agent.host, "127.0.0.1", 54) as asker:
            assert wait_for(lambda: server.asked_by(asker), "the machine itself is heard") == gateway
        with Asker(agent.lan, OWN, 54) as asker:
            assert not server.asked_by(asker)


def test_a_flow_that_is_older_than_its_port_does_not_stay_stuck(agent: LanAgent) -> None:
    agent.write("first", web(agent))
    # With rules, the machine remembers flows.
    agent.write("other", web(agent, 'ports = ["8080:80"]\n'))
    wait_for(lambda: reaches(agent.lan, OWN, 8080), "it answers")
    with Asker(agent.lan, OWN, 53) as asker, Asker(agent.host, "127.0.0.1", 53) as local:
        assert (asker.ask(), local.ask()) == ("", "")
        first = agent.write("first", web(agent, 'ports = ["53:5353/udp"]\n'))
        running(agent, "first")
        published(agent, "first")
        with Server(agent.pod("first"), 5353) as server:
            assert wait_for(lambda: server.asked_by(asker), "it arrives") == LAN
            assert wait_for(lambda: server.asked_by(local), "it arrives from here, too")
        first.unlink()
        agent.write("second", web(agent, 'ports = ["53:53/udp"]\n'))
        agent.wait_gone("first")
        wait_for(lambda: agent.status("second"), "it is there")
        running(agent, "second")
        published(agent, "second")
        with Server(agent.pod("second"), 53) as server:
            assert wait_for(lambda: server.asked_by(asker), "it arrives at the other pod") == LAN
        agent.write("second", web(agent, 'network = "bridge"\n'))
        wait_for(lambda: not open_ports(agent, "second"), "it is withdrawn")
        with agent.host(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as own:
            own.bind((OWN, 53))
            own.settimeout(0.1)

            def arrives() -> str:
                asker.ask()
                try:
                    return str(own.recvfrom(100)[1][0])
                except TimeoutError:
                    return ""

            # The status shows it a moment before the kernel has forgotten the flow.
            assert wait_for(arrives, "it arrives at the machine's own program") == LAN


def test_a_flow_of_others_stays(agent: LanAgent) -> None:
    """Other ports and other protocols are not ours, nor are flows that only pass."""
    agent.write("web", web(agent, 'ports = ["8080:80", "53:5353/udp"]\n'))
    running(agent, "web")
    published(agent, "web")
    with (
        agent.host(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as own,
        Asker(agent.lan, OWN, 99) as asker,
        socket_to(agent.lan, OWN, 8080) as connected,
    ):
        own.bind((OWN, 99))
        asker.ask()
        client = own.recvfrom(100)[1]
        agent.write("web", web(agent, 'ports = ["8080:80", "54:5353/udp"]\n'))
        wait_for(lambda: "udp . 54 :" in str(open_ports(agent, "web")), "it is published")
        own.sendto(b"hello", client)
        asker._socket.settimeout(20)
        assert asker._socket.recv(100) == b"hello"
        connected.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        assert b"200 OK" in connected.recv(100)


def socket_to(network: Network, address: str, port: int) -> socket.socket:
    return network(lambda: socket.create_connection((address, port), timeout=60))


def test_ranges_and_addresses(agent: LanAgent) -> None:
    agent.host.ip("addr add 10.0.0.3/24 dev eth0")
    text = 'ports = ["10.0.0.3:8080:80", "9000-9002:80-82", "127.0.0.1:7000-7001:80-81"]\n'
    agent.write("web", web(agent, text))
    running(agent, "web")
    published(agent, "web")
    with agent.pod("web")(lambda: socket.create_server(("", 82))) as last:
        wait_for(lambda: reaches(agent.lan, OWN, 9000), "the first of a range")
        assert reaches(agent.lan, "10.0.0.3", 9000), "without an address, it is at each"
        assert reaches(agent.lan, "10.0.0.3", 8080)
        assert not reaches(agent.lan, OWN, 8080), "another of the machine's addresses"
        assert not reaches(agent.host, "127.0.0.1", 8080)
        assert reaches(agent.host, "127.0.0.1", 7000)
        assert not reaches(agent.lan, OWN, 7000)
        with socket_to(agent.lan, OWN, 9002):
            last.settimeout(60)
            accepted, client = last.accept()
            accepted.close()
            assert client[0] == LAN
        with pytest.raises(OSError):
            socket_to(agent.lan, OWN, 9003)
    agent.write("other", web(agent, 'ports = ["10.0.0.2:8080:80"]\n'))
    wait_for(lambda: reaches(agent.lan, OWN, 8080), "two pods have one port at two addresses")
    assert (agent.lan(get, OWN, 8080), agent.lan(get, "10.0.0.3", 8080)) == ("other", "web")


def test_publish_keeps_what_names_no_address_to_this_machine(stopped: LanAgent) -> None:
    agent = stopped
    set_bridge(agent, publish="127.0.0.1")
    agent.start()
    agent.write("web", web(agent, 'ports = ["8080:80", "0.0.0.0:8081:80"]\n'))
    running(agent, "web")
    wait_for(lambda: reaches(agent.host, "127.0.0.1", 8080), "it answers")
    assert not reaches(agent.lan, OWN, 8080)
    assert not reaches(agent.host, OWN, 8080)
    assert reaches(agent.lan, OWN, 8081)
    assert agent.stop() == 0
    set_bridge(agent, publish="0.0.0.0")
    agent.start()
    wait_for(lambda: reaches(agent.lan, OWN, 8080), "another setting moves it")


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _forged(source: str, to: str, port: int) -> bytes:
    """Return an IPv4 packet of UDP with these addresses."""
    payload = b"forged"
    ends = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(to).packed
    udp = struct.pack(">HHHH", 4444, port, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0) + ends
    return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + udp


def _send_frame(interface: str, to: bytes, packet: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0x0800))
        raw.send(to + bytes.fromhex("020000000001") + b"\x08\x00" + packet)


def _mac(interface: str) -> bytes:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        return bytes(raw.getsockname()[4])


def test_a_forged_packet_does_not_reach_127_0_0_1(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'ports = ["127.0.0.1:53:5353/udp", "54:5353/udp"]\n'))
    agent.write("other", web(agent, 'network = "bridge"\n'))
    running(agent, "web", "other")
    published(agent, "web")
    # As some do, for ports of 127.0.0.1 by other means.
    agent.host(lambda: Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("1"))
    mac = {name: agent.host(_mac, name) for name in ("eth0", "tank-default")}
    with (
        agent.pod("web")(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as published_to,
        agent.host(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as own,
        agent.host(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asker,
    ):
        published_to.bind(("", 5353))
        own.bind(("127.0.0.1", 77))
        published_to.settimeout(60)
        own.setblocking(False)
        for network, interface, to, source in (
            (agent.lan, "br0", mac["eth0"], LAN),
            (agent.lan, "br0", mac["eth0"], "127.0.0.1"),
            (agent.pod("other"), "eth0", mac["tank-default"], "10.89.0.3"),
            (agent.pod("other"), "eth0", mac["tank-default"], "127.0.0.1"),
            (agent.pod("web"), "eth0", mac["tank-default"], "10.89.0.2"),
        ):
            network(_send_frame, interface, to, _forged(source, "127.0.0.1", 53))
            network(_send_frame, interface, to, _forged(source, "127.0.0.1", 77))
            if source == "127.0.0.1":
                network(_send_frame, interface, to, _forged(source, OWN, 54))
            # Frames keep their order: when this one has come, the forged ones would have.
            target = OWN if network is agent.lan else "10.89.0.1"
            with Asker(network, target, 54) as honest:
                honest._socket.sendto(b"honest", honest._to)
                assert published_to.recv(100) == b"honest", (interface, source)
        with pytest.raises(BlockingIOError):
            own.recv(100)
        asker.sendto(b"own", ("127.0.0.1", 53))
        assert published_to.recv(100) == b"own", "from the machine itself it is open"
    assert "127.0.0.0/8 drop" in nft(agent, "list", "table", "inet", "tank")


def error(agent: LanAgent, name: str) -> Callable[[], str]:
    return lambda: str((agent.status(name) or {}).get("error") or "")


def test_of_two_pods_that_want_a_port_one_has_it_and_keeps_it(stopped: LanAgent) -> None:
    agent = stopped
    files = [agent.write(name, web(agent, 'ports = ["8080:80"]\n')) for name in ("one", "two")]
    agent.start()
    wait_for(lambda: reaches(agent.host, "127.0.0.1", 8080), "one of them answers")
    winner = agent.host(get, "127.0.0.1", 8080)
    loser = "two" if winner == "one" else "one"
    wait_for(lambda: f"pod {winner} publishes it" in error(agent, loser)(), "it is said")
    pid = agent.pid(winner)
    for end in (agent.kill, lambda: agent.stop() and None):
        end()
        agent.start()
        wait_for(lambda: f"pod {winner} publishes it" in error(agent, loser)(), "it is said again")
        assert agent.host(get, "127.0.0.1", 8080) == winner
        assert agent.pid(winner) == pid
    # Its restart gives the port to nobody else, and neither does a change of its containers.
    agent.write(winner, web(agent, 'ports = ["8080:80"]\n', more="echo changed;"))
    wait_for(lambda: "changed" in agent.output(winner), "it starts anew")
    wait_for(lambda: reaches(agent.host, "127.0.0.1", 8080), "it answers")
    assert agent.host(get, "127.0.0.1", 8080) == winner
    # Stopped with the agent, as for a reboot, it is the first again.
    assert agent.stop() == 0
    agent.start("--stop-pods")
    assert agent.stop() == 0
    agent.start()
    wait_for(lambda: f"pod {winner} publishes it" in error(agent, loser)(), "it is said after all stopped")
    wait_for(lambda: reaches(agent.host, "127.0.0.1", 8080), "it answers")
    assert agent.host(get, "127.0.0.1", 8080) == winner
    next(file for file in files if file.stem == winner).unlink()
    wait_for(lambda: agent.status(winner) is None and reaches(agent.host, "127.0.0.1", 8080), "freed")
    assert agent.host(get, "127.0.0.1", 8080) == loser


def test_a_pod_that_has_ended_gives_its_port_up(agent: LanAgent) -> None:
    head = 'restart = "never"\nports = ["8080:80"]\n'
    agent.write("job", agent.pod_text(head=head, command=["/bin/true"]))
    agent.wait_phase("job", "completed")
    agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
    wait_for(lambda: reaches(agent.host, "127.0.0.1", 8080), "another pod has it")


def test_a_pod_that_comes_from_the_host_network_gets_the_port_that_it_had_there(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'network = "host"\n').replace("-p 80", "-p 8080"))
    running(agent, "web")
    wait_for(lambda: reaches(agent.lan, OWN, 8080), "it answers")
    agent.write("other", web(agent, 'ports = ["8080:80"]\n'))
    wait_for(lambda: "is taken: " in error(agent, "other")(), "it is said")
    (agent.pods / "other.toml").unlink()
    agent.wait_gone("other")
    agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
    wait_for(lambda: open_ports(agent, "web"), "it is published")
    wait_for(lambda: reaches(agent.lan, OWN, 8080), "it answers")
    agent.write("web", web(agent, 'network = "host"\n').replace("-p 80", "-p 8080"))
    wait_for(lambda: not open_ports(agent, "web"), "it is withdrawn")
    wait_for(lambda: reaches(agent.lan, OWN, 8080), "it answers in the machine's network again")
    wait_for(lambda: agent.host.links() <= {"lo", "eth0", "eth1"}, "its bridge is gone")


def test_an_address_that_this_machine_does_not_have_is_said_until_it_has_it(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'ports = ["10.0.0.77:8080:80"]\n'))
    agent.wait_phase("web", "running")

    def warned() -> bool:
        return any(
            "does not have the address 10.0.0.77" in text for text in agent.statuses("web")[0]["warnings"]
        )

    wait_for(warned, "it is said")
    agent.host.ip("addr add 10.0.0.77/24 dev eth0")
    wait_for(lambda: not warned(), "it is no longer said")
    assert reaches(agent.lan, "10.0.0.77", 8080)
