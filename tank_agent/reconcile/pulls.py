"""Images on their way: pulls run beside the workers, and wake the pods that wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.image.image import Image, ImageStore, Progress
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.observed import ImageState, ObservedImage
from tank_agent.reconcile.restart import Backoff

_log = structlog.get_logger()
_PARALLEL = 2


class _Job(Struct, kw_only=True):
    waiting: set[str]
    progress: Progress | None = None
    cancelled: bool = False


class _Failure(Struct, frozen=True, kw_only=True):
    error: str
    failures: int
    retry_at: float


class Pulls:
    """Knows of every image that a pod needs whether it is ready, on its way, or why not.

    Args:
        store: where images are.
        clock: for the back-off of failed pulls.
        backoff: as for restarts.
        wake: called with a pod's name when an image that it waits for is ready or failed.
    """

    def __init__(
        self, store: ImageStore, clock: Clock, backoff: Backoff, wake: Callable[[str, str], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._backoff = backoff
        self._wake = wake
        self._lock = threading.Lock()
        self._ready: dict[str, Image] = {}
        self._jobs: dict[str, _Job] = {}
        self._failed: dict[str, _Failure] = {}
        self._pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="pull")

    def state(self, reference: str, pod: str) -> ObservedImage:
        """Return how an image stands for a pod, which from now on waits for a pull that is under way.

        Asks the store only while the image is not known to be ready.
        """
        with self._lock:
            if reference in self._ready:
                return ObservedImage(state=ImageState.READY)
            job = self._jobs.get(reference)
            if job is not None:
                job.waiting.add(pod)
                return ObservedImage(state=ImageState.PULLING, progress=job.progress)
            failed = self._failed.get(reference)
        image = self._store.cached(reference)
        if image is not None:
            with self._lock:
                self._ready[reference] = image
                self._failed.pop(reference, None)
            return ObservedImage(state=ImageState.READY)
        if failed is not None:
            return ObservedImage(state=ImageState.FAILED, error=failed.error, retry_at=failed.retry_at)
        return ObservedImage(state=ImageState.ABSENT)

    def get(self, reference: str) -> Image | None:
        """Return an image to start from; None if it went away since it was last looked at."""
        image = self._store.cached(reference)
        with self._lock:
            if image is None:
                self._ready.pop(reference, None)
            else:
                self._ready[reference] = image
        return image

    def pull(self, reference: str, pod: str) -> None:
        """Begin to fetch an image for a pod, or join the pull that is under way."""
        with self._lock:
            job = self._jobs.get(reference)
            if job is not None:
                job.waiting.add(pod)
                return
            job = self._jobs[reference] = _Job(waiting={pod})
        self._pool.submit(self._run, reference, job)

    def cancel(self, pod: str, needed: frozenset[str]) -> None:
        """Give up the pulls that only this pod waited for, other than of `needed`."""
        with self._lock:
            for reference, job in self._jobs.items():
                if reference not in needed:
                    job.waiting.discard(pod)
                    job.cancelled = job.cancelled or not job.waiting

    def close(self) -> None:
        """Cancel every pull; what was fetched already is used again by the next one."""
        with self._lock:
            for job in self._jobs.values():
                job.cancelled = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, reference: str, job: _Job) -> None:
        log = _log.bind(image=reference)

        def progress(done: Progress) -> None:
            job.progress = done

        image: Image | None = None
        error: str | None = None
        try:
            image = self._store.pull(reference, progress=progress, cancelled=lambda: job.cancelled)
        except TankError as failure:
            error = str(failure)
        except Exception as failure:
            log.exception("pull failed by a bug")
            error = f"cannot pull {reference}: {failure!r}"
        with self._lock:
            del self._jobs[reference]
            if image is not None:
                self._ready[reference] = image
                self._failed.pop(reference, None)
            elif not job.cancelled and error is not None:
                known = self._failed.get(reference)
                failures = known.failures if known else 0
                retry_at = self._clock.monotonic() + self._backoff.delay(failures)
                self._failed[reference] = _Failure(error=error, failures=failures + 1, retry_at=retry_at)
            waiting = tuple(job.waiting)
        if error is not None and not job.cancelled:
            log.warning("pull failed", error=error)
        for pod in waiting:
            self._wake(pod, "image ready" if image is not None else "pull failed")
