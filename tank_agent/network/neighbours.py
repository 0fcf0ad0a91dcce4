"""Pods that reach each other without a router, and their addresses: of one bridge, or of one LAN.

Both stay while a pod is down, since its addresses stay its own: the leases of bridges, and what the files say
of the LAN.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterable

from tank_agent.network.addresses import Leases, Network
from tank_agent.spec.model import Pod

# Names of pods, each with its addresses without prefix.
Named = tuple[tuple[str, tuple[str, ...]], ...]


class Neighbours:
    """Knows the addresses of pods by name. Any thread may call it.

    What pods of one bridge or LAN have in common is found once for all of them, since each pod that comes
    or goes concerns all.

    Args:
        leases: the addresses in bridges.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._lock = threading.Lock()
        self._on_lan: dict[str, tuple[str, ...]] = {}
        self._lan_version = 0
        self._cache_version = -1
        self._cache: dict[object, dict[str, tuple[str, ...]]] = {}

    @property
    def version(self) -> int:
        """Return a number that is another whenever `of` may return another answer for some pod."""
        return self._leases.version + self._lan_version

    def note(self, pods: Iterable[Pod]) -> None:
        """Remember the addresses that pods have on the LAN."""
        for pod in pods:
            self._note(pod.name, _lan_addresses(pod))

    def forget(self, pod: str) -> None:
        """Forget a pod's addresses on the LAN."""
        self._note(pod, ())

    def of(self, pod: Pod) -> Named:
        """Return the pods that a pod reaches, with the addresses by which it does."""
        if pod.network.mode == "nics":
            found = self._on_same_lan(pod)
        elif len(pod.network.bridges) == 1:
            found = self._in_bridge(pod.network.bridges[0])
        else:
            # Of a pod in two common bridges, the addresses in the first of them.
            found = {}
            for bridge in reversed(pod.network.bridges):
                found.update(self._in_bridge(bridge))
        return tuple(item for item in found.items() if item[0] != pod.name)

    def _note(self, pod: str, addresses: tuple[str, ...]) -> None:
        with self._lock:
            if self._on_lan.get(pod, ()) == addresses:
                return
            self._lan_version += 1
            self._on_lan[pod] = addresses
            if not addresses:
                del self._on_lan[pod]

    def _in_bridge(self, bridge: str) -> dict[str, tuple[str, ...]]:
        return self._cached(bridge, lambda: self._leases.neighbours(bridge))

    def _on_same_lan(self, pod: Pod) -> dict[str, tuple[str, ...]]:
        networks = tuple(ipaddress.ip_interface(address).network for address in _lan_addresses(pod))
        return self._cached(networks, lambda: self._lan_seen_from(networks))

    def _lan_seen_from(self, networks: tuple[Network, ...]) -> dict[str, tuple[str, ...]]:
        """Return what pods have in these networks; of one that has nothing there, all."""
        with self._lock:
            pods = sorted(self._on_lan.items())
        found = {}
        for pod, addresses in pods:
            near = tuple(a for a in addresses if any(ipaddress.ip_interface(a).ip in n for n in networks))
            found[pod] = near or addresses
        return found

    def _cached(
        self, key: object, find: Callable[[], dict[str, tuple[str, ...]]]
    ) -> dict[str, tuple[str, ...]]:
        # Before the look: a change meanwhile counts as another version.
        version = self.version
        with self._lock:
            if version != self._cache_version:
                self._cache, self._cache_version = {}, version
            known = self._cache.get(key)
        if known is None:
            known = {pod: tuple(a.partition("/")[0] for a in addresses) for pod, addresses in find().items()}
            with self._lock:
                if version == self._cache_version:
                    self._cache[key] = known
        return known


def _lan_addresses(pod: Pod) -> tuple[str, ...]:
    return tuple(address for nic in pod.network.nics for address in nic.ip)
