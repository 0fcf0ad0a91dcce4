"""Addresses of pods in bridges: for each bridge a network out of one pool, in it an address for each pod.

A lease lasts as long as the pod: over restarts, edits and reboots, for which the journal keeps it. The
networks of a bridge are those of its leases, so they are free again when the last pod has left it.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from msgspec import Struct

from tank_agent.errors import Stalled

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
# A pod's addresses in one bridge with prefix, such as ("10.89.0.5/24", "fd00::5/64"): one a family.
Lease = tuple[str, ...]

# A link has 64 bits for hosts (RFC 4291, section 2.5.1); a site's /48 has room for 65,536 of them.
IPV6_PREFIX = 64


class Pool(NamedTuple):
    """Where the networks of bridges come from; `prefix` is the length of one in `ipv4`."""

    ipv4: ipaddress.IPv4Network = ipaddress.IPv4Network("10.89.0.0/16")
    prefix: int = 24
    ipv6: ipaddress.IPv6Network | None = None

    @property
    def parts(self) -> dict[int, tuple[Network, int]]:
        """Return the pool of each IP version, with the length of a bridge's network in it."""
        found: dict[int, tuple[Network, int]] = {4: (self.ipv4, self.prefix)}
        if self.ipv6 is not None:
            found[6] = (self.ipv6, max(IPV6_PREFIX, self.ipv6.prefixlen))
        return found


class ForeignNetwork(Struct, frozen=True):
    """A network that this machine has elsewhere, and the interface where."""

    network: str
    interface: str


class Leases:
    """Gives pods their addresses. Any thread may call it.

    Args:
        pool: where they come from.
        known: the leases in the journal, by pod and bridge. One that is not of the pool, or whose address is
            another pod's already, counts as never given.
        foreign: returns the networks that this machine has elsewhere: none of ours may overlap one.
    """

    def __init__(
        self,
        pool: Pool,
        known: Mapping[str, Mapping[str, Lease]],
        foreign: Callable[[], Iterable[ForeignNetwork]],
    ) -> None:
        self._pool, self._foreign = pool, foreign
        self._lock = threading.Lock()
        self._pods: dict[str, dict[str, Lease]] = {}
        # Counts the changes, so that who has read all of them knows that there are no others.
        self.version = 0
        self._bridges: dict[str, _Bridge] = {}
        for pod, leases in sorted(known.items()):
            self._take_over(pod, leases)

    def restore(self, pod: str, leases: Mapping[str, Lease]) -> None:
        """Take over what a pod has that the journal does not know; what it may not have, it will lose."""
        with self._lock:
            if pod not in self._pods:
                self.version += 1
                self._take_over(pod, leases)

    def _take_over(self, pod: str, leases: Mapping[str, Lease]) -> None:
        restored = {bridge: self._restore(bridge, lease) for bridge, lease in leases.items()}
        if kept := {bridge: lease for bridge, lease in restored.items() if lease}:
            self._pods[pod] = kept

    def of(self, pod: str) -> dict[str, Lease]:
        """Return a pod's leases by bridge."""
        with self._lock:
            return dict(self._pods.get(pod, {}))

    def networks(self) -> dict[str, tuple[str, ...]]:
        """Return the networks of all bridges in which a pod has a lease; IPv4 comes first."""
        with self._lock:
            return {
                name: tuple(str(network) for _, network in sorted(bridge.networks.items()))
                for name, bridge in self._bridges.items()
            }

    def neighbours(self, bridge: str) -> dict[str, Lease]:
        """Return the lease of every pod in a bridge."""
        with self._lock:
            return {pod: leases[bridge] for pod, leases in sorted(self._pods.items()) if bridge in leases}

    def give(self, pod: str, bridges: Sequence[str]) -> dict[str, Lease]:
        """Return a pod's leases: in these bridges, in their order, and then what it has in others.

        Those it keeps until `keep_only`, since its interfaces are still there.

        Raises:
            Stalled: a bridge is full, or all of the pool is in use; the pod then has what it had.
        """
        foreign = list(self._foreign()) if self.lacks(pod, bridges) else []
        with self._lock:
            had = self._pods.get(pod, {})
            given: dict[str, Lease] = {}
            try:
                for name in bridges:
                    given[name] = self._bridge(name, foreign).give(name, had.get(name, ()))
            except Stalled:
                new = {name: tuple(sorted({*lease} - {*had.get(name, ())})) for name, lease in given.items()}
                self._take(new)
                raise
            finally:
                self._remove_empty()
            given |= {name: lease for name, lease in had.items() if name not in given}
            if list(given.items()) != list(had.items()):
                self.version += 1
                self._pods[pod] = given
            return dict(given)

    def lacks(self, pod: str, bridges: Sequence[str]) -> bool:
        """Return whether a pod has no address, or not one of each family, in one of these bridges."""
        families = len(self._pool.parts)
        with self._lock:
            had = self._pods.get(pod, {})
            return any(len(had.get(name, ())) < families for name in bridges)

    def keep_only(self, pod: str, bridges: Collection[str]) -> frozenset[str]:
        """Take back what a pod has in other bridges than these; return the bridges that it leaves empty."""
        with self._lock:
            had = self._pods.get(pod, {})
            left = {name: lease for name, lease in had.items() if name not in bridges}
            if not left:
                return frozenset()
            self.version += 1
            self._pods[pod] = {name: lease for name, lease in had.items() if name not in left}
            if not self._pods[pod]:
                del self._pods[pod]
            self._take(left)
            self._remove_empty()
            return frozenset(left.keys() - self._bridges.keys())

    def _take(self, leases: Mapping[str, Lease]) -> None:
        for name, lease in leases.items():
            self._bridges[name].used.difference_update(ipaddress.ip_interface(text).ip for text in lease)

    def _remove_empty(self) -> None:
        self._bridges = {name: bridge for name, bridge in self._bridges.items() if bridge.used}

    def _bridge(self, name: str, foreign: Sequence[ForeignNetwork]) -> _Bridge:
        bridge = self._bridges.setdefault(name, _Bridge())
        for version, (pool, prefix) in self._pool.parts.items():
            if version not in bridge.networks:
                used = [
                    other.networks[version] for other in self._bridges.values() if version in other.networks
                ]
                bridge.networks[version] = _free_network(pool, prefix, used, foreign)
        return bridge

    def _restore(self, name: str, lease: Lease) -> Lease:
        bridge = self._bridges.get(name) or _Bridge()
        others = [other for other in self._bridges.values() if other is not bridge]
        valid: list[str] = []
        for interface in _parsed(lease):
            version, network = interface.version, interface.network
            if (
                self._is_of_pool(interface)
                and bridge.networks.get(version, network) == network
                and interface.ip not in bridge.used
                and all(other.networks.get(version) != network for other in others)
                and all(ipaddress.ip_interface(text).version != version for text in valid)
            ):
                bridge.networks[version] = network
                bridge.used.add(interface.ip)
                valid.append(str(interface))
        if valid:
            self._bridges[name] = bridge
        return tuple(valid)

    def _is_of_pool(self, interface: Interface) -> bool:
        """Return whether an address with prefix is one that a pod may have, as the pool is now."""
        pool, prefix = self._pool.parts.get(interface.version, (None, 0))
        network = interface.network
        if pool is None or network.prefixlen != prefix or not network.subnet_of(pool):  # type: ignore[arg-type]
            return False
        return interface.ip not in (network[0], network[1], network[-1])


