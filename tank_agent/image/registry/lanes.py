"""Threads for work that may stall: a few for each place, so that one that stalls delays no other."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable

import structlog

from tank_agent.errors import TankError
from tank_agent.image.registry.reference import parse_reference

_log = structlog.get_logger()


def lane_of(reference: str) -> str:
    """Return what a pull of an image waits for: its registry, or its own place on this machine."""
    try:
        parsed = parse_reference(reference)
    except TankError:
        return ""
    return parsed.registry or parsed.path


class Lanes:
    """Runs work in threads that live as long as there is some; in the order of a lane.

    Args:
        name: of the threads.
        each: how many work for one lane at once.
        most: how many work in all; only beyond it do lanes wait for each other.
    """

    def __init__(self, name: str, *, each: int, most: int) -> None:
        self._name = name
        self._each = max(1, each)
        self._most = max(self._each, most)
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[Callable[[], object]]] = OrderedDict()
        self._working: dict[str, int] = {}
        self._threads = 0
        self._closed = False

    def submit(self, lane: str, work: Callable[[], object]) -> None:
        """Do some work as soon as its lane has room; it must not raise. Nothing happens once closed."""
        with self._changed:
            if self._closed:
                return
            self._waiting.setdefault(lane, deque()).append(work)
            if self._threads >= self._most:
                return
            taken = self._take()
            if taken is None:
                return
            self._threads += 1
        threading.Thread(target=self._run, args=taken, name=self._name, daemon=True).start()

    def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.wait_for(lambda: self._threads == 0)

    def _take(self) -> tuple[str, Callable[[], object]] | None:
        """Return work of the lane that waits longest and has room; with the lock held."""
        for lane, queue in self._waiting.items():
            if self._working.get(lane, 0) < self._each:
                work = queue.popleft()
                self._working[lane] = self._working.get(lane, 0) + 1
                if queue:
                    self._waiting.move_to_end(lane)
                else:
                    del self._waiting[lane]
                return lane, work
        return None

    def _run(self, lane: str, work: Callable[[], object]) -> None:
        taken: tuple[str, Callable[[], object]] | None = lane, work
        while taken is not None:
            try:
                taken[1]()
            except Exception:
                _log.exception("work in the background failed by a bug", lane=taken[0])
            taken = self._next(taken[0])

    def _next(self, done: str) -> tuple[str, Callable[[], object]] | None:
        """Give a lane's place back, and return what to do next; None ends the thread."""
        with self._changed:
            self._working[done] -= 1
            if not self._working[done]:
                del self._working[done]
            taken = None if self._closed else self._take()
            if taken is None:
                self._threads -= 1
                self._changed.notify_all()
            return taken
