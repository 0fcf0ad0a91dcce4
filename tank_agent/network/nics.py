"""Do the steps of `convergence` with pyroute2, and turn the kernel's refusals into errors with hints.

The host's side of a namespace is the namespace of the calling thread. An interface is made by the host's
socket directly inside the pod's namespace (IFLA_NET_NS_FD beside IFLA_LINK), so that it is never on the host,
not even for a moment. If the agent is killed, the rest goes with the pod's namespace.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.linux import fault
from tank_agent.linux.namespaces import in_network_namespace, raise_link, set_network_sysctl
from tank_agent.linux.paths import Closing
from tank_agent.network import probe, rtnetlink
from tank_agent.network.convergence import (
    AddAddress,
    AddLink,
    AddRoute,
    AttachLink,
    RaiseLink,
    RemoveAddress,
    RemoveLink,
    RemoveRoute,
    Step,
    SwitchOffIpv6,
)
from tank_agent.network.rtnetlink import DefaultRoute, Link, text
from tank_agent.network.wanted import LINK_GROUP, LINK_KIND, VETH, WantedNic, check_bridge, check_parent

# linux/if_addr.h, linux/rtnetlink.h
IFA_F_NODAD, RTNH_F_ONLINK = 0x02, 4
# In a removal this scope, and protocol 0, stand for any.
RT_SCOPE_NOWHERE = 255

_REFUSED_PARENTS = {
    errno.EBUSY: "it is a port of a bridge or a bond, or carries another kind of virtual interface",
    errno.EINVAL: "it is no Ethernet interface",
    errno.EOPNOTSUPP: "its driver does not support it",
}
_GONE = (errno.ENODEV, errno.EADDRNOTAVAIL, errno.ESRCH)


class _Attempt:
    """Collects the first error of each interface, so that one failure does not block the others."""

    def __init__(self, *, whole: bool) -> None:
        self.failures: dict[str, TankError] = {}
        self._whole = whole

    @contextmanager
    def at(self, interface: str) -> Iterator[None]:
        """Remember the first error of an interface; raise it if only the whole network is of use."""
        try:
            yield
        except TankError as error:
            if self._whole:
                raise
            self.failures.setdefault(interface, error)

    def refuse(self, refused: Mapping[AddAddress, TankError]) -> Collection[AddAddress]:
        """Remember why some addresses can't be used, and return the steps that would set them."""
        for step, error in refused.items():
            with self.at(step.interface):
                raise error
        return refused.keys()


def apply(
    netns: Path, steps: Sequence[Step], *, whole: bool, claimed: Mapping[tuple[int, bytes], str]
) -> dict[str, TankError]:
    """Do the steps in the namespace pinned at `netns`, and return the first error of each interface.

    Args:
        whole: raise the first error, since the pod does not start without its whole network.
        claimed: the addresses that other pods are about to use, and these pods.

    Raises:
        Stalled: the host, its kernel or the parent interface cannot do it.
        Retry: it cannot be done now; an address is taken, or an interface is away.
    """
    attempt = _Attempt(whole=whole)
    additions = [step.nic for step in steps if isinstance(step, AddLink)]
    # First of all: an interface that works stays if its successor is impossible, also one of another name.
    for nic in additions:
        with attempt.at(nic.name):
            check_bridge(nic) if nic.is_bridged else check_parent(nic)
    impossible = list(attempt.failures.values())
    possible = [nic for nic in additions if nic.name not in attempt.failures]
    refused = attempt.refuse(_local_conflicts(steps, claimed))
    for link in (step.link for step in steps if isinstance(step, RemoveLink)):
        # The MAC address finds one that is half made, or was renamed: two interfaces can't have it.
        has_successor = any(link.name == nic.name or link.mac == nic.mac for nic in possible)
        with attempt.at(link.name):
            if impossible and not has_successor:
                raise impossible[0]
            remove_links(netns, [link])
    for nic in possible:
        with attempt.at(nic.name):
            _create_veth(netns, nic) if nic.is_bridged else _create_macvlan(netns, nic)
            fault.point("network:link-created")
    for nic in (step.nic for step in steps if isinstance(step, AttachLink)):
        with attempt.at(nic.name):
            _attach(nic)
    inner = [s for s in steps if not isinstance(s, RemoveLink | AttachLink) and s not in refused]
    in_network_namespace(netns, lambda: _apply_inside(inner, attempt))
    return attempt.failures


def remove_links(netns: Path, links: Sequence[Link]) -> None:
    """Remove interfaces from the namespace pinned at `netns`, if they are there; Retry if that fails."""

    def remove() -> None:
        with route_socket() as route:
            for link in links:
                with explained(f"cannot remove {link.name}", ignore=(errno.ENODEV,)):
                    route.link("del", index=link.index)
                fault.point("network:link-removed")

    in_network_namespace(netns, remove)


@contextmanager
def route_socket() -> Iterator[Any]:
    """Open a socket of pyroute2 in the calling thread's namespace, for the length of a block."""
    # 0.2 s that a pod without interfaces never pays.
    from pyroute2 import IPRoute

    with IPRoute() as route:
        yield route


