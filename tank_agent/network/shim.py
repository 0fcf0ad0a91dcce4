"""This machine's way to its own pods on the LAN, and theirs to it: `host_access` in agent.toml.

The kernel hands nothing from a macvlan interface to the one that it lies on. So the machine gets a macvlan
interface of its own there, `tank2` on the interface with number 2, and sends by it what is for its pods.

The LAN must not notice: other machines would take the new interface's MAC address for the machine's, and keep
it when it has gone. So it has no address, and asks and answers nothing (IFF_NOARP). Each side is told the
other's MAC address instead: neighbours that stay, set here and in the pods.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tank_agent.errors import Stalled, TankError
from tank_agent.linux import fault
from tank_agent.linux.namespaces import IFF_UP, in_network_namespace, set_network_sysctl
from tank_agent.network import rtnetlink
from tank_agent.network.convergence import is_ours
from tank_agent.network.host_facts import HostFacts
from tank_agent.network.nics import explained, route_socket
from tank_agent.network.rtnetlink import Address, HostRoute, Link, Neighbour, text
from tank_agent.network.wanted import LINK_GROUP, LINK_KIND, WantedNic, stable_mac, wanted_nics
from tank_agent.spec.model import Network

# linux/if.h
IFF_NOARP = 0x80
_READY = IFF_UP | IFF_NOARP
# No link-local address, and none that a router offers.
_QUIET = {"addr_gen_mode": "1", "accept_ra": "0", "autoconf": "0"}


class _Way(NamedTuple):
    """A pod's address, the MAC address that has it, and the machine's own address that it sees."""

    packed: bytes
    mac: bytes
    source: bytes


class HostAccess:
    """Makes, heals and removes the interfaces to pods on the LAN. Any thread may call it.

    The machine's network is that of the calling thread. While it is off, and nothing is left of when it was
    on, no call asks the kernel anything.

    Args:
        netns: the directory of the pods' pinned namespaces.
        host: finds the uplink, for pods that name no parent.
        enabled: the setting; `enabled` may be set anew any time, and counts with the next `ensure`.
    """

    def __init__(self, netns: Path, host: HostFacts, *, enabled: bool) -> None:
        self.enabled = enabled
        self._netns, self._host = netns, host
        self._lock = threading.Lock()
        self._networks: dict[str, Network] = {}
        self._nics: dict[str, tuple[WantedNic, ...]] = {}
        self._senders: Mapping[str, str] = {}
        # A former agent may have left some.
        self._any_left = True

    def note(self, pod: str, network: Network | None) -> bool:
        """Remember the network that a pod has now, if any; return whether it is or was on the LAN."""
        with self._lock:
            self._nics.pop(pod, None)
            was = self._networks.pop(pod, None) is not None
            if network is None or network.mode != "nics":
                return was
            self._networks[pod] = network
        return True

    def ensure(self, only: str | None = None) -> tuple[str, ...]:
        """Make all that the setting asks for, and remove what it does not; return what was not so before.

        With `only`, of what is inside of pods only that of this one.

        Raises:
            Stalled, Retry: the kernel refuses it; all else is done.
        """
        if not self._any_left and not (self.enabled and self._networks):
            return ()
        with self._lock, rtnetlink.open_socket() as netlink:
            links = {link.index: link for link in rtnetlink.read_links(netlink)}
            ours = {link.parent: link for link in links.values() if self._is_ours(link)}
            nics = {pod: list(self._of(pod, links)) for pod in self._networks} if self.enabled else {}
            if not ours and not any(nics.values()):
                self._any_left, self._senders = False, {}
                return ()
            addresses = [a for a in rtnetlink.read_addresses(netlink) if not _is_link_local(a.packed)]
            wanted = _ways([nic for each in nics.values() for nic in each], addresses)
            changed: list[str] = []
            failures: list[TankError] = []
            for parent, ways in wanted.items():
                try:
                    changed += self._lead(netlink, links[parent], ours.get(parent), ways)
                except TankError as error:
                    failures.append(error)
            for pod in self._networks if only is None or not wanted else [only]:
                try:
                    changed += self._tell(pod, nics.get(pod, []), addresses, wanted.keys() | ours.keys())
                except TankError as error:
                    failures.append(error)
            # At last: as long as one is there, the next agent knows that pods may know it, too.
            for parent in ours.keys() - wanted.keys():
                _remove(ours[parent])
                changed.append(f"{ours[parent].name} was not needed")
            self._any_left = bool(wanted)
            first = {a.index: a.packed for a in reversed(addresses) if len(a.packed) == 4}
            self._senders = {self._name(each): text(first[each]) for each in wanted if each in first}
        if failures:
            raise failures[0]
        return tuple(changed)

    def senders(self) -> Mapping[str, str]:
        """Return the machine's IPv4 address to which pods answer, by the interface to them."""
        return self._senders

    def _of(self, pod: str, links: Mapping[int, Link]) -> Iterator[WantedNic]:
        """Yield a pod's interfaces that lie on one of the machine's now."""
        known = self._nics.get(pod)
        if known is None:
            with suppress(TankError):
                known = wanted_nics(pod, self._networks[pod], self._host)
            if known is not None and all(nic.parent_index for nic in known):
                self._nics[pod] = known
        yield from (nic for nic in known or () if nic.parent_index in links)

    def _name(self, parent: int) -> str:
        return f"tank{parent}"

    def _mac(self, parent: int) -> bytes:
        # Another agent on this machine has other directories, and interfaces of its own.
        return stable_mac(str(self._netns), self._name(parent))

    def _is_ours(self, link: Link) -> bool:
        return link.kind == LINK_KIND and link.group == LINK_GROUP and link.mac == self._mac(link.parent)

    def _lead(
        self, netlink: socket.socket, parent: Link, link: Link | None, ways: Collection[_Way]
    ) -> Iterator[str]:
        """Make the interface on one of the machine's, and the ways through it."""
        if link is None or link.flags & _READY != _READY:
            yield f"{self._name(parent.index)} was not there, or not as it should be"
            index = self._make(parent, link)
        else:
            index = link.index
        set_neighbours = {Neighbour(index, way.packed, way.mac) for way in ways}
        set_routes = {HostRoute(way.packed, way.source) for way in ways}
        name = self._name(parent.index)
        neighbours = set(rtnetlink.read_neighbours(netlink, index))
        routes = set(rtnetlink.read_host_routes(netlink, index))
        if neighbours == set_neighbours and routes == set_routes:
            return
        with route_socket() as route:
            for each in set_neighbours - neighbours:
                _set_neighbour(route, each, name)
            for path in set_routes - routes:
                yield f"{name} did not lead to {text(path.packed)}"
                with explained(f"cannot route to {text(path.packed)} through {name}"):
                    route.route("replace", **_route(index, path))
                fault.point("network:shim-routed")
            kept = {way.packed for way in ways}
            for path in routes - set_routes:
                if path.packed not in kept:
                    yield f"{name} led to {text(path.packed)}"
                    with explained(f"cannot remove a route from {name}", ignore=(errno.ESRCH,)):
                        route.route("del", **_route(index, path))
            for each in neighbours - set_neighbours:
                if each.packed not in kept:
                    _remove_neighbour(route, each, name)

    def _make(self, parent: Link, link: Link | None) -> int:
        name = self._name(parent.index)
        taken: dict[int, TankError] = {
            errno.EEXIST: Stalled(
                f"this machine has an interface {name} already, and this agent did not make it",
                hint=f"`ip link del {name}` if nobody needs it",
            )
        }
        with explained(f"cannot make {name} on {parent.name}", known=taken), route_socket() as route:
            if link is None:
                route.link(
                    "add",
                    ifname=name,
                    kind=LINK_KIND,
                    macvlan_mode="bridge",
                    link=parent.index,
                    address=self._mac(parent.index).hex(":"),
                    group=LINK_GROUP,
                    flags=IFF_NOARP,
                    change=IFF_NOARP,
                )
                fault.point("network:shim-made")
            else:
                name = link.name
            for setting, value in _QUIET.items():
                with suppress(FileNotFoundError):
                    set_network_sysctl(f"ipv6/conf/{name}/{setting}", value)
            index = socket.if_nametoindex(name)
            route.link("set", index=index, flags=_READY, change=_READY)
        fault.point("network:shim-up")
        return index

    def _tell(
        self, pod: str, nics: Collection[WantedNic], addresses: Collection[Address], parents: Collection[int]
    ) -> Iterator[str]:
        """Tell a pod the MAC address of this machine's addresses in its networks."""
        path = self._netns / pod
        try:
            netlink = in_network_namespace(path, rtnetlink.open_socket)
        except OSError:
            # It has just gone, or its pin: then it is made again, and told.
            return
        with netlink:
            links = {link.name: link.index for link in rtnetlink.read_links(netlink) if is_ours(link)}
            told = set(rtnetlink.read_neighbours(netlink))
        wanted = {
            Neighbour(links[nic.name], packed, self._mac(nic.parent_index))
            for nic in nics
            if nic.name in links
            for packed in _on_link(nic, addresses)
        }
        macs = {self._mac(parent) for parent in parents}
        stale = {each for each in told - wanted if each.mac in macs}
        if not stale and wanted <= told:
            return
        yield f"pod {pod} did not know this machine's MAC address"
        in_network_namespace(path, lambda: _tell(wanted - told, stale, pod))


