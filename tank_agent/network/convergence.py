"""Steps from the network that is there to the one that is wanted. Pure: drift and repair use the same steps.

While an interface is missing or down, nothing is compared that depends on it. So do the steps and read the
network again, until no step is left.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from tank_agent.network.rtnetlink import Address, DefaultRoute, Link, NamespaceState, text
from tank_agent.network.wanted import LINK_GROUP, LINK_KIND, VETH, WantedNic

LOOPBACK = "lo"
_NO_PORTS: Mapping[str, Link] = {}


class Step(Struct, frozen=True):
    """One thing to do to an interface; it prints as the difference that it removes."""

    interface: str
    difference: str

    def __str__(self) -> str:
        return f"{self.interface} {self.difference}"


class RemoveLink(Step, frozen=True):
    """Remove an interface."""

    link: Link


class AddLink(Step, frozen=True):
    """Make an interface."""

    nic: WantedNic


class AttachLink(Step, frozen=True):
    """Make the machine's end of an interface a port of its bridge, and set it up."""

    nic: WantedNic


class RaiseLink(Step, frozen=True):
    """Set an interface up: one of the pod's file, or the loopback."""

    nic: WantedNic | None = None


class AddAddress(Step, frozen=True):
    """Give an interface an address."""

    nic: WantedNic
    address: Address

    @property
    def claim(self) -> tuple[int, bytes]:
        """Return the LAN, by its parent interface, and the address: two pods must not ask for both."""
        return self.nic.parent_index, self.address.packed


class RemoveAddress(Step, frozen=True):
    """Take an address from an interface."""

    address: Address


class AddRoute(Step, frozen=True):
    """Add a default route."""

    nic: WantedNic
    route: DefaultRoute


class RemoveRoute(Step, frozen=True):
    """Remove a default route."""

    route: DefaultRoute


class SwitchOffIpv6(Step, frozen=True):
    """Switch IPv6 off on an interface, which loses its link-local address by that."""


def is_ours(link: Link) -> bool:
    """Return whether we made a link."""
    return link.group == LINK_GROUP and link.kind in (LINK_KIND, VETH)


def pod_addresses(observed: NamespaceState) -> tuple[str, ...]:
    """Return the addresses of our interfaces with prefix, without link-local ones."""
    ours = {link.index for link in observed.links if is_ours(link)}
    return tuple(str(a) for a in observed.addresses if a.index in ours and not _is_link_local(a))


def steps(
    observed: NamespaceState, wanted: Sequence[WantedNic], ports: Mapping[str, Link] = _NO_PORTS
) -> Iterator[Step]:
    """Yield the steps that are due now, in order; `ports` are this machine's interfaces by name, for bridges.

    Interfaces that we did not make are left alone, unless one has a name that we need. On ours, only the
    addresses and routes of the pod's file may stay, and IPv6 link-local addresses.
    """
    if any(link.name == LOOPBACK and not link.up for link in observed.links):
        yield RaiseLink(LOOPBACK, "is down")
    by_name = {nic.name: nic for nic in wanted}
    fitting = {}
    for link in observed.links:
        if fault := _fault(link, by_name.get(link.name), ports):
            yield RemoveLink(link.name, fault, link)
        else:
            fitting[link.name] = link
    for nic in wanted:
        if nic.name not in fitting:
            yield AddLink(nic.name, "is missing", nic)
    for nic in wanted:
        if nic.is_bridged and nic.name in fitting and not _is_attached(nic, ports):
            yield AttachLink(nic.name, f"is not in the bridge {nic.parent}", nic)
        if (found := fitting.get(nic.name)) and not found.up:
            yield RaiseLink(nic.name, "is down", nic)
        elif found:
            yield from _address_steps(observed, nic, found.index)
            yield from _route_steps(observed, nic, found.index)


def _is_attached(nic: WantedNic, ports: Mapping[str, Link]) -> bool:
    port = ports.get(nic.port)
    return port is not None and port.up and port.master == nic.parent_index


def _fault(link: Link, nic: WantedNic | None, ports: Mapping[str, Link]) -> str:
    """Return why a link must go; empty if it may stay."""
    if nic is None:
        return "is not named by the pod" if is_ours(link) else ""
    if not is_ours(link):
        return "is an interface that is not ours"
    if link.mac != nic.mac:
        return f"has the MAC address {link.mac.hex(':')} instead of {nic.mac.hex(':')}"
    if link.kind != nic.kind:
        return f"is a {link.kind} instead of a {nic.kind}"
    if nic.is_bridged:
        return "" if nic.port in ports else "has no other end on this machine"
    # A host whose default route is away for a moment is no reason to take a pod off the LAN.
    moved = nic.parent is not None and link.parent != nic.parent_index
    return f"lies on another interface than {nic.parent}" if moved else ""


def _address_steps(observed: NamespaceState, nic: WantedNic, index: int) -> Iterator[Step]:
    there = [address for address in observed.addresses if address.index == index]
    wanted = [Address(index=index, packed=packed, prefix=prefix) for packed, prefix in nic.addresses]
    extra = [
        RemoveAddress(nic.name, f"has {address}, which the pod does not name", address)
        for address in there
        if address not in wanted and not _is_link_local(address)
    ]
    # The kernel keeps an IPv6 address once, so one with another prefix must go first; others go when the new
    # are there, so that the routes through the interface stay.
    replaced = {address.packed for address in wanted}
    yield from (step for step in extra if step.address.packed in replaced)
    for address in wanted:
        if address not in there:
            yield AddAddress(nic.name, f"lacks {address}", nic, address)
    yield from (step for step in extra if step.address.packed not in replaced)
    # Last: with it go the interface's IPv6 routes, which may be named as steps, too.
    if not nic.has_ipv6 and any(map(_is_link_local, there)):
        yield SwitchOffIpv6(nic.name, "has IPv6, but no address of it in the pod's file")


def _route_steps(observed: NamespaceState, nic: WantedNic, index: int) -> Iterator[Step]:
    there = {route for route in observed.routes if route.index == index}
    wanted = {
        DefaultRoute(
            index=index,
            family=socket.AF_INET if len(gateway) == 4 else socket.AF_INET6,
            gateway=gateway,
            metric=nic.metric,
        )
        for gateway in nic.gateways
    }
    for route in _ordered(there - wanted):
        via = f" via {text(route.gateway)}" if route.gateway else ""
        yield RemoveRoute(nic.name, f"has a default route{via} that the pod does not name", route)
    for route in _ordered(wanted - there):
        yield AddRoute(nic.name, f"lacks the default route via {text(route.gateway)}", nic, route)


def _ordered(routes: set[DefaultRoute]) -> list[DefaultRoute]:
    return sorted(routes, key=lambda route: (route.family, route.metric, route.gateway))


def _is_link_local(address: Address) -> bool:
    return len(address.packed) != 4 and ipaddress.IPv6Address(address.packed).is_link_local