@contextmanager
def explained(
    what: str, *, ignore: Collection[int] = (), known: Mapping[int, TankError] | None = None
) -> Iterator[None]:
    """Turn a netlink error into ours: one of `known`, or a general one, by its error number.

    `ignore` holds the numbers that mean "it is so already".
    """
    from pyroute2 import NetlinkError

    try:
        yield
    except (NetlinkError, OSError) as error:
        code = int(error.code if isinstance(error, NetlinkError) else error.errno or 0)
        if code in ignore:
            return
        if code in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise Stalled(
                f"{what}: {os.strerror(code)}",
                hint="the agent needs root, CAP_NET_ADMIN and a writable /proc/sys",
            ) from error
        raise (known or {}).get(code, Retry(f"{what}: {os.strerror(code)}")) from error


def _create_macvlan(netns: Path, nic: WantedNic) -> None:
    known: dict[int, TankError] = {
        code: Stalled(
            f"{nic.parent} can't carry a macvlan: {why}",
            hint='use another parent, the bridge itself if it is a bridge\'s port, or network = "host"',
        )
        for code, why in _REFUSED_PARENTS.items()
    }
    known[errno.ENODEV] = Retry(f"the interface {nic.parent!r} has just gone")
    with (
        Closing(os.open(netns, os.O_RDONLY | os.O_CLOEXEC)) as target,
        explained(f"cannot make {nic.name} on {nic.parent}", known=known),
        route_socket() as route,
    ):
        route.link(
            "add",
            ifname=nic.first_name,
            kind=LINK_KIND,
            macvlan_mode="bridge",
            link=nic.parent_index,
            net_ns_fd=target,
            address=nic.mac.hex(":"),
            group=LINK_GROUP,
        )


def _create_veth(netns: Path, nic: WantedNic) -> None:
    """Make a pair in one step: a port of the bridge here, the pod's interface in its namespace."""
    known: dict[int, TankError] = {errno.ENODEV: Retry(f"the bridge {nic.parent} has just gone")}
    with (
        Closing(os.open(netns, os.O_RDONLY | os.O_CLOEXEC)) as target,
        explained(f"cannot make {nic.name} in {nic.parent}", known=known),
        route_socket() as route,
    ):
        peer = {
            "ifname": nic.first_name,
            "net_ns_fd": target,
            "address": nic.mac.hex(":"),
            "group": LINK_GROUP,
        }
        for index in route.link_lookup(ifname=nic.port):
            # Of a namespace that the kernel has not yet taken down.
            route.link("del", index=index)
        route.link("add", ifname=nic.port, kind=VETH, group=LINK_GROUP, peer=peer)
    _attach(nic)


def _attach(nic: WantedNic) -> None:
    """Make the machine's end of a pair a port of its bridge, and set it up."""
    known: dict[int, TankError] = {errno.ENODEV: Retry(f"the bridge {nic.parent} has just gone")}
    with explained(f"cannot make {nic.port} a port of {nic.parent}", known=known), route_socket() as route:
        for index in route.link_lookup(ifname=nic.port):
            route.link("set", index=index, master=nic.parent_index, state="up")
            # A pod reaches itself by a port that it publishes also where the bridge's packets are filtered.
            route.brport("set", index=index, mode=1)
    fault.point("network:link-attached")


def _apply_inside(steps: Sequence[Step], attempt: _Attempt) -> None:
    """Do the steps that need only the pod's namespace, which is the calling thread's."""
    refused = attempt.refuse(_lan_conflicts(steps))
    with route_socket() as route:
        for step in steps:
            # An interface that failed gets its other addresses and routes, and loses nothing.
            adds = isinstance(step, AddAddress | AddRoute)
            if step not in refused and (adds or step.interface not in attempt.failures):
                with attempt.at(step.interface):
                    _do(route, step)


def _do(route: Any, step: Step) -> None:
    match step:
        case AddLink(nic=nic):
            _name_link(route, nic)
        case RaiseLink():
            _raise(step)
        case AddAddress():
            _add_address(route, step)
        case RemoveAddress(interface=name, address=address):
            with explained(f"cannot take {text(address.packed)} from {name}", ignore=_GONE):
                route.addr("del", index=address.index, address=text(address.packed), prefixlen=address.prefix)
            fault.point("network:address-removed")
        case AddRoute():
            _add_route(route, step)
        case RemoveRoute(interface=name, route=unwanted):
            with explained(f"cannot remove a default route of {name}", ignore=_GONE):
                route.route("del", **_route_arguments(unwanted), scope=RT_SCOPE_NOWHERE, proto=0)
            fault.point("network:route-removed")
        case SwitchOffIpv6(interface=name):
            with explained(f"cannot switch IPv6 off on {name}"):
                _set_ipv6(name, "disable_ipv6", "1")
            fault.point("network:ipv6-switched-off")


