"""Read the links, addresses, routes and neighbours of a network namespace (rtnetlink(7)).

pyroute2 makes our changes; this reads, because a resync reads every pod: three dumps and the few attributes
that we compare take a tenth of a millisecond or two, where a general decoder takes some twenty times that.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator

from msgspec import Struct

from tank_agent.errors import Retry
from tank_agent.linux.namespaces import IFF_UP

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x10, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETNEIGH = 18, 22, 26, 30
IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 5, 10, 18
IFLA_GROUP, IFLA_EXT_MASK = 27, 29
IFLA_INFO_KIND = 1
RTEXT_FILTER_SKIP_STATS = 8
IFF_RUNNING = 0x40
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 4, 5, 6, 7
NDA_DST, NDA_LLADDR, NDA_IFINDEX, NUD_PERMANENT = 1, 2, 8, 0x80
RT_TABLE_MAIN, RT_TABLE_LOCAL, RTN_UNICAST = 254, 255, 1

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_LOOPBACK6 = ipaddress.IPv6Address("::1").packed
_REPLY_SECONDS = 2.0
_ATTEMPTS = 5


class Link(Struct, frozen=True, kw_only=True):
    """A network interface.

    `parent` is the index of the interface it lies on, or of its peer, in that one's own namespace; `master`
    that of the bridge it is a port of. Both are 0 for none.
    """

    index: int
    name: str
    flags: int
    kind: str
    mac: bytes
    group: int
    parent: int
    master: int = 0

    @property
    def up(self) -> bool:
        """Return whether it is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def running(self) -> bool:
        """Return whether it passes packets on: it is up, and the kernel has seen that its cable is in."""
        return bool(self.flags & IFF_RUNNING)


class Address(Struct, frozen=True, kw_only=True):
    """An IP address of a link, in network order; it prints with its prefix length."""

    index: int
    packed: bytes
    prefix: int

    def __str__(self) -> str:
        return f"{text(self.packed)}/{self.prefix}"


class DefaultRoute(Struct, frozen=True, kw_only=True):
    """A unicast default route of the main table; `gateway` is empty for a route straight to the link."""

    index: int
    family: int
    gateway: bytes
    metric: int


class HostRoute(Struct, frozen=True):
    """A unicast route of the main table to one address; `source` is empty if it names none."""

    packed: bytes
    source: bytes


class Neighbour(Struct, frozen=True):
    """The MAC address of an IP address on a link, as somebody set it; nothing that was learned."""

    index: int
    packed: bytes
    mac: bytes


class NamespaceState(Struct, frozen=True, kw_only=True):
    """The links, addresses and default routes in a network namespace."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[DefaultRoute, ...] = ()


def open_socket(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """Open a netlink socket, which for its life reads the namespace that the calling thread is in now."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    opened.settimeout(_REPLY_SECONDS)
    return opened


def read(netlink: socket.socket, *, links_only: bool = False) -> NamespaceState:
    """Return all links, addresses and default routes, or only the links.

    Retry if they change too fast to be read whole, or the kernel does not answer.
    """
    links = read_links(netlink)
    if links_only:
        return NamespaceState(links=links)
    routes = map(_default_route, dump(netlink, RTM_GETROUTE, bytes(_ROUTE.size)))
    return NamespaceState(
        links=links,
        addresses=read_addresses(netlink),
        routes=tuple(route for route in routes if route is not None),
    )


def read_links(netlink: socket.socket) -> tuple[Link, ...]:
    """Return all links; errors as in `read`."""
    mask = _ATTRIBUTE.pack(8, IFLA_EXT_MASK) + struct.pack("=I", RTEXT_FILTER_SKIP_STATS)
    return tuple(map(_link, dump(netlink, RTM_GETLINK, bytes(_LINK.size) + mask)))


def read_link(netlink: socket.socket, name: str) -> Link | None:
    """Return the link of a name, None if there is none; errors as in `read`.

    Where a machine has one for every pod, to read them all for each pod takes seconds.
    """
    named = name.encode() + b"\0"
    body = bytes(_LINK.size) + _ATTRIBUTE.pack(8, IFLA_EXT_MASK) + struct.pack("=I", RTEXT_FILTER_SKIP_STATS)
    body += _ATTRIBUTE.pack(4 + len(named), IFLA_IFNAME) + named + bytes(-len(named) % 4)
    netlink.send(_HEADER.pack(_HEADER.size + len(body), RTM_GETLINK, NLM_F_REQUEST, 1, 0) + body)
    data = _receive(netlink)
    size, answer, _, _, _ = _HEADER.unpack_from(data)
    if answer != NLMSG_ERROR:
        return _link(data[_HEADER.size : size])
    (code,) = struct.unpack_from("=i", data, _HEADER.size)
    if code != -errno.ENODEV:
        raise OSError(-code, f"netlink request {RTM_GETLINK} failed")
    return None


def read_addresses(netlink: socket.socket) -> tuple[Address, ...]:
    """Return all addresses, IPv4 and IPv6; errors as in `read`."""
    return tuple(map(_address, dump(netlink, RTM_GETADDR, bytes(_ADDRESS.size))))


def own_addresses() -> dict[bytes, int]:
    """Return the addresses of the calling thread's namespace, and the index of each one's interface.

    Errors as in `read`.
    """
    with open_socket() as netlink:
        return {address.packed: address.index for address in read_addresses(netlink)}


def read_networks(netlink: socket.socket) -> tuple[tuple[str, int], ...]:
    """Return the networks that the main table's routes lead to, and the index of each one's interface.

    Errors as in `read`.
    """
    return tuple(filter(None, map(_network, dump(netlink, RTM_GETROUTE, bytes(_ROUTE.size)))))