def _tell(new: Collection[Neighbour], stale: Collection[Neighbour], pod: str) -> None:
    with route_socket() as route:
        for each in stale:
            _remove_neighbour(route, each, f"pod {pod}")
        for each in new:
            _set_neighbour(route, each, f"pod {pod}")
            fault.point("network:shim-told")


def _ways(nics: Collection[WantedNic], addresses: Collection[Address]) -> dict[int, list[_Way]]:
    """Return the ways to pods by the machine's interface that they lie on, if it has an address there."""
    found: dict[int, list[_Way]] = {}
    for nic in nics:
        for packed, _ in nic.addresses:
            source = _source(packed, [a for a in addresses if a.index == nic.parent_index])
            if source is not None:
                found.setdefault(nic.parent_index, []).append(_Way(packed, nic.mac, source))
    return found


def _source(packed: bytes, own: Collection[Address]) -> bytes | None:
    """Return the machine's address for a pod's: in its network, else the first of its family."""
    family = [address for address in own if len(address.packed) == len(packed)]
    near = (a for a in family if _contains(a.packed, a.prefix, packed))
    return next((address.packed for address in [*near, *family]), None)


def _on_link(nic: WantedNic, addresses: Collection[Address]) -> Iterator[bytes]:
    """Yield the machine's addresses, on the interface that a pod's lies on, which the pod asks for itself."""
    for address in addresses:
        if address.index == nic.parent_index and any(
            _contains(packed, prefix, address.packed) for packed, prefix in nic.addresses
        ):
            yield address.packed


