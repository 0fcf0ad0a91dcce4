"""Addresses that pods of this agent are about to use.

Two that ask the LAN for one address at the same moment would each take the other's question for a holder, and
after the same wait ask together again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tank_agent.network.convergence import AddAddress

# The index of the parent interface, whose LAN it is, and the address.
Claim = tuple[int, bytes]


def claim(step: AddAddress) -> Claim:
    """Return what a step that adds an address asks for."""
    return step.nic.parent_index, step.packed


class Claims:
    """Who asks for which addresses now: who asks first may, others are refused until it has them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pods: dict[Claim, str] = {}

    @contextmanager
    def held(self, pod: str, wanted: Iterable[Claim]) -> Iterator[dict[Claim, str]]:
        """Hold what no other pod holds, and yield which pods hold the rest."""
        claims = set(wanted)
        with self._lock:
            others = {claim: self._pods[claim] for claim in claims if claim in self._pods}
            own = claims - others.keys()
            self._pods.update(dict.fromkeys(own, pod))
        try:
            yield others
        finally:
            with self._lock:
                for claim in own:
                    del self._pods[claim]
