"""The bridges of this machine: made for the pods in them, kept right, and removed with the last of them.

A bridge has the first address of each of its networks, which is the gateway of its pods. What its pods
publish, and what leaves it, is in the `firewall`.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.linux import fault
from tank_agent.linux.namespaces import read_network_sysctl, set_network_sysctl
from tank_agent.network import rtnetlink
from tank_agent.network.addresses import ForeignNetwork, gateway
from tank_agent.network.nics import IFA_F_NODAD, explained, route_socket
from tank_agent.network.rtnetlink import Link
from tank_agent.network.wanted import LINK_GROUP, bridge_interface, stable_mac

_KIND = "bridge"
# Packets that came by the bridge go on; those of 127.0.0.1, published on it, may leave by it.
_SETTINGS = (
    ("ipv4", "forwarding", "1"),
    ("ipv4", "route_localnet", "1"),
    # Else a pod with CAP_NET_RAW makes itself this machine's router, also in a bridge without IPv6.
    ("ipv6", "accept_ra", "0"),
)
_IPV6_SETTINGS = (("ipv6", "disable_ipv6", "0"),)
# The kernel's own route to ::1 has metric 0. Each bridge has another, or the next would take its place.
_LOOPBACK_METRIC = 4096


class Bridges:
    """Makes and removes the interfaces of bridges, in the calling thread's network. Any may call it.

    Args:
        networks: returns those of every bridge by its name, such as {"default": ("10.89.0.0/24",)}.
        group: marks the bridges of this agent, as `group_of` has it.
    """

    def __init__(
        self, networks: Callable[[], Mapping[str, Collection[str]]], group: int = LINK_GROUP
    ) -> None:
        self._networks, self._group = networks, group
        # Whether they are another agent's, by the last look.
        self.are_anothers = False
        # Not two that make one at once, nor one that removes what another needs.
        self._lock = threading.Lock()

    def ensure(self, needed: Collection[str] | None = None) -> tuple[str, ...]:
        """Make the bridges what they should be, and return what was not so before.

        Args:
            needed: the bridges whose errors are raised; None for all. The others are made none the less.

        Raises:
            Stalled, Retry: the kernel refuses it, or another program's interface has the name; or they are
                another agent's.
        """
        with self._lock, rtnetlink.open_socket() as netlink:
            # Not before: one that came meanwhile would be missing.
            networks = self._networks()
            wanted = {bridge_interface(name): tuple(given) for name, given in networks.items()}
            round_ = _Round(netlink, wanted, self._group)
            self._note(round_.links.values())
            if self.are_anothers:
                raise Retry(
                    "another agent of this machine has its bridges",
                    hint="pods in bridges, and those with ports, belong to one agent of a machine: the first",
                )
            for name in wanted:
                round_.make(name)
            if wanted:
                round_.set_up()
        interfaces = wanted if needed is None else map(bridge_interface, needed)
        failures = [round_.failures[name] for name in interfaces if name in round_.failures]
        if failures:
            raise failures[0]
        return tuple(round_.changed)

    def remove_others(self) -> tuple[str, ...]:
        """Remove the bridges of ours that no pod is in any more; errors as in `ensure`."""
        removed = []
        with self._lock, rtnetlink.open_socket() as netlink:
            wanted = {bridge_interface(name) for name in self._networks()}
            for link in rtnetlink.read_links(netlink):
                if is_ours(link) and link.group == self._group and link.name not in wanted:
                    _remove(link)
                    removed.append(f"{link.name} was not needed")
        return tuple(removed)

    def any_left(self) -> bool:
        """Return whether there is a bridge of this agent's, such as one that it left when it was killed."""
        with self._lock, rtnetlink.open_socket() as netlink:
            return self._group in self._note(rtnetlink.read_links(netlink))

    def _note(self, links: Iterable[Link]) -> set[int]:
        groups = {link.group for link in links if is_ours(link)}
        self.are_anothers = not groups <= {self._group}
        return groups


class _Round:
    """Makes bridges what they should be, each for itself: one that fails keeps the others from nothing."""

    def __init__(self, netlink: socket.socket, wanted: Mapping[str, Collection[str]], group: int) -> None:
        self._netlink, self._wanted, self._group = netlink, wanted, group
        self.links = {link.name: link for link in rtnetlink.read_links(netlink)}
        self.changed: list[str] = []
        self.failures: dict[str, TankError] = {}

    @contextmanager
    def _at(self, name: str) -> Iterator[None]:
        try:
            yield
        except TankError as error:
            self.failures.setdefault(name, error)

    def make(self, name: str) -> None:
        with self._at(name):
            link = self.links.get(name)
            if link is None:
                self._remove_renamed(name)
            if _make(name, link, self._group):
                self.changed.append(f"{name} was not there, or down")

    def _remove_renamed(self, name: str) -> None:
        """Remove a bridge that somebody gave another name: two can't have the addresses."""
        mac = _mac(name)
        for link in self.links.values():
            if is_ours(link) and link.name not in self._wanted and link.mac == mac:
                _remove(link)

    def set_up(self) -> None:
        if self.changed:
            self.links = {link.name: link for link in rtnetlink.read_links(self._netlink)}
        addresses = rtnetlink.read_addresses(self._netlink)
        has_ipv6 = any(":" in network for given in self._wanted.values() for network in given)
        local = rtnetlink.read_loopback_routes(self._netlink) if has_ipv6 else frozenset()
        for name, given in self._wanted.items():
            link = self.links.get(name)
            if link is None or name in self.failures:
                continue
            with self._at(name):
                wants_ipv6 = any(":" in network for network in given)
                # First: a machine may keep IPv6 off on whatever is new.
                if _set_up(name, (*_SETTINGS, *_IPV6_SETTINGS) if wants_ipv6 else _SETTINGS):
                    self.changed.append(f"{name} did not forward")
                has = {str(address) for address in addresses if address.index == link.index}
                for address in sorted({_own_address(network) for network in given} - has):
                    _add_address(name, link.index, address)
                    self.changed.append(f"{name} lacked {address}")
                if wants_ipv6 and link.index not in local:
                    _route_loopback(name, link.index)
                    self.changed.append(f"{name} lacked the route of ::1")


