"""Steps from the network that is there to the one that is wanted. Pure: drift and repair read one answer.

A step that others depend on comes alone: an interface that is missing or down has no addresses worth
comparing. So whoever does the steps looks again, until there are none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from msgspec import Struct

from tank_agent.network.rtnetlink import Address, DefaultRoute, Link, NamespaceState, text
from tank_agent.network.wanted import LINK_GROUP, LINK_KIND, WantedNic, format_mac

LOOPBACK = "lo"
_IPV4_LENGTH = 4


class RemoveLink(Struct, frozen=True):
    """Remove an interface."""

    link: Link
    why: str

    def __str__(self) -> str:
        return f"{self.link.name} {self.why}"


class AddLink(Struct, frozen=True):
    """Make an interface."""

    nic: WantedNic

    def __str__(self) -> str:
        return f"{self.nic.name} is missing"


class RaiseLink(Struct, frozen=True):
    """Set an interface up."""

    name: str
    nic: WantedNic | None = None

    def __str__(self) -> str:
        return f"{self.name} is down"


class AddAddress(Struct, frozen=True):
    """Give an interface an address."""

    nic: WantedNic
    index: int
    packed: bytes
    prefix: int

    @property
    def claim(self) -> tuple[int, bytes]:
        """Return the LAN, by its parent interface, and the address: two pods must not ask for both."""
        return self.nic.parent_index, self.packed

    def __str__(self) -> str:
        return f"{self.nic.name} lacks {text(self.packed)}/{self.prefix}"


class RemoveAddress(Struct, frozen=True):
    """Take an address from an interface."""

    nic: WantedNic
    address: Address

    def __str__(self) -> str:
        address = self.address
        return f"{self.nic.name} has {text(address.packed)}/{address.prefix}, which the pod does not name"


class AddRoute(Struct, frozen=True):
    """Add a default route."""

    nic: WantedNic
    route: DefaultRoute

    def __str__(self) -> str:
        return f"{self.nic.name} lacks the default route via {text(self.route.gateway)}"


class RemoveRoute(Struct, frozen=True):
    """Remove a default route."""

    nic: WantedNic
    route: DefaultRoute

    def __str__(self) -> str:
        gateway = f" via {text(self.route.gateway)}" if self.route.gateway else ""
        return f"{self.nic.name} has a default route{gateway} that the pod does not name"


class SwitchOffIpv6(Struct, frozen=True):
    """Switch IPv6 off on an interface: so it loses the link-local address that came with another."""

    nic: WantedNic

    def __str__(self) -> str:
        return f"{self.nic.name} has IPv6, but no address of it in the pod's file"


Step = RemoveLink | AddLink | RaiseLink | AddAddress | RemoveAddress | AddRoute | RemoveRoute | SwitchOffIpv6


def steps(observed: NamespaceState, wanted: Sequence[WantedNic]) -> tuple[Step, ...]:
    """Return what to do now, in order; each step prints as the difference that it removes.

    Interfaces that we did not make are left alone, unless they sit on a name that we need. On ours, only what
    the pod's file names may stay, and IPv6 link-local addresses.
    """
    is_down = any(link.name == LOOPBACK and not link.up for link in observed.links)
    loopback = (RaiseLink(LOOPBACK),) if is_down else ()
    return (*loopback, *_link_steps(observed, wanted), *_inner_steps(observed, wanted))


def interface(step: Step) -> str:
    """Return the name of the interface that a step is about."""
    match step:
        case RemoveLink(link=link):
            return link.name
        case RaiseLink(name=name):
            return name
        case _:
            return step.nic.name


def is_ours(link: Link) -> bool:
    """Return whether we made a link."""
    return link.group == LINK_GROUP and link.kind == LINK_KIND


def pod_addresses(observed: NamespaceState) -> tuple[str, ...]:
    """Return the addresses of our interfaces with prefix, without link-local ones."""
    ours = {link.index for link in observed.links if is_ours(link)}
    return tuple(
        f"{text(address.packed)}/{address.prefix}"
        for address in observed.addresses
        if address.index in ours and not _is_link_local(address)
    )


def _link_steps(observed: NamespaceState, wanted: Sequence[WantedNic]) -> Iterator[Step]:
    by_name = {nic.name: nic for nic in wanted}
    fitting = {link.name for link in observed.links if _fits(link, by_name.get(link.name))}
    for link in observed.links:
        if link.name in fitting:
            continue
        if nic := by_name.get(link.name):
            yield RemoveLink(link, _misfit(link, nic))
        elif is_ours(link):
            yield RemoveLink(link, "is not named by the pod")
    for nic in wanted:
        if nic.name not in fitting:
            yield AddLink(nic)


def _fits(link: Link, nic: WantedNic | None) -> bool:
    return nic is not None and is_ours(link) and not _misfit(link, nic)


def _misfit(link: Link, nic: WantedNic) -> str:
    if not is_ours(link):
        return "is an interface that is not ours"
    if link.mac != nic.mac:
        return f"has the MAC address {format_mac(link.mac)} instead of {format_mac(nic.mac)}"
    # A host whose default route is away for a moment is no reason to take a pod off the LAN.
    if nic.parent is not None and link.parent != nic.parent_index:
        return f"lies on another interface than {nic.parent}"
    return ""


def _inner_steps(observed: NamespaceState, wanted: Sequence[WantedNic]) -> Iterator[Step]:
    links = {link.name: link for link in observed.links}
    for nic in wanted:
        link = links.get(nic.name)
        if link is None or not _fits(link, nic):
            continue
        if not link.up:
            yield RaiseLink(nic.name, nic)
            continue
        yield from _address_steps(observed, nic, link.index)
        yield from _route_steps(observed, nic, link.index)


def _address_steps(observed: NamespaceState, nic: WantedNic, index: int) -> Iterator[Step]:
    there = {(a.packed, a.prefix): a for a in observed.addresses if a.index == index}
    extra = [a for key, a in there.items() if key not in nic.addresses and not _is_link_local(a)]
    wanted = {packed for packed, _ in nic.addresses}
    # The kernel keeps an IPv6 address once, so one with another prefix must go first; others go when the new
    # are there, so that the routes through the interface stay.
    yield from (RemoveAddress(nic, a) for a in extra if a.packed in wanted)
    for packed, prefix in nic.addresses:
        if (packed, prefix) not in there:
            yield AddAddress(nic, index, packed, prefix)
    yield from (RemoveAddress(nic, a) for a in extra if a.packed not in wanted)
    # Last: with it go the interface's IPv6 routes, which may be named as steps, too.
    if not nic.has_ipv6 and any(_is_link_local(a) for a in there.values()):
        yield SwitchOffIpv6(nic)


def _route_steps(observed: NamespaceState, nic: WantedNic, index: int) -> Iterator[Step]:
    there = {route for route in observed.routes if route.index == index}
    wanted = {
        DefaultRoute(index=index, family=_family(gateway), gateway=gateway, metric=nic.metric)
        for gateway in nic.gateways
    }
    yield from (RemoveRoute(nic, route) for route in _ordered(there - wanted))
    yield from (AddRoute(nic, route) for route in _ordered(wanted - there))


def _ordered(routes: set[DefaultRoute]) -> list[DefaultRoute]:
    return sorted(routes, key=lambda route: (route.family, route.metric, route.gateway))


def _family(packed: bytes) -> int:
    # linux/socket.h: AF_INET, AF_INET6
    return 2 if len(packed) == _IPV4_LENGTH else 10


def _is_link_local(address: Address) -> bool:
    return len(address.packed) != _IPV4_LENGTH and ipaddress.IPv6Address(address.packed).is_link_local
