"""Aliases: further names of pods in their bridges, and the pod that each of them leads to.

In a bridge, a name leads to one pod. A pod's own name comes before any alias; of two pods with one alias, the
one that named it first has it, until it is gone or names it no more.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

# A pod's aliases, each with its place in the order in which those of all pods were named.
Claims = Mapping[str, int]


class Alias(NamedTuple):
    """A name as its pod writes it, and that pod."""

    name: str
    pod: str


class Aliases:
    """Remembers who named which alias, and in which order. Any thread may call it.

    Args:
        known: the claims in the journal, by pod.
    """

    def __init__(self, known: Mapping[str, Claims]) -> None:
        self._lock = threading.Lock()
        self._pods = {pod: dict(claims) for pod, claims in known.items() if claims}
        # Another number whenever an alias may lead elsewhere.
        self.version = 0

    def of(self, pod: str) -> dict[str, int]:
        """Return the claims of a pod."""
        with self._lock:
            return dict(self._pods.get(pod, {}))

    def note(self, pod: str, names: Sequence[str]) -> None:
        """Remember the aliases that a pod names now; what it named before keeps its place."""
        with self._lock:
            had = self._pods.get(pod, {})
            if [*had] == [*names]:
                return
            self.version += 1
            places = {name.lower(): place for name, place in had.items()}
            last = max((place for claims in self._pods.values() for place in claims.values()), default=0)
            self._pods[pod] = {
                name: places.get(name.lower(), last + at) for at, name in enumerate(names, start=1)
            }
            if not names:
                del self._pods[pod]

    def in_bridge(self, pods: Collection[str]) -> dict[str, Alias]:
        """Return the aliases of the pods in one bridge, by the name in lower case: case does not matter."""
        with self._lock:
            claims = [
                (place, Alias(name, pod)) for pod in pods for name, place in self._pods.get(pod, {}).items()
            ]
        found: dict[str, Alias] = {}
        for _, alias in sorted(claims):
            if alias.name.lower() not in pods:
                found.setdefault(alias.name.lower(), alias)
        return found
