"""Pods that reach each other without a router, by their names and aliases: of one bridge, or of one LAN.

All of it stays while a pod is down, since its addresses stay its own: the leases of bridges, and what the
files say of the LAN.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tank_agent.network.addresses import Leases, Network
from tank_agent.network.aliases import Alias, Aliases, Claims
from tank_agent.spec.model import Pod

# Names and aliases of pods, each with the addresses without prefix.
Named = tuple[tuple[str, tuple[str, ...]], ...]
T = TypeVar("T")
_NOTHING: Mapping[str, Claims] = {}


class Neighbours:
    """Knows the addresses of pods by name. Any thread may call it.

    What pods of one bridge or LAN have in common is found once for all of them, since each pod that comes
    or goes concerns all.

    Args:
        leases: the addresses in bridges.
        aliases: those that the journal knows, by pod.
    """

    def __init__(self, leases: Leases, aliases: Mapping[str, Claims] = _NOTHING) -> None:
        self._leases = leases
        self.aliases = Aliases(aliases)
        self._lock = threading.Lock()
        self._on_lan: dict[str, tuple[str, ...]] = {}
        self._host_names: dict[str, str] = {}
        self._lan_version = 0
        self._cache_version = -1
        self._cache: dict[object, Any] = {}

    @property
    def version(self) -> int:
        """Return a number that is another whenever `of` may return another answer for some pod."""
        return self._leases.version + self._lan_version + self.aliases.version

    def note(self, pods: Iterable[Pod]) -> None:
        """Remember the further names of pods, and the addresses that they have on the LAN."""
        for pod in pods:
            self._note(pod.name, _lan_addresses(pod))
            self._host_names[pod.name] = pod.hostname
            self.aliases.note(pod.name, _further_names(pod))

    def forget(self, pod: str) -> None:
        """Forget a pod's further names, and its addresses on the LAN."""
        self._host_names.pop(pod, None)
        self._note(pod, ())
        self.aliases.note(pod, ())

    def of(self, pod: Pod) -> Named:
        """Return the pods that a pod reaches, with the addresses by which it does, and then their aliases."""
        if pod.network.mode == "nics":
            found = self._on_same_lan(pod)
        elif len(pod.network.bridges) == 1:
            found = self._in_bridge(pod.network.bridges[0])
        else:
            # Of a pod in two common bridges, the addresses in the first of them.
            found = {}
            for bridge in reversed(pod.network.bridges):
                found.update(self._in_bridge(bridge))
        named = tuple(item for item in found.items() if item[0] != pod.name)
        further = self._aliases_beside(pod)
        return (*named, *(item for key, item in further.items() if key not in found))

    def own_aliases(self, pod: Pod) -> tuple[str, ...]:
        """Return the aliases of a pod that lead to it in one of its bridges at least."""
        if not pod.network.aliases:
            return ()
        led = {alias for bridge in pod.network.bridges for alias in self._aliases_in(bridge).values()}
        return tuple(name for name in pod.network.aliases if Alias(name, pod.name) in led)

    def warnings(self, pod: str) -> Iterator[str]:
        """Yield a sentence for each alias of a pod that leads to another one, as its host name may."""
        claims, host_name = self.aliases.of(pod), self._host_names.get(pod)
        for bridge in self._leases.of(pod) if claims else ():
            pods, aliases = self._in_bridge(bridge), self._aliases_in(bridge)
            for name in claims:
                alias, word = aliases.get(name.lower()), "hostname" if name == host_name else "alias"
                if name.lower() in pods:
                    yield f"{word} {name} leads to pod {name.lower()} in bridge {bridge}, whose name it is"
                elif alias is not None and alias.pod != pod:
                    yield f"{word} {name} leads to pod {alias.pod} in bridge {bridge}, which named it before"

    def _aliases_beside(self, pod: Pod) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Return the aliases of a pod's neighbours in bridges, with addresses, by the name in lower case.

        Of one that leads elsewhere in another of its bridges, what it is in the first of these.
        """
        found: dict[str, tuple[str, tuple[str, ...]]] = {}
        for bridge in reversed(pod.network.bridges):
            pods = self._in_bridge(bridge)
            for key, (name, owner) in self._aliases_in(bridge).items():
                # A pod may have gone between the two looks.
                if owner != pod.name and owner in pods:
                    found[key] = (name, pods[owner])
        return found

    def _aliases_in(self, bridge: str) -> dict[str, Alias]:
        return self._cached(("aliases", bridge), lambda: self.aliases.in_bridge(self._in_bridge(bridge)))

    def _note(self, pod: str, addresses: tuple[str, ...]) -> None:
        with self._lock:
            if self._on_lan.get(pod, ()) == addresses:
                return
            self._lan_version += 1
            self._on_lan[pod] = addresses
            if not addresses:
                del self._on_lan[pod]

    def _in_bridge(self, bridge: str) -> dict[str, tuple[str, ...]]:
        return self._cached(bridge, lambda: _plain(self._leases.neighbours(bridge)))

    def _on_same_lan(self, pod: Pod) -> dict[str, tuple[str, ...]]:
        networks = tuple(ipaddress.ip_interface(address).network for address in _lan_addresses(pod))
        return self._cached(networks, lambda: _plain(self._lan_seen_from(networks)))

    def _lan_seen_from(self, networks: tuple[Network, ...]) -> dict[str, tuple[str, ...]]:
        """Return what pods have in these networks; of one that has nothing there, all."""
        with self._lock:
            pods = sorted(self._on_lan.items())
        found = {}
        for pod, addresses in pods:
            near = tuple(a for a in addresses if any(ipaddress.ip_interface(a).ip in n for n in networks))
            found[pod] = near or addresses
        return found

    def _cached(self, key: object, find: Callable[[], T]) -> T:
        # Before the look: a change meanwhile counts as another version.
        version = self.version
        with self._lock:
            if version != self._cache_version:
                self._cache, self._cache_version = {}, version
            known: T | None = self._cache.get(key)
        if known is None:
            known = find()
            with self._lock:
                if version == self._cache_version:
                    self._cache[key] = known
        return known


def _plain(found: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {pod: tuple(a.partition("/")[0] for a in addresses) for pod, addresses in found.items()}


def _further_names(pod: Pod) -> tuple[str, ...]:
    """Return the names in bridges that a pod has besides its own: host name, as in docker, and aliases."""
    own = pod.hostname
    named = own and pod.network.bridges and own.lower() != pod.name
    return (own, *pod.network.aliases) if named else pod.network.aliases


def _lan_addresses(pod: Pod) -> tuple[str, ...]:
    return tuple(address for nic in pod.network.nics for address in nic.ip)
