"""Checks of single values of a pod's network: addresses, interfaces, ports, and what resolvers read."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress

from tank_agent.spec.findings import closest, show

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

# IFNAMSIZ without the NUL is 15 bytes; dev_valid_name() of the kernel refuses "/", ":" and white space.
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_.@][A-Za-z0-9_.@+-]{0,14}")
# "all" and "default" are the kernel's own entries beside the interfaces in /proc/sys/net.
_TAKEN_NAMES = ("lo", ".", "..", "all", "default")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
# RFC 1123, section 2.1, and "_" as many networks have it; resolv.conf(5).
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62}))*\Z"
)
# __NEW_UTS_LEN of linux/utsname.h.
_HOST_NAME_MAX = 64
# These are in every pod's /etc/hosts.
_LOCAL_NAMES = ("localhost", "ip6-localhost", "ip6-loopback")
# resolv.conf(5) of glibc 2.41, and the most that an option with a number takes there.
_NUMBERED_OPTIONS = {"ndots": 15, "timeout": 30, "attempts": 5}
_OPTIONS = (
    "debug", "edns0", "inet6", "ip6-bytestring", "ip6-dotint", "no-aaaa", "no-check-names", "no-ip6-dotint",
    "no-reload", "no-tld-query", "rotate", "single-request", "single-request-reopen", "trust-ad", "use-vc",
)  # fmt: skip
NO_DHCP = "there is no DHCP here; write an address that your router gives nobody else, such as"
_DHCP = ("auto", "dhcp", "dhcp4", "dhcp6", "slaac")


def is_loopback(host: str) -> bool:
    """Return whether a host's name, or its address (without brackets), is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
    refuse_special(address)
    return address


def parse_interface(text: str) -> Interface:
    """Return the address of an interface, with its prefix length."""
    address, slash, prefix = text.partition("/")
    if text.lower() in _DHCP:
        raise ValueError(f'{show(text)} is no address: {NO_DHCP} "10.0.0.5/24"')
    if not slash:
        right = f"{address}/{64 if ':' in address else 24}"
        raise ValueError(f"{show(text)} has no prefix length; write it as {show(right)}")
    try:
        # ipaddress would also take a netmask, and a host mask, after the slash.
        interface = ipaddress.ip_interface(text if re.fullmatch("[0-9]{1,3}", prefix) else "")
    except ValueError:
        right = 'write one such as "10.0.0.5/24"'
        with suppress(ValueError):
            # With a netmask in the place of the length.
            right = f"write {show(str(ipaddress.ip_interface(text)))}"
        raise ValueError(f"{show(text)} is not an address with prefix length; {right}") from None
    refuse_special(interface.ip)
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


def refuse_special(address: Address) -> None:
    """Raise ValueError for what is not the plain address of one host."""
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise ValueError(f"{show(str(address))} has a zone or an IPv4 address in it; write a plain address")
    if address.is_multicast or address.is_unspecified or (address.version == 4 and address == _BROADCAST):
        raise ValueError(f"{show(str(address))} is not the address of one host")


def domain(value: str) -> str:
    """Return a domain that a resolver can look in."""
    if not _HOST_NAME.match(value.removesuffix(".")) and value != ".":
        raise ValueError(f'{show(value)} is not a domain; write one such as "example.lan"')
    return value


def resolver_option(value: str) -> str:
    """Return an option of resolv.conf(5)."""
    name, colon, number = value.partition(":")
    most = _NUMBERED_OPTIONS.get(name)
    if most is not None:
        if not re.fullmatch("[0-9]{1,3}", number) or int(number) > most:
            raise ValueError(
                f'{show(value)} needs a number up to {most}; write it as "{name}:{min(most, 2)}"'
            )
        return f"{name}:{int(number)}"
    if name not in _OPTIONS:
        guess = closest(name, (*_NUMBERED_OPTIONS, *_OPTIONS))
        example = f"{guess}:2" if guess in _NUMBERED_OPTIONS else guess
        right = f"did you mean {show(example)}?" if guess else 'write one such as "ndots:2"'
        raise ValueError(f"{show(value)} is not an option of resolv.conf; {right}")
    if colon:
        raise ValueError(f"{show(name)} takes no number; write {show(name)}")
    return value


def own_hostname(value: str) -> str:
    """Return the host name of a pod, as sethostname(2) takes it."""
    _check_host_name(value)
    if len(value) > _HOST_NAME_MAX:
        length = f"{len(value)} characters"
        raise ValueError(f"{show(value)} has {length}, and the kernel takes {_HOST_NAME_MAX}; shorten it")
    if value.lower() in _LOCAL_NAMES:
        raise ValueError(f"{show(value)} is every machine's name for itself; write another")
    return value


def alias(value: str) -> str:
    """Return a further name of a pod."""
    _check_host_name(value, "my_db")
    if value.lower() in _LOCAL_NAMES:
        raise ValueError(f"{show(value)} is every pod's name for itself; remove it")
    return value


def extra_host(pair: tuple[str, str]) -> None:
    """Check the name of a host that a pod's /etc/hosts gets."""
    name = pair[0]
    _check_host_name(name)
    if name.lower() in _LOCAL_NAMES:
        raise ValueError(f"{show(name)} is the pod itself, always; remove it")


def _check_host_name(name: str, example: str = "nas.lan") -> None:
    if not _HOST_NAME.match(name):
        raise ValueError(f'{show(name)} is not a host name; write one such as "{example}"')