def read_host_routes(netlink: socket.socket, index: int) -> tuple[HostRoute, ...]:
    """Return the routes to single addresses through a link; errors as in `read`."""
    routes = (_host_route(body, index) for body in dump(netlink, RTM_GETROUTE, bytes(_ROUTE.size)))
    return tuple(route for route in routes if route is not None)


def read_neighbours(netlink: socket.socket, index: int = 0) -> tuple[Neighbour, ...]:
    """Return the neighbours that were set on a link, or on all links; errors as in `read`."""
    body = _NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    if index:
        # Of a router's ten thousand neighbours, these alone.
        body += _ATTRIBUTE.pack(8, NDA_IFINDEX) + struct.pack("=I", index)
    found = map(_neighbour, dump(netlink, RTM_GETNEIGH, body))
    return tuple(each for each in found if each is not None and index in (0, each.index))


def read_loopback_routes(netlink: socket.socket) -> frozenset[int]:
    """Return the interfaces that ::1 leads to, the loopback's own beside others; errors as in `read`."""
    body = _ROUTE.pack(socket.AF_INET6, *(0,) * 8)
    return frozenset(filter(None, map(_loopback_route, dump(netlink, RTM_GETROUTE, body))))


def dump(netlink: socket.socket, kind: int, body: bytes) -> list[bytes]:
    """Return the bodies of all answers to a request; errors as in `read`."""
    for _ in range(_ATTEMPTS):
        found = _dump_once(netlink, kind, body)
        if found is not None:
            return found
    raise Retry("cannot read the pod's network: it keeps changing while we read it")


def _dump_once(netlink: socket.socket, kind: int, body: bytes) -> list[bytes] | None:
    """Return the bodies of one dump, or None if the kernel marks it as inconsistent."""
    length = _HEADER.size + len(body)
    netlink.send(_HEADER.pack(length, kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
    bodies: list[bytes] = []
    consistent = True
    while True:
        data = _receive(netlink)
        offset = 0
        while offset + _HEADER.size <= len(data):
            size, answer, flags, _, _ = _HEADER.unpack_from(data, offset)
            consistent = consistent and not flags & NLM_F_DUMP_INTR
            if answer == NLMSG_DONE:
                return bodies if consistent else None
            if answer == NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", data, offset + _HEADER.size)
                raise OSError(-code, f"netlink request {kind} failed")
            bodies.append(data[offset + _HEADER.size : offset + size])
            offset += (size + 3) & ~3


def _receive(netlink: socket.socket) -> bytes:
    try:
        return netlink.recv(1 << 16)
    except TimeoutError as error:
        raise Retry("cannot read the pod's network: the kernel does not answer") from error


def _attributes(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"\0", sys.byteorder)


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = dict(_attributes(body, _LINK.size))
    information = dict(_attributes(found.get(IFLA_LINKINFO, b""), 0))
    return Link(
        index=index,
        name=found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        flags=flags,
        kind=information.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace"),
        mac=found.get(IFLA_ADDRESS, b""),
        group=_number(found.get(IFLA_GROUP)),
        parent=_number(found.get(IFLA_LINK)),
        master=_number(found.get(IFLA_MASTER)),
    )


def _address(body: bytes) -> Address:
    _, prefix, _, _, index = _ADDRESS.unpack_from(body)
    found = dict(_attributes(body, _ADDRESS.size))
    # IFA_ADDRESS is the peer of a point-to-point address; then IFA_LOCAL is ours.
    return Address(index=index, packed=found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b""), prefix=prefix)


def _network(body: bytes) -> tuple[str, int] | None:
    _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    found = dict(_attributes(body, _ROUTE.size))
    if not length or table != RT_TABLE_MAIN or kind != RTN_UNICAST or RTA_DST not in found:
        return None
    return f"{text(found[RTA_DST])}/{length}", _number(found.get(RTA_OIF))


def _host_route(body: bytes, index: int) -> HostRoute | None:
    _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    found = dict(_attributes(body, _ROUTE.size))
    packed = found.get(RTA_DST, b"")
    if table != RT_TABLE_MAIN or kind != RTN_UNICAST or not length or length != 8 * len(packed):
        return None
    if _number(found.get(RTA_OIF)) != index:
        return None
    return HostRoute(packed, found.get(RTA_PREFSRC, b""))


def _neighbour(body: bytes) -> Neighbour | None:
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    found = dict(_attributes(body, _NEIGHBOUR.size))
    if not state & NUD_PERMANENT or NDA_DST not in found:
        return None
    return Neighbour(index, found[NDA_DST], found.get(NDA_LLADDR, b""))


def _loopback_route(body: bytes) -> int:
    _, length, _, _, table, _, _, _, _ = _ROUTE.unpack_from(body)
    if length != 128 or table != RT_TABLE_LOCAL:
        return 0
    found = dict(_attributes(body, _ROUTE.size))
    return _number(found.get(RTA_OIF)) if found.get(RTA_DST) == _LOOPBACK6 else 0


def _default_route(body: bytes) -> DefaultRoute | None:
    family, destination, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    if destination or table != RT_TABLE_MAIN or kind != RTN_UNICAST:
        return None
    found = dict(_attributes(body, _ROUTE.size))
    return DefaultRoute(
        index=_number(found.get(RTA_OIF)),
        family=family,
        gateway=found.get(RTA_GATEWAY, b""),
        metric=_number(found.get(RTA_PRIORITY)),
    )


def text(packed: bytes) -> str:
    """Return an address as `ipaddress` writes it."""
    return str(ipaddress.ip_address(packed))
