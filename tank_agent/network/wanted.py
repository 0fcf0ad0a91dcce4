"""Look up the interfaces of a pod's file on this host: parents, MAC addresses, and reasons to refuse them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.network import rtnetlink
from tank_agent.network.addresses import Lease, gateway
from tank_agent.network.host_facts import HostFacts, why_no_uplink
from tank_agent.spec.model import Network, Nic

# Marks the links that we made (IFLA_GROUP, "tank" in ASCII): set by the kernel in the same step that makes
# them.
LINK_GROUP = 0x74616E6B
LINK_KIND = "macvlan"
VETH = "veth"
BRIDGE_PREFIX = "tank-"

# IFNAMSIZ less the final zero, linux/if.h; the characters are those that the kernel and /proc/sys allow.
_NAME_LENGTH = 15
_NAME = re.compile(r"[^/:%\s\x00]+\Z")
_RESERVED_NAMES = frozenset({".", "..", "lo", "all", "default"})
_MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_SYS_CLASS_NET = Path("/sys/class/net")
# A link of these kinds either lies on another interface already or cannot carry foreign MAC addresses.
_IMPOSSIBLE_PARENTS = frozenset(
    {"macvlan", "macvtap", "ipvlan", "ipvtap", "wireguard", "tun", "sit", "ip6tnl"}
)


class WantedNic(Struct, frozen=True, kw_only=True):
    """An interface as it should be; addresses are in network order, with their prefix length.

    `parent` is the machine's interface that it lies on, or the bridge that its other end is a port of. It is
    None where "auto" finds no uplink; then `no_uplink` holds the reason and a hint. `parent_index` is 0 where
    there is no such interface.
    """

    name: str
    mac: bytes
    parent: str | None
    parent_index: int
    addresses: tuple[tuple[bytes, int], ...]
    gateways: tuple[bytes, ...]
    metric: int
    no_uplink: tuple[str, str] | None = None
    kind: str = LINK_KIND

    @property
    def is_bridged(self) -> bool:
        """Return whether it is in a bridge of this machine."""
        return self.kind == VETH

    @property
    def port(self) -> str:
        """Return the name of the machine's end of one that is in a bridge."""
        return port_name(self.mac)

    @property
    def has_ipv6(self) -> bool:
        """Return whether it has an IPv6 address; else IPv6 is off on it."""
        return any(len(packed) != 4 for packed, _ in self.addresses)

    @property
    def first_name(self) -> str:
        """Return the name that it is made with.

        Kernels before 6.13 look for a name in use in the host's namespace even when the link is made in
        another, so a pod's "eth0" would clash with the host's.
        """
        return f"tk{self.mac.hex()}"


def wanted_nics(pod: str, network: Network, host: HostFacts) -> tuple[WantedNic, ...]:
    """Return the pod's interfaces as they should be on this host now; Stalled if a name is impossible."""
    return tuple(_wanted(pod, nic, number, host) for number, nic in enumerate(network.nics))


def bridge_nics(pod: str, bridges: Sequence[str], leases: Mapping[str, Lease]) -> tuple[WantedNic, ...]:
    """Return a pod's interfaces in those of its bridges where it has a lease; eth0 has the default route."""
    return tuple(
        _in_bridge(pod, number, bridge, leases[bridge])
        for number, bridge in enumerate(bridges)
        if bridge in leases
    )


def _in_bridge(pod: str, number: int, bridge: str, lease: Lease) -> WantedNic:
    interfaces = [ipaddress.ip_interface(text) for text in lease]
    gateways = [ipaddress.ip_address(gateway(str(interface.network))) for interface in interfaces]
    name, parent = f"eth{number}", bridge_interface(bridge)
    return WantedNic(
        name=name,
        mac=stable_mac(pod, name),
        parent=parent,
        parent_index=_index(parent),
        addresses=tuple((each.ip.packed, each.network.prefixlen) for each in interfaces),
        gateways=tuple(gateway.packed for gateway in gateways) if number == 0 else (),
        metric=100 + number,
        kind=VETH,
    )


