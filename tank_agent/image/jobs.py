"""Work in the background: a few threads for each place, and one fetch of a layer for all pulls that need it.

A place that stalls delays no pull from another place, which then fetches shared layers itself.
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

from tank_agent.errors import Retry, TankError
from tank_agent.image.config import Cancelled, LayerState
from tank_agent.spec.reference import find_image

# Bounded, since each layer under way has an unpacking process.
_MOST_LANES = 16
_Work = Callable[[], object]
_log = structlog.get_logger()


class CancelledError(Retry):
    """Nobody waits for the work any more."""

    reason = "cancelled"


def lane_of(reference: str) -> str:
    """Return the lane of a pull: the image's registry, or its path on this machine."""
    try:
        return find_image(reference).place
    except TankError:
        return ""


class Lanes:
    """Run work in threads that end when there is none; a lane's work starts in its order.

    At most `each` threads work for one lane at once, and at most `most` for all.
    """

    def __init__(self, name: str, *, each: int, most: int) -> None:
        self._name, self._each = name, max(1, each)
        self._most = max(self._each, most)
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[_Work]] = OrderedDict()
        self._working: dict[str, int] = {}
        self._threads, self._closed = 0, False

    def submit(self, lane: str, work: _Work) -> None:
        """Do some work as soon as its lane has room; drop it after `close`."""
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
        """Drop waiting work, and wait for running work."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.wait_for(lambda: self._threads == 0)

    def _take(self) -> tuple[str, _Work] | None:
        """Return work of the lane that waits longest, if any has room; with the lock held."""
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
            with self._changed:
                self._working[lane] -= 1
                if not self._working[lane]:
                    del self._working[lane]
                taken = None if self._closed else self._take()
                if taken is None:
                    self._threads -= 1
                    self._changed.notify_all()


class Job(Struct, eq=False):
    """The fetch of one layer; `done` counts compressed bytes. A waiter returns True if its pull gave up."""

    lane: str = ""
    done: int = 0
    state: LayerState = "waiting"
    future: Future[None] = msgspec.field(default_factory=Future)
    waiters: list[Cancelled] = []

    def cancelled(self) -> bool:
        """Return whether every pull that waits for it has given up."""
        return all(waiter() for waiter in list(self.waiters))

    def check(self) -> None:
        """Raise CancelledError if nobody waits any more."""
        if self.cancelled():
            raise CancelledError("the pull was cancelled")


class Share(NamedTuple):
    """A pull's part in a job: its `own`, or one that another pull started, perhaps from another place."""

    job: Job
    own: bool


class Jobs:
    """The fetches of layers: one per key, and at most `parallel` of a lane at once."""

    def __init__(self, parallel: int) -> None:
        self._lanes = Lanes("image-layer", each=parallel, most=parallel * _MOST_LANES)
        self._lock = threading.Lock()
        self._running: dict[str, Job] = {}

    def submit(self, key: str, lane: str, cancelled: Cancelled, work: Callable[[Job], None]) -> Share:
        """Start the work for a key in a lane, or join the job under way."""
        with self._lock:
            before = self._running.get(key)
            if before is not None and not before.cancelled():
                before.waiters.append(cancelled)
                return Share(before, own=False)
            job = self._running[key] = Job(lane)
            job.waiters.append(cancelled)
        self._lanes.submit(lane, lambda: self._run(key, job, before, work))
        return Share(job, own=True)

    def close(self) -> None:
        """Wait for the workers; every `cancelled` must be true by now."""
        self._lanes.close()

    def _run(self, key: str, job: Job, before: Job | None, work: Callable[[Job], None]) -> None:
        failure: BaseException | None = None
        try:
            if before is not None:
                # The cancelled job may still be writing.
                before.future.exception()
            job.check()
            work(job)
            job.state = "done"
        except BaseException as error:
            failure = error
        with self._lock:
            if self._running.get(key) is job:
                del self._running[key]
        if failure is None:
            job.future.set_result(None)
        else:
            job.future.set_exception(failure)
