"""Images on their way: pulls run beside the workers, and wake the pods that wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import structlog
from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.image.image import Image, ImageStore, Progress
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.observed import ImageState, ObservedImage
from tank_agent.reconcile.restart import Backoff
from tank_agent.spec.model import Container, PullPolicy

_log = structlog.get_logger()
# Most of a pull's time is waiting, and the store bounds the layers at once: one slow registry must not keep
# the pods of others from starting.
_PARALLEL = 8
# Whatever the back-off of containers is, no registry is asked in a tight loop. Seconds.
_LEAST_DELAY = 1.0


class Need(Struct, frozen=True, kw_only=True):
    """The image that one container of a pod is to start from, and when its registry is asked for it."""

    pod: str
    container: str
    reference: str
    policy: PullPolicy


class News(Struct, frozen=True, kw_only=True):
    """How a pull ended, as an event tells it."""

    type: str
    message: str


class _Key(Struct, frozen=True):
    """Containers share a pull if they want the same image in the same way."""

    reference: str
    policy: PullPolicy


class _Job(Struct, kw_only=True):
    waiting: set[Need]
    progress: Progress | None = None
    cancelled: bool = False


class _Failure(Struct, kw_only=True):
    error: str
    failures: int
    retry_at: float
    needs: set[Need]


class Pulls:
    """Knows of every image that a container needs whether it is ready, on its way, or why not.

    With the policy "always", an image is ready for the one start that a pull was made for.

    Args:
        store: where images are.
        clock: for the back-off of failed pulls.
        backoff: as for restarts.
        wake: called with a pod's name when an image that it waits for is ready or failed.
        policy: of containers that don't say.
        prepare: makes the store ready, in the background; until then, every image is on its way.
    """

    def __init__(
        self,
        store: ImageStore,
        clock: Clock,
        backoff: Backoff,
        wake: Callable[[str, str], None],
        *,
        policy: PullPolicy = "missing",
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._backoff = backoff
        self._wake = wake
        self._policy = policy
        self._lock = threading.Lock()
        self._ready: dict[str, Image] = {}
        self._fresh: set[Need] = set()
        self._jobs: dict[_Key, _Job] = {}
        self._failed: dict[_Key, _Failure] = {}
        # What pods were told already: a container that restarts often asks as often.
        self._not_refreshed: dict[_Key, str] = {}
        self._news: dict[str, list[News]] = {}
        self._prepared = threading.Event()
        self._waiting: set[str] = set()
        self._pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="pull")
        self._pool.submit(self._prepare, prepare)

    def wait(self, timeout: float) -> bool:
        """Block until the store is ready; False if it is not within `timeout` seconds."""
        return self._prepared.wait(timeout)

    def need(self, pod: str, container: Container) -> Need:
        """Return what a container with an image needs."""
        assert container.image is not None
        return Need(
            pod=pod,
            container=container.name,
            reference=container.image,
            policy=container.pull or self._policy,
        )

    def state(self, need: Need) -> ObservedImage:
        """Return how an image stands for a container, which from now on waits for a pull that is under way.

        Asks the store only while the image is not known to be ready.
        """
        key = _key(need)
        with self._lock:
            known = self._known(need, key)
            if known is not None:
                return known
            failed = self._failed.get(key)
            if failed is not None:
                failed.needs.add(need)
        try:
            image = self._store.cached(need.reference) if need.policy != "always" else None
        except TankError as error:
            return self._unknowable(error)
        if image is not None:
            with self._lock:
                self._ready[need.reference] = image
                self._failed.pop(key, None)
            return ObservedImage(state=ImageState.READY)
        if failed is not None:
            return ObservedImage(state=ImageState.FAILED, error=failed.error, retry_at=failed.retry_at)
        return ObservedImage(state=ImageState.ABSENT)

    def _known(self, need: Need, key: _Key) -> ObservedImage | None:
        """Return what is known without asking the store; with the lock held."""
        if not self._prepared.is_set():
            self._waiting.add(need.pod)
            return ObservedImage(state=ImageState.PULLING)
        if need in self._fresh if need.policy == "always" else need.reference in self._ready:
            return ObservedImage(state=ImageState.READY)
        job = self._jobs.get(key)
        if job is None:
            return None
        job.waiting.add(need)
        return ObservedImage(state=ImageState.PULLING, progress=job.progress)

    def _unknowable(self, error: TankError) -> ObservedImage:
        """Return that a reference cannot be looked for at all, which trying often does not change."""
        again = self._clock.monotonic() + self._backoff.cap
        return ObservedImage(state=ImageState.FAILED, error=str(error), retry_at=again)

    def get(self, need: Need) -> Image | None:
        """Return an image to start from; None if it went away since it was last looked at.

        What was pulled for this start is used up by it.
        """
        image = self._store.cached(need.reference)
        with self._lock:
            self._fresh.discard(need)
            if image is None:
                self._ready.pop(need.reference, None)
            else:
                self._ready[need.reference] = image
        return image

    def pull(self, need: Need) -> bool:
        """Begin to fetch an image for a container, or join the pull that is under way.

        Returns whether that is worth telling: not if an image is only asked for anew, tried again, or if
        nobody is asked.
        """
        key = _key(need)
        known = self._store.cached(need.reference)
        with self._lock:
            job = self._jobs.get(key)
            if job is not None:
                job.waiting.add(need)
                return False
            job = self._jobs[key] = _Job(waiting={need})
            told = known is None and key not in self._failed and need.policy != "never"
        self._pool.submit(self._run, key, job, known)
        return told

    def pulled(self, reference: str) -> None:
        """Forget why an image could not be had, since somebody else fetched it."""
        with self._lock:
            for key in [key for key in self._failed if key.reference == reference]:
                del self._failed[key]

    def cancel(self, pod: str, needs: Collection[Need]) -> None:
        """Give up what was under way for a pod, other than `needs`; pulls that others wait for go on."""
        with self._lock:
            for job in self._jobs.values():
                job.waiting = _without(job.waiting, pod, needs)
                job.cancelled = job.cancelled or not job.waiting
            self._fresh = _without(self._fresh, pod, needs)
            for key, failure in list(self._failed.items()):
                failure.needs = _without(failure.needs, pod, needs)
                if not failure.needs:
                    del self._failed[key]

    def news(self, pod: str) -> tuple[News, ...]:
        """Return what a pod was not told yet of its pulls."""
        with self._lock:
            return tuple(self._news.pop(pod, ()))

    def close(self) -> None:
        """Cancel every pull; what was fetched already is used again by the next one."""
        with self._lock:
            for job in self._jobs.values():
                job.cancelled = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, prepare: Callable[[], None]) -> None:
        try:
            prepare()
        except Exception:
            _log.exception("the image store could not be cleaned")
        with self._lock:
            self._prepared.set()
            waiting, self._waiting = self._waiting, set()
        for pod in waiting:
            self._wake(pod, "image store ready")

    def _run(self, key: _Key, job: _Job, known: Image | None) -> None:
        log = _log.bind(image=key.reference)
        began = time.monotonic()

        def progress(done: Progress) -> None:
            job.progress = done

        image: Image | None = None
        error: str | None = None
        try:
            image = self._store.pull(
                key.reference, policy=key.policy, progress=progress, cancelled=lambda: job.cancelled
            )
        except TankError as failure:
            error = str(failure)
        except Exception as failure:
            log.exception("pull failed by a bug")
            error = f"cannot pull {key.reference}: {failure!r}"
        if error is not None and not job.cancelled:
            log.warning("pull failed", error=error)
        with self._lock:
            del self._jobs[key]
            told: News | None = None
            if image is not None:
                if known is None or known.digest != image.digest:
                    told = _pulled(image, job.progress, time.monotonic() - began)
                elif image.not_refreshed != self._not_refreshed.get(key, ""):
                    told = _not_refreshed(image)
                self._note_refresh(key, image)
                self._ready[key.reference] = image
                self._fresh |= {need for need in job.waiting if need.policy == "always"}
                self._failed.pop(key, None)
            elif error is not None and not job.cancelled:
                told = self._fail(key, error, job)
            pods = {need.pod for need in job.waiting}
            if told is not None:
                for pod in pods:
                    self._news.setdefault(pod, []).append(told)
        for pod in pods:
            self._wake(pod, "image ready" if image is not None else "pull failed")

    def _fail(self, key: _Key, error: str, job: _Job) -> News | None:
        """Remember a failed pull; the same failure again is no news."""
        former = self._failed.get(key)
        failures = former.failures if former is not None else 0
        delay = max(_LEAST_DELAY, self._backoff.delay(failures))
        self._failed[key] = _Failure(
            error=error,
            failures=failures + 1,
            retry_at=self._clock.monotonic() + delay,
            needs=set(job.waiting),
        )
        if former is not None and former.error == error:
            return None
        return News(type="pull-failed", message=_one_line(error))

    def _note_refresh(self, key: _Key, image: Image) -> None:
        if image.not_refreshed:
            self._not_refreshed[key] = image.not_refreshed
        else:
            self._not_refreshed.pop(key, None)


def _key(need: Need) -> _Key:
    return _Key(need.reference, need.policy)


def _without(needs: set[Need], pod: str, kept: Collection[Need]) -> set[Need]:
    return {need for need in needs if need.pod != pod or need in kept}


def _pulled(image: Image, progress: Progress | None, seconds: float) -> News:
    layers = progress.layers if progress is not None else ()
    fetched = sum(layer.total for layer in layers if layer.state != "cached")
    message = f"pulled {image.name}: {fetched / 1e6:.1f} MB in {seconds:.1f} s"
    return News(type="pulled", message=message)


def _not_refreshed(image: Image) -> News | None:
    """Say that an old copy is used; that the registry answers again shows in what it brings."""
    if not image.not_refreshed:
        return None
    message = f"{image.reference} could not be looked up, so the copy on this machine is used: "
    return News(type="image-not-refreshed", message=message + _one_line(image.not_refreshed))


def _one_line(error: str) -> str:
    """Return an error as an event holds it; the hint stands in a line of its own."""
    return "; ".join(line.strip() for line in error.splitlines())