def _index(name: str) -> int:
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(name)
    return 0


def port_name(mac: bytes) -> str:
    """Return the name of the machine's end of an interface that is in a bridge."""
    return f"tkv{mac.hex()}"


def bridge_interface(bridge: str) -> str:
    """Return the name of a bridge's interface: "tank-" and its own; of a long one the start and a hash."""
    name = f"{BRIDGE_PREFIX}{bridge}"
    if len(name) <= _NAME_LENGTH:
        return name
    return f"{name[: _NAME_LENGTH - 5]}-{hashlib.sha256(bridge.encode()).hexdigest()[:4]}"


def check_bridge(nic: WantedNic) -> None:
    """Raise Retry where the bridge of an interface is not there."""
    if not nic.parent_index:
        raise Retry(f"the bridge {nic.parent} is not there", hint="it is made again at the next look")


def _wanted(pod: str, nic: Nic, number: int, host: HostFacts) -> WantedNic:
    if len(nic.name.encode()) > _NAME_LENGTH:
        hint = f"an interface name has at most {_NAME_LENGTH} bytes"
        raise Stalled(f"interface name {nic.name!r} is too long", hint=hint)
    if nic.name in _RESERVED_NAMES or not _NAME.match(nic.name):
        raise Stalled(f"no interface can be named {nic.name!r}", hint='use a name such as "eth0"')
    parent = host.uplink() if nic.parent == "auto" else nic.parent
    interfaces = map(ipaddress.ip_interface, nic.ip)
    return WantedNic(
        name=nic.name,
        mac=stable_mac(pod, nic.name),
        parent=parent,
        parent_index=_index(parent or ""),
        addresses=tuple((each.ip.packed, each.network.prefixlen) for each in interfaces),
        gateways=tuple(ipaddress.ip_address(text).packed for text in nic.gateway),
        # The first interface's default route wins; equal metrics would be refused or, for IPv6, balanced.
        metric=100 + number,
        no_uplink=why_no_uplink(host) if parent is None else None,
    )


def stable_mac(pod: str, nic: str) -> bytes:
    """Return the MAC address of a pod's interface: the same after every restart, and on no other machine.

    It is a locally administered unicast address, a hash of machine-id(5) and both names.
    """
    digest = hashlib.sha256("\0".join((_machine_id(), pod, nic)).encode()).digest()
    return bytes([(digest[0] & 0xFC) | 0x02]) + digest[1:6]


@functools.cache
def _machine_id() -> str:
    for path in _MACHINE_ID_FILES:
        with contextlib.suppress(FileNotFoundError):
            if found := path.read_text(encoding="ascii", errors="replace").strip():
                return found
    return socket.gethostname()


def check_parent(nic: WantedNic) -> None:
    """Refuse a parent that can't carry a macvlan: Retry if it may come yet, Stalled if it never will."""
    if nic.parent is None:
        message, hint = nic.no_uplink or ("no uplink", None)
        raise Retry(message, hint=hint)
    if not nic.parent_index:
        raise Retry(f"this machine has no interface {nic.parent!r}", hint="`ip link` lists those it has")
    if any((_SYS_CLASS_NET / nic.parent / name).exists() for name in ("wireless", "phy80211")):
        raise Stalled(
            f"{nic.parent} is a Wi-Fi interface, and access points drop what macvlan sends",
            hint='use a wired parent, or network = "host"',
        )
    with rtnetlink.open_socket() as netlink:
        links = {link.index: link for link in rtnetlink.read_links(netlink)}
    parent = links.get(nic.parent_index)
    if parent is not None and parent.kind in _IMPOSSIBLE_PARENTS:
        below = links.get(parent.parent)
        raise Stalled(
            f"{nic.parent} is itself a {parent.kind} interface, which can't carry a macvlan",
            hint=f"use {below.name if below else 'an Ethernet interface of this machine'} as parent",
        )
