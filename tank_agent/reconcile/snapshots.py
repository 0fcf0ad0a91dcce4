"""Snapshots of volumes as work in the background, which wakes the pod at its end."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Literal, TypeVar

import structlog
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import Retry, TankError
from tank_agent.linux.clock import Clock
from tank_agent.linux.tree_walk import WalkCancelledError
from tank_agent.reconcile.core.observed import SnapshotJob
from tank_agent.retry import Failure, Pace, spread
from tank_agent.runtime.mounts.snapshots import (
    CopyJob,
    SnapshotStore,
    Wanted,
    estimate,
)
from tank_agent.spec.model import Pod

_log = structlog.get_logger()
SNAPSHOT_DONE, SNAPSHOT_FAILED, CHECKED = "snapshot done", "snapshot failed", "volumes measured"
# At one time: more of them only share the same disk.
_PARALLEL = 4
_STOP_DEADLINE = 5.0
# Seconds for the size in a plan.
_PLAN = 1.0
# Seconds after which a caller who waits is looked for.
_LOOK = 0.5
_T = TypeVar("_T")


class _Live(Struct, kw_only=True, eq=False):
    """A job, and the work that belongs to it."""

    job: SnapshotJob
    work: CopyJob
    wanted: Wanted
    failure: Failure
    failed: int = 0


class Snapshots:
    """The jobs, at most one for each pod; threads exist only while there is one.

    `keep_newest` is how many snapshots of updates stay for each volume.
    """

    def __init__(
        self,
        store: SnapshotStore,
        clock: Clock,
        wake: Callable[[str, str], None],
        pace: Pace | None = None,
        keep_newest: int = 2,
    ) -> None:
        self.store, self.keep_newest = store, keep_newest
        self._clock, self._wake = clock, wake
        self._pace = pace or Pace(base=10.0, cap=600.0)
        self._lock = threading.Lock()
        self._jobs: dict[str, _Live] = {}
        self._room = threading.BoundedSemaphore(_PARALLEL)
        # Work of one pod is done in its order.
        self._queues: dict[str, deque[Callable[[], None]]] = {}
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def check(self, pod: str, generation: int, volumes: Wanted) -> None:
        """Begin to look whether snapshots of volumes can be taken; a job that failed says why not."""
        self._begin(pod, SnapshotJob(kind="check", generation=generation), dict(volumes))

    def take(self, pod: str, generation: int, volumes: Wanted) -> None:
        """Begin to copy volumes that no program writes to; nothing if that is done or under way."""
        self._begin(pod, SnapshotJob(kind="take", generation=generation), dict(volumes))

    def put_back(self, pod: str, generation: int, snapshots: Mapping[str, str], failed: int = 0) -> None:
        """Begin to put snapshots in place of volumes, before a generation starts.

        The data that was there is kept, named after the generation that `failed`. Nothing if that is done or
        under way; after a crash it can be repeated at any point.
        """
        job = SnapshotJob(kind="put-back", generation=generation, ids=dict(snapshots))
        self._begin(pod, job, {}, failed=failed or generation)

    def observe(self, pod: str) -> SnapshotJob | None:
        """Return the job of a pod, or the last one whose result the loop has not recorded yet."""
        with self._lock:
            live = self._jobs.get(pod)
            if live is None:
                return None
            return live.job

    def progress(self, pod: str) -> tuple[int, int]:
        """Return the bytes copied so far by a pod's job, and in all; 0 where that is not known."""
        with self._lock:
            live = self._jobs.get(pod)
            return (live.work.progress.done, live.work.total) if live is not None else (0, 0)

    def finished(self, pod: str) -> None:
        """Forget a job whose result the loop has recorded."""
        with self._lock:
            live = self._jobs.get(pod)
            if live is None or live.job.state == "running":
                return
            del self._jobs[pod]
        if live.job.kind == "put-back":
            self.store.settle(pod, live.job.ids)

    def forget(self, pod: str) -> None:
        """Cancel the job of a pod that is gone; its snapshots stay, as its volumes do."""
        with self._lock:
            live = self._jobs.pop(pod, None)
            if live is not None:
                live.work.cancelled = True

    def keep(self, pod: str, wanted: Collection[str]) -> None:
        """Remove old snapshots and failed data of a pod in the background, but none that is wanted."""
        stay = frozenset(wanted)
        self.submit(pod, lambda: self.store.retain(pod, stay, self.keep_newest))

    def cost(self, pod: Pod, volumes: Collection[str]) -> str | None:
        """Return a sentence for a plan on what a snapshot of volumes copies; None if there are none."""
        if not volumes:
            return None
        try:
            size, shared = self.store.cost(pod.name, volumes, time.monotonic() + _PLAN)
        except OSError:
            size, shared = None, False
        return estimate(size, shared=shared)

    def by_hand(self, pod: str, work: Callable[[CopyJob], _T], ended: Callable[[], bool]) -> _T:
        """Do a piece of work among the jobs of a pod, and return its result.

        Args:
            work: is told by its argument when it is not wanted any more.
            ended: whether the person who waits has given up.
        """
        job, started, over = CopyJob(), threading.Event(), threading.Event()
        results: list[_T] = []
        errors: list[BaseException] = []

        def run() -> None:
            started.set()
            try:
                results.append(work(job))
            except BaseException as error:
                errors.append(error)
            finally:
                over.set()

        if not self.submit(pod, run):
            raise Retry("the agent is being stopped")
        while not over.wait(_LOOK):
            job.cancelled = job.cancelled or self._closed or ended()
            if self._closed and not started.is_set():
                raise Retry("the agent is being stopped")
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        """Cancel all jobs; what they leave half done is removed by the next agent."""
        with self._lock:
            self._closed = True
            self._queues.clear()
            for live in self._jobs.values():
                live.work.cancelled = live.work.closing = True
            threads = list(self._threads)
        deadline = time.monotonic() + _STOP_DEADLINE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _begin(self, pod: str, job: SnapshotJob, wanted: Wanted, failed: int = 0) -> None:
        with self._lock:
            former = self._jobs.get(pod)
            failure = Failure()
            if former is not None:
                kind, generation = former.job.kind, former.job.generation
                if (kind, generation) == (job.kind, job.generation) and former.wanted == wanted:
                    if former.job.state != "failed":
                        return
                    if former.failure.retry_at > self._clock.monotonic():
                        return
                    failure = former.failure
                former.work.cancelled = True
            work = CopyJob(total=former.work.total if former is not None and job.kind == "take" else 0)
            live = self._jobs[pod] = _Live(job=job, work=work, wanted=wanted, failure=failure, failed=failed)
        self.submit(pod, partial(self._run, pod, live))

    def _run(self, pod: str, live: _Live) -> None:
        job, error = live.job, ""
        ids = job.ids
        try:
            if live.work.cancelled:
                return
            if job.kind == "check":
                error = self.store.refusal(pod, live.wanted, live.work) or ""
            elif job.kind == "take":
                ids = self.store.take(pod, job.generation, live.wanted, live.work)
            else:
                self.store.put_back(pod, job.generation, ids, live.work, failed=live.failed)
        except WalkCancelledError:
            return
        except TankError as failed:
            error = str(failed)
        except Exception as failed:
            _log.exception("work on a pod's volumes failed by a bug", pod=pod)
            error = f"cannot work on the volumes: {failed!r}"
        self._ended(pod, live, ids, error)

    def _ended(self, pod: str, live: _Live, ids: Mapping[str, str], error: str) -> None:
        job, now, retry_at = live.job, self._clock.monotonic(), 0.0
        if error:
            _log.warning("work on a pod's volumes failed", pod=pod, kind=job.kind, error=error)
            live.failure = live.failure.again(error, self._pace, now, spread(pod))
            retry_at = live.failure.retry_at
        with self._lock:
            state: Literal["done", "failed"] = "failed" if error else "done"
            live.job = replace(job, state=state, error=error, ids=ids, retry_at=retry_at)
        cause = SNAPSHOT_FAILED if error else CHECKED if job.kind == "check" else SNAPSHOT_DONE
        self._wake(pod, cause)

    def submit(self, pod: str, work: Callable[[], None]) -> bool:
        """Do some work after what a pod has waiting; False after `close`."""
        with self._lock:
            if self._closed:
                return False
            queue = self._queues.get(pod)
            if queue is not None:
                queue.append(work)
                return True
            self._queues[pod] = deque([work])
            thread = threading.Thread(target=self._serve, args=(pod,), name=f"snapshots-{pod}", daemon=True)
            self._threads.add(thread)
        thread.start()
        return True

    def _serve(self, pod: str) -> None:
        while (work := self._next(pod)) is not None:
            with self._room:
                try:
                    work()
                except Exception:
                    _log.exception("work on a pod's volumes failed by a bug", pod=pod)

    def _next(self, pod: str) -> Callable[[], None] | None:
        with self._lock:
            queue = self._queues.get(pod)
            if queue:
                return queue.popleft()
            self._queues.pop(pod, None)
            self._threads.discard(threading.current_thread())
        return None
