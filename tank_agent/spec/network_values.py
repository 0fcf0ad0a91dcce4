"""Checks of single values of a pod's network: addresses, interfaces, ports, and what resolvers read."""

from __future__ import annotations

import ipaddress
import re

from tank_agent.spec.findings import show
from tank_agent.spec.model import Port

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

# IFNAMSIZ without the NUL is 15 bytes; dev_valid_name() of the kernel refuses "/", ":" and white space.
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_.@][A-Za-z0-9_.@+-]{0,14}")
# "all" and "default" are the kernel's own entries beside the interfaces in /proc/sys/net.
_TAKEN_NAMES = ("lo", ".", "..", "all", "default")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_PORT = re.compile(
    r"(?:(?:\[(?P<six>[^]/]*)\]|(?P<four>[0-9.]+)):)?"
    r"(?P<host>[0-9]+(?:-[0-9]+)?):(?P<pod>[0-9]+(?:-[0-9]+)?)(?:/(?P<protocol>[a-z]+))?"
)
_PORT_MAX = 65_535
# RFC 1123, section 2.1, and "_" as many networks have it; resolv.conf(5).
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62}))*\Z"
)
_OPTION = re.compile(r"[A-Za-z0-9_-]+(?::[A-Za-z0-9_-]+)?\Z")


def interface_name(name: str) -> str:
    """Return the name of a network interface, or raise ValueError."""
    if name in _TAKEN_NAMES:
        raise ValueError(f'{show(name)} is the kernel\'s own; use another, such as "eth0"')
    if not _INTERFACE_NAME.fullmatch(name):
        rule = "use 1 to 15 letters, digits and . _ @ + -"
        raise ValueError(f'{show(name)} is not an interface name; {rule}, such as "eth0"')
    return name


def parse_address(text: str) -> Address:
    """Return the address of a next hop or a name server: of one host, without a prefix length."""
    if "/" in text:
        raise ValueError(f"{show(text)} has a prefix length; write only {show(text.partition('/')[0])}")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f'{show(text)} is not an IP address; write one such as "10.0.0.1"') from None
    _refuse_special(address)
    return address


def parse_interface(text: str) -> Interface:
    """Return the address of an interface, with its prefix length."""
    address, slash, prefix = text.partition("/")
    if not slash:
        raise ValueError(f"{show(text)} has no prefix length; write it as {show(f'{address}/24')}")
    try:
        # ipaddress would also take a netmask, and a host mask, after the slash.
        interface = ipaddress.ip_interface(text if re.fullmatch("[0-9]{1,3}", prefix) else "")
    except ValueError:
        right = 'write one such as "10.0.0.5/24"'
        raise ValueError(f"{show(text)} is not an address with prefix length; {right}") from None
    _refuse_special(interface.ip)
    if interface.ip.is_loopback:
        raise ValueError(f"{show(text)} is a loopback address; every pod has its own loopback already")
    network = interface.network
    if network.prefixlen == 0:
        raise ValueError(f"{show(text)} makes the whole internet one LAN; write the LAN's prefix length")
    if interface.version == 4 and network.prefixlen < 31:
        if interface.ip == network.network_address:
            raise ValueError(f"{show(text)} is the address of the network itself; choose one inside it")
        if interface.ip == network.broadcast_address:
            raise ValueError(f"{show(text)} is the broadcast address of its network; choose one inside it")
    return interface


def _refuse_special(address: Address) -> None:
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise ValueError(f"{show(str(address))} has a zone or an IPv4 address in it; write a plain address")
    if address.is_multicast or address.is_unspecified or (address.version == 4 and address == _BROADCAST):
        raise ValueError(f"{show(str(address))} is not the address of one host")


def published_port(text: str) -> Port:
    """Return a port, or a range of ports, as `[ADDRESS:]HOST:POD[/tcp|udp]` says."""
    found = _PORT.fullmatch(text)
    if found is None:
        example = f"{text}:{text}" if re.fullmatch("[0-9]{1,5}", text) else "8080:80"
        raise ValueError(f"{show(text)} is no port; write [ADDRESS:]HOST:POD[/udp], such as {show(example)}")
    protocol = found["protocol"] or "tcp"
    if protocol != "tcp" and protocol != "udp":  # noqa: PLR1714
        raise ValueError(f"{show(protocol)} is not a protocol that ports have; write tcp or udp")
    host, count = _range(found["host"])
    pod, pods = _range(found["pod"])
    if count != pods:
        raise ValueError(
            f"{count} ports of the machine can't lead to {pods} of the pod; write two ranges of one length"
        )
    address = _published_address(found)
    return Port(
        host=host, pod=pod, count=count, protocol="udp" if protocol == "udp" else "tcp", address=address
    )


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    low, high = int(first[:6]), int((last or first)[:6])
    if not 1 <= low <= high <= _PORT_MAX:
        raise ValueError(f"{show(text)} is out of range; ports go from 1 to {_PORT_MAX}, the lower one first")
    return low, high - low + 1


def _published_address(found: re.Match[str]) -> str | None:
    text = found["six"] if found["six"] is not None else found["four"]
    if text is None:
        return None
    try:
        address = ipaddress.IPv4Address(text) if found["six"] is None else ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(
            f"{show(text)} is not an address of this machine, such as 127.0.0.1 or [::1]"
        ) from None
    if not address.is_unspecified:
        _refuse_special(address)
    return str(address)


def domain(value: str) -> str:
    """Return a domain that a resolver can look in."""
    if not _HOST_NAME.match(value.removesuffix(".")) and value != ".":
        raise ValueError(f'{show(value)} is not a domain; write one such as "example.lan"')
    return value


def resolver_option(value: str) -> str:
    """Return an option of resolv.conf(5)."""
    if not _OPTION.match(value):
        raise ValueError(f'{show(value)} is not an option of resolv.conf; write one such as "ndots:2"')
    return value


def extra_host(pair: tuple[str, str]) -> None:
    """Check the name of a host that a pod's /etc/hosts gets."""
    if not _HOST_NAME.match(pair[0]):
        raise ValueError(f'{show(pair[0])} is not a host name; write one such as "nas.lan"')
