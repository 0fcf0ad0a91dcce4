"""Ports of this machine: who has which, and the programs that listen at one."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tank_agent.errors import Retry
from tank_agent.network import listeners
from tank_agent.network import ports as module
from tank_agent.network.listeners import Socket, listening
from tank_agent.network.ports import Claims
from tank_agent.spec.model import Port

EVERYWHERE, LOCAL, OWN = "0.0.0.0", "127.0.0.1", "10.0.0.2"


def port(host: int, address: str | None = EVERYWHERE, *, udp: bool = False, count: int = 1) -> Port:
    return Port(host=host, pod=80, address=address, protocol="udp" if udp else "tcp", count=count)


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[Socket]:
    found: list[Socket] = []
    monkeypatch.setattr(module, "listening", lambda: iter(found))
    monkeypatch.setattr(module, "holder", lambda socket: f"program {socket.inode}")
    return found


def at(address: str, number: int, protocol: str = "tcp") -> Socket:
    return Socket(protocol=protocol, address=ipaddress.ip_address(address), port=number, inode=7)


@pytest.mark.parametrize(
    ("other", "collides"),
    [
        (port(8080), True),
        (port(8080, LOCAL), True),
        (port(8080, "::"), True),
        (port(8079, count=2), True),
        (port(8079), False),
        (port(8081, count=9), False),
        (port(8080, udp=True), False),
    ],
    ids=str,
)
def test_two_pods_do_not_get_one_port(sockets: list[Socket], other: Port, *, collides: bool) -> None:
    claims = Claims({})
    claims.take("web", (port(8080),))
    if collides:
        with pytest.raises(Retry, match="pod web publishes it"):
            claims.take("other", (port(1), other))
        assert claims.of("other") == ()
        claims.drop("web")
    claims.take("other", (port(1), other))
    assert claims.of("other") == (port(1), other)


def test_two_addresses_have_a_port_each(sockets: list[Socket]) -> None:
    claims = Claims({})
    claims.take("web", (port(8080, LOCAL),))
    claims.take("other", (port(8080, OWN),))
    with pytest.raises(Retry, match="pod web publishes it"):
        claims.take("third", (port(8080),))


def test_two_pods_swap_their_ports(sockets: list[Socket]) -> None:
    claims = Claims({"web": (port(8080), port(9000)), "db": (port(8081),)})
    with pytest.raises(Retry, match="pod db publishes it"):
        claims.take("web", (port(8081), port(9000)))
    assert claims.of("web") == (port(8080), port(9000)), "until somebody asks for it"
    with pytest.raises(Retry, match="pod web publishes it"):
        claims.take("third", (port(9000),))
    claims.take("db", (port(8080),))
    assert claims.published() == {}
    assert claims.of("web") == (port(9000),)
    claims.take("web", (port(8081), port(9000)))
    with pytest.raises(Retry, match="pod db publishes it"):
        claims.take("third", (port(8080),))


def test_a_pod_that_wants_its_ports_again_keeps_them(sockets: list[Socket]) -> None:
    claims = Claims({"web": (port(8080),), "db": (port(8081),)})
    with pytest.raises(Retry, match="pod db publishes it"):
        claims.take("web", (port(8081),))
    claims.stay("web")
    with pytest.raises(Retry, match="pod web publishes it"):
        claims.take("third", (port(8080),))


def test_a_change_that_fails_leaves_what_was(sockets: list[Socket]) -> None:
    claims = Claims({})
    claims.take("web", (port(8080),))
    claims.take("db", (port(5432),))
    with pytest.raises(Retry):
        claims.take("db", (port(5433), port(8080)))
    assert claims.of("db") == (port(5432),)
    claims.take("third", (port(5433),))
    claims.take("web", ())
    claims.take("db", (port(8080),))
    claims.take("fourth", (port(5432),))


def test_open_and_shut(sockets: list[Socket]) -> None:
    claims = Claims({})
    claims.take("web", (port(8080),))
    assert (claims.open_of("web"), claims.published()) == ((), {})
    assert not claims.shut("web")
    claims.open("web")
    claims.open("without")
    assert claims.published() == {"web": (port(8080),)}
    assert claims.shut("web")
    assert not claims.shut("without")
    with pytest.raises(Retry, match="pod web publishes it"):
        claims.take("other", (port(8080),))
    claims.open("web")
    assert claims.drop("web")
    assert not claims.drop("web")
    claims.take("web", (port(8080),))
    assert claims.published() == {}, "it is not open before it has a network"


def test_the_first_in_the_journal_has_a_port() -> None:
    known = {"runs": (port(8080),), "other": (port(8080), port(9090)), "third": (port(9090),), "none": ()}
    claims = Claims(known)
    assert {name: claims.of(name) for name in known} == {**known, "other": ()}


@pytest.mark.parametrize(
    ("found", "asked", "taken"),
    [
        (at(EVERYWHERE, 8080), port(8080), True),
        (at("::", 8080), port(8080), True),
        (at(LOCAL, 8080), port(8080), True),
        (at(OWN, 8080), port(8080), True),
        (at(EVERYWHERE, 8080), port(8080, LOCAL), True),
        (at("::", 8080), port(8080, LOCAL), True),
        (at(LOCAL, 8080), port(8080, LOCAL), True),
        (at(LOCAL, 8080), port(8080, OWN), False),
        (at("::1", 8080), port(8080, "::1"), True),
        (at("::1", 8080), port(8080, LOCAL), False),
        (at(EVERYWHERE, 8085), port(8080, count=6), True),
        (at(EVERYWHERE, 8086), port(8080, count=6), False),
        (at(EVERYWHERE, 8080, "udp"), port(8080), False),
        (at("127.0.0.53", 53, "udp"), port(53, udp=True), True),
        (at("127.0.0.53", 53, "udp"), port(53, OWN, udp=True), False),
    ],
    ids=str,
)
def test_a_port_where_a_program_listens_is_refused(
    sockets: list[Socket], found: Socket, asked: Port, *, taken: bool
) -> None:
    sockets.append(found)
    claims = Claims({})
    if taken:
        with pytest.raises(Retry, match=f"is taken: program 7 listens at {found.port}"):
            claims.take("web", (asked,))
        assert claims.of("web") == ()
        sockets.clear()
    claims.take("web", (asked,))
    # Only new ports are looked at: its own may be in use by whoever came later.
    sockets.append(found)
    claims.take("web", (asked, port(1)))


def test_of_many_that_ask_at_once_one_gets_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    claims, barrier = Claims({}), threading.Barrier(8)

    def slow() -> Iterator[Socket]:
        # All of them look at the same time, with no lock held.
        barrier.wait(5)
        return iter(())

    monkeypatch.setattr(module, "listening", slow)
    got: list[str] = []

    def ask(pod: str) -> None:
        try:
            claims.take(pod, (port(8080), port(int(pod) + 1)))
            got.append(pod)
        except Retry:
            barrier.wait(5)

    threads = [threading.Thread(target=ask, args=(str(number),), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 1
    assert claims.of(got[0])[0] == port(8080)


Opened = Callable[[], socket.socket]
REAL: dict[str, tuple[str, int, int, str, str]] = {
    "tcp of IPv4": ("127.0.0.1", socket.AF_INET, socket.SOCK_STREAM, "tcp", "127.0.0.1"),
    "tcp everywhere": ("0.0.0.0", socket.AF_INET, socket.SOCK_STREAM, "tcp", "0.0.0.0"),
    "tcp of IPv6": ("::1", socket.AF_INET6, socket.SOCK_STREAM, "tcp", "::1"),
    "tcp of both": ("::", socket.AF_INET6, socket.SOCK_STREAM, "tcp", "::"),
    "tcp of IPv4 in IPv6": ("::ffff:127.0.0.1", socket.AF_INET6, socket.SOCK_STREAM, "tcp", "127.0.0.1"),
    "udp of IPv4": ("127.0.0.1", socket.AF_INET, socket.SOCK_DGRAM, "udp", "127.0.0.1"),
    "udp of IPv6": ("::1", socket.AF_INET6, socket.SOCK_DGRAM, "udp", "::1"),
}


@pytest.mark.parametrize("kind", REAL)
def test_real_sockets_are_found_and_their_program_is_named(kind: str) -> None:
    bound, family, type_, protocol, shown = REAL[kind]
    with socket.socket(family, type_) as opened:
        opened.bind((bound, 0))
        number = opened.getsockname()[1]
        if type_ == socket.SOCK_STREAM:
            assert not any(found.port == number for found in listening()), "it does not listen yet"
            opened.listen()
        found = next(found for found in listening() if (found.port, found.protocol) == (number, protocol))
        assert found.address == ipaddress.ip_address(shown)
        assert found.inode == os.fstat(opened.fileno()).st_ino
        name = Path("/proc/self/comm").read_text().strip()
        address = EVERYWHERE if ":" not in shown else "::"
        with pytest.raises(Retry, match=rf"{name} \(process {os.getpid()}\) listens at {number}"):
            Claims({}).take("web", (port(number, address, udp=protocol == "udp"),))
    Claims({}).take("web", (port(number, EVERYWHERE, udp=protocol == "udp"),))


def test_a_connection_is_no_program_that_waits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client, server.accept()[0]:
            assert not any(found.port == client.getsockname()[1] for found in listening())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.connect(("127.0.0.1", 9))
            number = asker.getsockname()[1]
            assert not any((found.port, found.protocol) == (number, "udp") for found in listening())


def test_what_waits_is_the_same_by_either_way() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)),
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True),
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("::1", 0))
        mine = {
            Path(entry).readlink().name for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()
        }
        own = [
            sorted(str(found) for found in way() if f"socket:[{found.inode}]" in mine)
            for way in (listeners._by_netlink, listeners._by_proc)
        ]
    assert own[0] == own[1]
    assert len(own[0]) == 3