def group_of(run_dir: Path) -> int:
    """Return the link group of an agent's bridges, which says whose they are: two bytes stand for run_dir."""
    return LINK_GROUP & 0xFFFF0000 | int(hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:4], 16)


def is_ours(link: Link) -> bool:
    """Return whether an interface is a bridge that an agent made."""
    return link.kind == _KIND and link.group >> 16 == LINK_GROUP >> 16


def _mac(name: str) -> bytes:
    # An address of its own: else it would have that of one of its ports, and another when that goes.
    return stable_mac("", name)


def _own_address(network: str) -> str:
    return f"{gateway(network)}/{network.partition('/')[2]}"


def _make(name: str, link: Link | None, group: int) -> bool:
    if link is not None and not is_ours(link):
        raise Stalled(
            f"this machine has an interface {name} already, and tank did not make it",
            hint=f"`ip link del {name}` if nobody needs it, or give the bridge another name",
        )
    if link is not None and link.up:
        return False
    no_kernel = Stalled(
        "this kernel has no bridges",
        hint="`modprobe bridge`, or a kernel with CONFIG_BRIDGE, such as Debian's",
    )
    known = {errno.EOPNOTSUPP: no_kernel}
    with explained(f"cannot make the bridge {name}", known=known), route_socket() as route:
        if link is None:
            route.link("add", ifname=name, kind=_KIND, address=_mac(name).hex(":"), group=group)
            fault.point("network:bridge-made")
        for index in route.link_lookup(ifname=name):
            route.link("set", index=index, state="up")
    fault.point("network:bridge-up")
    return True


def _add_address(name: str, index: int, address: str) -> None:
    own = ipaddress.ip_interface(address)
    # Nobody else can have it: no probe of the kernel's, which would keep it unusable for a second.
    flags = {} if own.version == 4 else {"IFA_FLAGS": IFA_F_NODAD}
    what = f"cannot give the bridge {name} the address {address}"
    with explained(what, ignore=(errno.EEXIST,)), route_socket() as route:
        route.addr("add", index=index, address=str(own.ip), prefixlen=own.network.prefixlen, **flags)
    fault.point("network:bridge-addressed")


def _route_loopback(name: str, index: int) -> None:
    """Let ::1 lead to a bridge: what a pod answers to it is looked up there, and nowhere else."""
    what = f"cannot let ::1 lead to the bridge {name}"
    with explained(what, ignore=(errno.EEXIST,)), route_socket() as route:
        route.route(
            "add",
            family=socket.AF_INET6,
            dst="::1/128",
            oif=index,
            type="local",
            table=rtnetlink.RT_TABLE_LOCAL,
            priority=_LOOPBACK_METRIC + index,
        )
    fault.point("network:loopback-routed")


def _set_up(name: str, settings: Collection[tuple[str, str, str]]) -> bool:
    """Set the kernel's settings of a bridge, and return whether one was another."""
    changed = [_set(f"{version}/conf/{name}/{setting}", value) for version, setting, value in settings]
    return any(changed)


def _set(path: str, value: str) -> bool:
    what = f"cannot set {path.replace('/', '.')}"
    try:
        if read_network_sysctl(path) == value:
            return False
        with explained(what):
            set_network_sysctl(path, value)
    except FileNotFoundError:
        if path.startswith("ipv6"):
            # This machine has no IPv6.
            return False
        raise Retry(f"{what}: the bridge has just gone") from None
    return True


def _remove(link: Link) -> None:
    with explained(f"cannot remove the bridge {link.name}", ignore=(errno.ENODEV,)), route_socket() as route:
        route.link("del", index=link.index)
    fault.point("network:bridge-removed")


def foreign_networks() -> list[ForeignNetwork]:
    """Return the networks that this machine routes to interfaces other than our bridges."""
    with rtnetlink.open_socket() as netlink:
        links = {link.index: link for link in rtnetlink.read_links(netlink)}
        routes = rtnetlink.read_networks(netlink)
    return [
        ForeignNetwork(network, links[index].name)
        for network, index in routes
        if index in links and not is_ours(links[index])
    ]
