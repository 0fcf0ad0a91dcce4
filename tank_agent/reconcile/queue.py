"""A work queue keyed by pod, with the rules of client-go's.

One pod is never worked on by two at once, any number of wishes for one pod is one piece of work, and a wish
made during the work is done after it.

Delayed wishes are kept as the earliest time per pod. The clock is injected, so tests need no sleeping.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable


class WorkQueue:
    """Hands pods to workers.

    Args:
        monotonic: the clock that delays are measured with, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._working: set[str] = set()
        self._again: set[str] = set()
        self._due: dict[str, float] = {}
        self._closed = False

    def add(self, pod: str) -> None:
        """Wish that a pod be looked at now."""
        with self._changed:
            self._due.pop(pod, None)
            if pod in self._working:
                self._again.add(pod)
            elif pod not in self._ready:
                self._ready[pod] = None
                self._changed.notify()

    def add_after(self, pod: str, seconds: float) -> None:
        """Wish that a pod be looked at after so many seconds; an earlier wish stands."""
        with self._changed:
            due = self._monotonic() + seconds
            if due < self._due.get(pod, float("inf")):
                self._due[pod] = due
                self._changed.notify()

    def take(self) -> str | None:
        """Block until there is a pod to work on and return it; None once the queue is closed."""
        with self._changed:
            while not self._closed:
                wait = self._promote()
                if self._ready:
                    pod, _ = self._ready.popitem(last=False)
                    self._working.add(pod)
                    return pod
                self._changed.wait(wait)
            return None

    def done(self, pod: str) -> None:
        """Say that the work on a pod, taken before, is over."""
        with self._changed:
            self._working.discard(pod)
            if pod in self._again:
                self._again.discard(pod)
                self._ready[pod] = None
            self._changed.notify_all()

    def idle(self) -> bool:
        """Return whether no pod is being worked on or ready to be."""
        with self._changed:
            self._promote()
            return not self._ready and not self._working

    def close(self) -> None:
        """Let every `take` return None. Work that is ready is dropped: the next agent looks at everything."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _promote(self) -> float | None:
        """Make due pods ready, and return the seconds until the next is due."""
        now = self._monotonic()
        for pod in [pod for pod, due in self._due.items() if due <= now]:
            del self._due[pod]
            if pod in self._working:
                self._again.add(pod)
            else:
                self._ready[pod] = None
        return min(self._due.values()) - now if self._due else None
