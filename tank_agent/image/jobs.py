"""Work that several pulls share: one layer is fetched and unpacked once, however many images wait for it.

Each place that layers come from has workers of its own: one that stalls keeps nobody else waiting, also not
those who share a layer with it, who fetch it themselves if nothing of it comes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, NamedTuple

from tank_agent.image.registry.lanes import Lanes
from tank_agent.image.store.content import CancelledError

# Each layer under way has an unpacking process.
_MOST_LANES = 16
State = Literal["waiting", "downloading", "unpacking", "done", "cached"]


class Job:
    """One layer on its way. `done` counts its compressed bytes; the worker writes it, anyone reads it."""

    def __init__(self, lane: str = "") -> None:
        self.lane = lane
        self.done = 0
        self.state: State = "waiting"
        self.future: Future[None] = Future()
        self._waiters: list[Callable[[], bool]] = []

    def join(self, cancelled: Callable[[], bool]) -> None:
        """Let one more pull wait for this."""
        self._waiters.append(cancelled)

    def cancelled(self) -> bool:
        """Return whether every pull that waited has given up."""
        return all(waiter() for waiter in list(self._waiters))

    def check(self) -> None:
        """Stop the worker here if nobody waits any more."""
        if self.cancelled():
            raise CancelledError("the pull was cancelled")


class Share(NamedTuple):
    """A pull's part in a job. One that is not `ours` is done by another pull, from where that one reads."""

    job: Job
    ours: bool


class Jobs:
    """At most so many at once of each lane; one per key."""

    def __init__(self, parallel: int) -> None:
        self._lanes = Lanes("image-layer", each=parallel, most=parallel * _MOST_LANES)
        self._lock = threading.Lock()
        self._running: dict[str, Job] = {}

    def submit(
        self, key: str, lane: str, cancelled: Callable[[], bool], work: Callable[[Job], None]
    ) -> Share:
        """Start the work for a key in a lane, or join the one that is under way."""
        with self._lock:
            job = self._running.get(key)
            if job is not None and not job.cancelled():
                job.join(cancelled)
                return Share(job, ours=False)
            before, job = job, Job(lane)
            job.join(cancelled)
            self._running[key] = job
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