def _contains(packed: bytes, prefix: int, other: bytes) -> bool:
    if len(packed) != len(other):
        return False
    shift = 8 * len(packed) - prefix
    return int.from_bytes(packed, "big") >> shift == int.from_bytes(other, "big") >> shift


def _is_link_local(packed: bytes) -> bool:
    return ipaddress.ip_address(packed).is_link_local


def _remove(link: Link) -> None:
    with explained(f"cannot remove {link.name}", ignore=(errno.ENODEV,)), route_socket() as route:
        route.link("del", index=link.index)
    fault.point("network:shim-removed")


def _route(index: int, path: HostRoute) -> dict[str, object]:
    source = {"prefsrc": text(path.source)} if path.source else {}
    return {"dst": f"{text(path.packed)}/{8 * len(path.packed)}", "oif": index, "scope": 253, **source}


def _set_neighbour(route: Any, each: Neighbour, where: str) -> None:
    with explained(f"cannot set the MAC address of {text(each.packed)} in {where}"):
        route.neigh(
            "replace",
            dst=text(each.packed),
            lladdr=each.mac.hex(":"),
            ifindex=each.index,
            state=rtnetlink.NUD_PERMANENT,
        )


def _remove_neighbour(route: Any, each: Neighbour, where: str) -> None:
    what = f"cannot remove the MAC address of {text(each.packed)} in {where}"
    with explained(what, ignore=(errno.ENOENT, errno.ENODEV)):
        route.neigh("del", dst=text(each.packed), lladdr=each.mac.hex(":"), ifindex=each.index)