def _name_link(route: Any, nic: WantedNic) -> None:
    """Give a new interface its settings, and then its name, which shows that it is complete."""
    with explained(f"cannot set {nic.name} up"):
        # Only what is in the pod's file: no addresses or routes by router advertisements.
        _set_ipv6(nic.first_name, "accept_ra", "0")
        _set_ipv6(nic.first_name, "autoconf", "0")
        _set_ipv6(nic.first_name, "disable_ipv6", "0" if nic.has_ipv6 else "1")
        fault.point("network:link-configured")
        for index in route.link_lookup(ifname=nic.first_name):
            route.link("set", index=index, ifname=nic.name)
    fault.point("network:link-named")


def _set_ipv6(interface: str, name: str, value: str) -> None:
    # A kernel without IPv6 has nothing to switch off; an IPv6 address fails there with its own error.
    with suppress(FileNotFoundError):
        set_network_sysctl(f"ipv6/conf/{interface}/{name}", value)


def _raise(step: RaiseLink) -> None:
    known: dict[int, TankError] = {}
    if step.nic is not None:
        known[errno.EBUSY] = Retry(
            f"{step.nic.parent} already carries {step.interface}'s MAC address, {step.nic.mac.hex(':')}",
            hint="an old interface of this pod is going away, or another uses its address",
        )
        known[errno.ENETDOWN] = Retry(
            f"{step.nic.parent} is down", hint=f"`ip link set {step.nic.parent} up`"
        )
    with explained(f"cannot set {step.interface} up", known=known):
        raise_link(step.interface)
    fault.point("network:link-up")


def _add_address(route: Any, step: AddAddress) -> None:
    address = text(step.address.packed)
    no_ipv6 = Stalled(f"cannot use {address}: this machine's kernel has no IPv6")
    arguments: dict[str, Any] = {}
    with explained(
        f"cannot give {step.interface} the address {address}",
        ignore=(errno.EEXIST,),
        known={errno.EOPNOTSUPP: no_ipv6, errno.EAFNOSUPPORT: no_ipv6},
    ):
        if len(step.address.packed) != 4:
            _set_ipv6(step.interface, "disable_ipv6", "0")
            # Probed by us already; the kernel's own probe would keep it unusable for a second or two.
            arguments["IFA_FLAGS"] = IFA_F_NODAD
        route.addr(
            "add", index=step.address.index, address=address, prefixlen=step.address.prefix, **arguments
        )
        probe.announce(_target(step))
    fault.point("network:address-added")


def _add_route(route: Any, step: AddRoute) -> None:
    gateway = ipaddress.ip_address(step.route.gateway)
    arguments = _route_arguments(step.route)
    if not any(gateway in ipaddress.ip_network(prefix, strict=False) for prefix in step.nic.addresses):
        # A router outside our prefix, as with a /32, is marked as on the link.
        arguments["flags"] = RTNH_F_ONLINK
    with explained(f"cannot route through {gateway} on {step.interface}", ignore=(errno.EEXIST,)):
        route.route("add", **arguments)
    fault.point("network:route-added")


def _route_arguments(route: DefaultRoute) -> dict[str, Any]:
    gateway = {"gateway": text(route.gateway)} if route.gateway else {}
    return {"family": route.family, "dst": "default", "oif": route.index, "priority": route.metric, **gateway}


def _target(step: AddAddress) -> probe.Target:
    return probe.Target(step.address.index, step.nic.mac, step.address.packed)


def _lan_conflicts(steps: Sequence[Step]) -> dict[AddAddress, TankError]:
    """Ask the LAN for the addresses that are to be added, and return an error for each that is taken."""
    # Addresses in a bridge are leased: nobody else has them.
    additions = [step for step in steps if isinstance(step, AddAddress) and not step.nic.is_bridged]
    if not additions:
        return {}
    with explained("cannot ask the network whether an address is free"):
        holders = probe.holders([_target(step) for step in additions])
    fault.point("network:probed")
    return {
        step: Retry(
            f"the address {text(step.address.packed)} is taken:"
            f" {holder.hex(':')} on {step.nic.parent} has it",
            hint="give the pod another address, or take it from the other machine",
        )
        for step in additions
        if (holder := holders.get(step.address.packed))
    }


def _local_conflicts(
    steps: Sequence[Step], claimed: Mapping[tuple[int, bytes], str]
) -> dict[AddAddress, TankError]:
    """Return an error for each address that the host has, or that another of its pods is about to use.

    The host would not answer a probe from its own macvlan.
    """
    additions = [step for step in steps if isinstance(step, AddAddress)]
    if not additions:
        return {}
    own = rtnetlink.own_addresses()
    conflicts: dict[AddAddress, TankError] = {}
    for step in additions:
        address = f"the address {text(step.address.packed)}"
        if step.address.packed in own:
            conflicts[step] = Stalled(
                f"{address} is this machine's own, on {socket.if_indextoname(own[step.address.packed])}",
                hint='give the pod another address, or use network = "host"',
            )
        elif step.claim in claimed:
            conflicts[step] = Retry(
                f"{address} is taken: pod {claimed[step.claim]} is about to use it",
                hint="give one of the two another address",
            )
    return conflicts
