"""The sockets of programs on this machine that wait for whoever comes (sock_diag(7))."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tank_agent.network import rtnetlink
from tank_agent.network.addresses import Address

_PROC = Path("/proc")
# linux/netlink.h, linux/sock_diag.h
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
# net/tcp_states.h: a socket that listens; one of UDP that has no peer is in TCP_CLOSE.
TCP_LISTEN, TCP_CLOSE = 0x0A, 0x07

# linux/inet_diag.h: inet_diag_req_v2 with an inet_diag_sockid of zeros, and inet_diag_msg.
_REQUEST = struct.Struct("=BBBxI48x")
_ANSWER = struct.Struct("=BBxx2s2x16s16x4x8x4x4x4x4xI")


class Socket(NamedTuple):
    """A socket of a program on this machine that waits at an address and a port; `inode` names it."""

    protocol: str
    address: Address
    port: int
    inode: int


def listening() -> Iterator[Socket]:
    """Yield the sockets that wait in this network namespace for whoever comes."""
    try:
        found = list(_by_netlink())
    except OSError:
        # A kernel without sock_diag, or without that of UDP.
        found = list(_by_proc())
    yield from found


def _by_netlink() -> Iterator[Socket]:
    with rtnetlink.open_socket(NETLINK_SOCK_DIAG) as netlink:
        for protocol, number, state in (
            ("tcp", socket.IPPROTO_TCP, TCP_LISTEN),
            ("udp", socket.IPPROTO_UDP, TCP_CLOSE),
        ):
            for family in (socket.AF_INET, socket.AF_INET6):
                request = _REQUEST.pack(family, number, 0, 1 << state)
                for body in rtnetlink.dump(netlink, SOCK_DIAG_BY_FAMILY, request):
                    version, _, port, packed, inode = _ANSWER.unpack_from(body)
                    address = ipaddress.ip_address(packed[: 4 if version == socket.AF_INET else 16])
                    yield Socket(protocol, _unmapped(address), int.from_bytes(port, "big"), inode)


def _by_proc() -> Iterator[Socket]:
    """Yield them as proc(5) has them: a millisecond for each table of TCP, however few there are."""
    for protocol, state in (("tcp", TCP_LISTEN), ("udp", TCP_CLOSE)):
        for suffix in ("", "6"):
            try:
                lines = (_PROC / "thread-self" / "net" / f"{protocol}{suffix}").read_text().splitlines()[1:]
            except FileNotFoundError:
                continue
            for line in lines:
                words = line.split()
                if int(words[3], 16) == state:
                    address, port = words[1].split(":")
                    yield Socket(
                        protocol=protocol, address=_address(address), port=int(port, 16), inode=int(words[9])
                    )


def _address(text: str) -> Address:
    # 32-bit words in the machine's order.
    packed = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return _unmapped(ipaddress.ip_address(packed))


def _unmapped(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def holder(socket: Socket) -> str:
    """Return the program that has a socket, as "nginx (process 123)"."""
    wanted = f"socket:[{socket.inode}]"
    for process in _PROC.iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(str(entry.readlink()) == wanted for entry in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text(errors='replace').strip()} (process {process.name})"
        except OSError:
            # It ended meanwhile.
            continue
    return "a program"