class _Bridge:
    """The networks of a bridge by IP version, and the addresses in them that pods have."""

    def __init__(self) -> None:
        self.networks: dict[int, Network] = {}
        self.used: set[Address] = set()

    def give(self, name: str, had: Lease) -> Lease:
        """Return one address of each network: what a pod had there, else the lowest that is free."""
        kept = {int(interface.version): interface for interface in map(ipaddress.ip_interface, had)}
        given = []
        for version, network in sorted(self.networks.items()):
            interface = kept.get(version)
            address = interface.ip if interface is not None else next(self._free(network), None)
            if address is None:
                raise Stalled(
                    f"bridge {name} is full: every address of {network} is in use",
                    hint="use several bridges, or a smaller `prefix` in [network.bridge] of agent.toml",
                )
            given.append((address, network.prefixlen))
        self.used.update(address for address, _ in given)
        return tuple(f"{address}/{prefix}" for address, prefix in given)

    def _free(self, network: Network) -> Iterator[Address]:
        # The first is this machine's own, as every pod's gateway.
        hosts: Iterator[Address] = islice(network.hosts(), 1, None)
        return (address for address in hosts if address not in self.used)


def gateway(network: str) -> str:
    """Return the address that this machine has in a bridge's network: the first."""
    return str(next(iter(ipaddress.ip_network(network).hosts())))


def _free_network(
    pool: Network, prefix: int, used: Iterable[Network], foreign: Sequence[ForeignNetwork]
) -> Network:
    taken = set(used)
    elsewhere = [(ipaddress.ip_network(each.network, strict=False), each) for each in foreign]
    in_the_way = [
        (network, each)
        for network, each in elsewhere
        if network.version == pool.version and network.prefixlen
    ]
    for network in pool.subnets(new_prefix=prefix):
        if network not in taken and not any(network.overlaps(other) for other, _ in in_the_way):
            return network
    overlaps = [(network.prefixlen, each) for network, each in in_the_way if network.overlaps(pool)]
    # The largest, which takes most of the pool.
    overlapping = min(overlaps, key=itemgetter(0))[1] if overlaps else None
    why = (
        f"{overlapping.network} is on {overlapping.interface}"
        if overlapping
        else "every network of it has a bridge"
    )
    raise Stalled(
        f"no network is left in {pool} for another bridge: {why}",
        hint="choose another `pool` in [network.bridge] of agent.toml",
    )


def _parsed(lease: Lease) -> Iterator[Interface]:
    for text in lease:
        with suppress(ValueError):
            yield ipaddress.ip_interface(text)
