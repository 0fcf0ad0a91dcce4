"""Work in the background: a few threads for each place, and each layer fetched once for all who wait for it.

A place that stalls delays nobody else, also not those who share a layer with it: they fetch it themselves if
nothing of it comes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import msgspec
import structlog
from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.image.config import LayerState
from tank_agent.image.content import CancelledError
from tank_agent.spec.reference import find_image

# Each layer under way has an unpacking process.
_MOST_LANES = 16
_Work = Callable[[], object]
_log = structlog.get_logger()


def lane_of(reference: str) -> str:
    """Return the lane of a pull: the image's registry, or its path on this machine."""
    try:
        return find_image(reference).place
    except TankError:
        return ""


class Lanes:
    """Runs work in threads that end when there is none; a lane's work starts in its order.

    At most `each` threads work for one lane at once, and at most `most` in all: only then lanes wait for
    each other.
    """

    def __init__(self, name: str, *, each: int, most: int) -> None:
        self._name, self._each = name, max(1, each)
        self._most = max(self._each, most)
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[_Work]] = OrderedDict()
        self._working: dict[str, int] = {}
        self._threads, self._closed = 0, False

    def submit(self, lane: str, work: _Work) -> None:
        """Do some work as soon as its lane has room; it must not raise. Once closed, drop it."""
        with self._changed:
            if self._closed:
                return
            self._waiting.setdefault(lane, deque()).append(work)
            taken = self._take() if self._threads < self._most else None
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

    def _take(self) -> tuple[str, _Work] | None:
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

    def _run(self, lane: str, work: _Work) -> None:
        taken: tuple[str, _Work] | None = lane, work
        while taken is not None:
            lane, work = taken
            try:
                work()
            except Exception:
                _log.exception("work in the background failed by a bug", lane=lane)
            taken = self._next(lane)

    def _next(self, done: str) -> tuple[str, _Work] | None:
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


class Job(Struct, eq=False):
    """One layer on its way, and how each pull that waits for it gives up.

    `done` counts its compressed bytes; the worker writes it, anyone reads it.
    """

    lane: str = ""
    done: int = 0
    state: LayerState = "waiting"
    future: Future[None] = msgspec.field(default_factory=Future)
    waiters: list[Callable[[], bool]] = []

    def cancelled(self) -> bool:
        """Return whether every pull that waited has given up."""
        return all(waiter() for waiter in list(self.waiters))

    def check(self) -> None:
        """Stop the worker here if nobody waits any more."""
        if self.cancelled():
            raise CancelledError("the pull was cancelled")


class Share(NamedTuple):
    """A pull's part in a job. One that is not `ours` is done by another pull, from where that one reads."""

    job: Job
    ours: bool


class Jobs:
    """At most so many jobs at once of each lane; one per key."""

    def __init__(self, parallel: int) -> None:
        self._lanes = Lanes("image-layer", each=parallel, most=parallel * _MOST_LANES)
        self._lock = threading.Lock()
        self._running: dict[str, Job] = {}

    def submit(
        self, key: str, lane: str, cancelled: Callable[[], bool], work: Callable[[Job], None]
    ) -> Share:
        """Start the work for a key in a lane, or join the one that is under way."""
        with self._lock:
            before = self._running.get(key)
            if before is not None and not before.cancelled():
                before.waiters.append(cancelled)
                return Share(before, ours=False)
            job = self._running[key] = Job(lane)
            job.waiters.append(cancelled)
        self._lanes.submit(lane, lambda: self._run(key, job, before, work))
        return Share(job, ours=True)

    def close(self) -> None:
        """Wait for the workers; whoever calls this has made every `cancelled` true."""
        self._lanes.close()

    def _run(self, key: str, job: Job, before: Job | None, work: Callable[[Job], None]) -> None:
        try:
            if before is not None:
                # The one that was given up may still be writing.
                before.future.exception()
            job.check()
            work(job)
        except BaseException as error:
            self._forget(key, job)
            job.future.set_exception(error)
        else:
            job.state = "done"
            self._forget(key, job)
            job.future.set_result(None)

    def _forget(self, key: str, job: Job) -> None:
        with self._lock:
            if self._running.get(key) is job:
                del self._running[key]
