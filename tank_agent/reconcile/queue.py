"""A work queue keyed by pod, with the rules of client-go's.

Two workers never have the same pod, all requests for a pod are one piece of work, and a request during the
work is served after it. Of delayed requests, the earliest per pod counts.

Requests have ranks, so that a flood of one kind delays the others only for a moment: an exit goes before a
change, and a change before another look. Every few turns, the pod that waits longest is served, so that pods
that never come to rest starve no rank.
"""

from __future__ import annotations

import enum
import heapq
import threading
from collections import OrderedDict
from collections.abc import Callable

# In one of so many turns, the pod that waits longest is served.
_TURN_OF_THE_OLDEST = 4
_TIDY_ABOVE = 64


class Rank(enum.IntEnum):
    """The urgency of a request; of several for a pod, the most urgent counts."""

    ENDED = 0
    CHANGED = 1
    AGAIN = 2


class WorkQueue:
    """Hands pods to workers; delays are measured with the clock `monotonic`, in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._changed = threading.Condition()
        # The number of the request with which each pod began to wait.
        self._ready: tuple[OrderedDict[str, int], ...] = tuple(OrderedDict() for _ in Rank)
        self._requests = 0
        self._ranks: dict[str, Rank] = {}
        self._working: set[str] = set()
        self._again: dict[str, Rank] = {}
        # Replaced requests stay in the heap; `_due` has those that count.
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._turn = 0
        self._closed = False

    def add(self, pod: str, rank: Rank = Rank.CHANGED) -> None:
        """Request a look at a pod now."""
        with self._changed:
            self._due.pop(pod, None)
            if self._request(pod, rank):
                self._changed.notify()

    def add_after(self, pod: str, seconds: float) -> None:
        """Request a look at a pod after so many seconds, unless an earlier one is due before."""
        with self._changed:
            due = self._monotonic() + seconds
            if due < self._due.get(pod, float("inf")):
                self._due[pod] = due
                heapq.heappush(self._heap, (due, pod))
                # Replaced requests must not become the majority.
                if len(self._heap) > 2 * len(self._due) + _TIDY_ABOVE:
                    self._heap = [(due, pod) for pod, due in self._due.items()]
                    heapq.heapify(self._heap)
                self._changed.notify()

    def take(self) -> str | None:
        """Block until there is a pod to work on, and return it; None once the queue is closed."""
        with self._changed:
            while not self._closed:
                wait = self._promote()
                if self._ranks:
                    pod = self._next()
                    self._working.add(pod)
                    return pod
                self._changed.wait(wait)
            return None

    def done(self, pod: str) -> None:
        """End the work on a pod that was taken."""
        with self._changed:
            self._working.discard(pod)
            rank = self._again.pop(pod, None)
            if rank is not None:
                self._request(pod, rank)
            self._changed.notify_all()

    def idle(self) -> bool:
        """Return whether no pod is being worked on or ready to be."""
        with self._changed:
            self._promote()
            return not self._ranks and not self._working

    def close(self) -> None:
        """Let every `take` return None. Waiting pods are dropped: the next agent looks at all pods."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _request(self, pod: str, rank: Rank) -> bool:
        """Add a request for now; return whether it makes a pod ready."""
        if pod in self._working:
            self._again[pod] = min(rank, self._again.get(pod, rank))
            return False
        known = self._ranks.get(pod)
        if known is not None and known <= rank:
            return False
        self._requests += 1
        began = self._requests if known is None else self._ready[known].pop(pod)
        self._ranks[pod] = rank
        self._ready[rank][pod] = began
        return known is None

    def _next(self) -> str:
        waiting = [queue for queue in self._ready if queue]
        self._turn = (self._turn + 1) % _TURN_OF_THE_OLDEST
        chosen = waiting[0] if self._turn else min(waiting, key=lambda queue: next(iter(queue.values())))
        pod, _ = chosen.popitem(last=False)
        del self._ranks[pod]
        return pod

    def _promote(self) -> float | None:
        """Make due pods ready, and return the seconds until the next one."""
        now = self._monotonic()
        while self._heap:
            due, pod = self._heap[0]
            replaced = self._due.get(pod) != due
            if due > now and not replaced:
                return due - now
            heapq.heappop(self._heap)
            if not replaced:
                del self._due[pod]
                self._request(pod, Rank.AGAIN)
        return None
