"""Images on their way: pulls run beside the workers, and wake the pods that wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import get_args

import structlog
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import TankError, one_line
from tank_agent.image.config import Image, Progress
from tank_agent.image.jobs import Lanes, lane_of
from tank_agent.image.store.store import ImageStore
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.core.observed import ImageState, ObservedImage
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.retry import Failure
from tank_agent.spec.model import Container, PullPolicy

_log = structlog.get_logger()
# Of one registry, or of one place on this machine. Most of a pull's time is waiting, and the store bounds the
# layers at once: a registry that stalls keeps its own pods waiting, and no others.
_PARALLEL = 8
_MOST_PARALLEL = 256
IMAGE_READY, PULL_FAILED = "image ready", "pull failed"
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
    cause: str


class _Key(Struct, frozen=True):
    """Containers share a pull if they want the same image in the same way."""

    reference: str
    policy: PullPolicy


class _Job(Struct, kw_only=True):
    progress: Progress | None = None
    cancelled: bool = False


def _tell_nobody(pods: Collection[str], news: News) -> None:
    pass


class Pulls:
    """Knows of every image that a container needs whether it is ready, on its way, or why not.

    To `observe` an image changes nothing; what a pod waits for is what it last said that it wants. With the
    policy "always", an image is ready for the one start that a pull was made for.

    Args:
        store: where images are.
        clock: for the back-off of failed pulls.
        backoff: as for restarts.
        wake: called with a pod's name when an image that it waits for is ready or failed.
        policy: of containers that don't say.
        prepare: makes the store ready, in the background; until then, every image is on its way.
        tell: called with how a pull ended, if that is news, and all pods that waited for it; before `wake`.
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
        tell: Callable[[Collection[str], News], None] = _tell_nobody,
    ) -> None:
        self._store = store
        self._clock = clock
        self._backoff = backoff
        self._wake = wake
        self._policy = policy
        self._tell = tell
        self._lock = threading.Lock()
        # By pod and by image: neither has to look through what others wait for.
        self._wanted: dict[str, frozenset[Need]] = {}
        self._needs: dict[_Key, set[Need]] = {}
        self._ready: set[_Key] = set()
        self._fresh: set[Need] = set()
        self._jobs: dict[_Key, _Job] = {}
        self._failed: dict[_Key, Failure] = {}
        # What pods were told already: a container that restarts often asks as often.
        self._not_refreshed: dict[_Key, str] = {}
        self._prepared = threading.Event()
        self._lanes = Lanes("pull", each=_PARALLEL, most=_MOST_PARALLEL)
        self._lanes.submit("", lambda: self._prepare(prepare))

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

    def observe(self, need: Need) -> ObservedImage:
        """Return how an image stands for a container; asks the store only if it is not known to be ready."""
        key = _key(need)
        with self._lock:
            known = self._known(need, key)
            failed = self._failed.get(key)
        if known is not None:
            return known
        try:
            image = self._store.cached(need.reference) if need.policy != "always" else None
        except TankError as error:
            return self._unknowable(error)
        if image is not None:
            with self._lock:
                if key in self._needs:
                    self._ready.add(key)
            return ObservedImage(state=ImageState.READY)
        if failed is not None:
            return ObservedImage(state=ImageState.FAILED, error=failed.error, retry_at=failed.retry_at)
        return ObservedImage(state=ImageState.ABSENT)

    def _known(self, need: Need, key: _Key) -> ObservedImage | None:
        """Return what is known without asking the store; with the lock held."""
        if not self._prepared.is_set():
            return ObservedImage(state=ImageState.PULLING)
        if need in self._fresh if need.policy == "always" else key in self._ready:
            return ObservedImage(state=ImageState.READY)
        job = self._jobs.get(key)
        if job is None:
            return None
        failed = self._failed.get(key)
        # Why it is tried again is still true until it worked.
        error = failed.error if failed is not None else None
        return ObservedImage(state=ImageState.PULLING, error=error, progress=job.progress)

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
                self._ready.discard(_key(need))
        return image

    def pull(self, need: Need) -> bool:
        """Begin to fetch an image that a container wants, or join the pull that is under way.

        Returns whether that is worth telling: not if an image is only asked for anew, tried again, or if
        nobody is asked.
        """
        key = _key(need)
        known = self._store.cached(need.reference)
        with self._lock:
            self._wanted[need.pod] = self._wanted.get(need.pod, frozenset()) | {need}
            self._needs.setdefault(key, set()).add(need)
            if key in self._jobs:
                return False
            job = self._jobs[key] = _Job()
            told = known is None and key not in self._failed and need.policy != "never"
        self._lanes.submit(lane_of(need.reference), lambda: self._run(key, job, known))
        return told

    def pulled(self, reference: str) -> None:
        """Forget why an image could not be had, since somebody else fetched it."""
        with self._lock:
            for policy in get_args(PullPolicy):
                self._failed.pop(_Key(reference, policy), None)

    def want(self, pod: str, needs: Collection[Need]) -> None:
        """Say what a pod waits for now; what it waited for before, and nobody else does, is given up."""
        wanted = frozenset(needs)
        with self._lock:
            before = self._wanted.get(pod, frozenset())
            if wanted:
                self._wanted[pod] = wanted
            else:
                self._wanted.pop(pod, None)
            for need in wanted - before:
                self._needs.setdefault(_key(need), set()).add(need)
            for need in before - wanted:
                self._give_up(need)

    def _give_up(self, need: Need) -> None:
        key = _key(need)
        self._fresh.discard(need)
        self._needs[key].discard(need)
        if self._needs[key]:
            return
        del self._needs[key]
        self._ready.discard(key)
        self._failed.pop(key, None)
        job = self._jobs.get(key)
        if job is not None:
            job.cancelled = True

    def close(self) -> None:
        """Cancel every pull; what was fetched already is used again by the next one."""
        with self._lock:
            for job in self._jobs.values():
                job.cancelled = True
        self._lanes.close()

    def _prepare(self, prepare: Callable[[], None]) -> None:
        try:
            prepare()
        except Exception:
            _log.exception("the image store could not be cleaned")
        with self._lock:
            self._prepared.set()
            waiting = list(self._wanted)
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
            needs = self._needs.get(key, set())
            if image is not None:
                if known is None or known.digest != image.digest:
                    told = _pulled(image, job.progress, time.monotonic() - began)
                elif image.not_refreshed != self._not_refreshed.get(key, ""):
                    told = _not_refreshed(image)
                self._note_refresh(key, image)
                self._failed.pop(key, None)
                if needs:
                    self._ready.add(key)
                self._fresh |= {need for need in needs if need.policy == "always"}
            elif error is not None and not job.cancelled:
                told = self._fail(key, error)
            pods = {need.pod for need in needs}
        if told is not None and pods:
            # At once for all: thousands may wait for one image.
            self._tell(pods, told)
        for pod in pods:
            self._wake(pod, IMAGE_READY if image is not None else PULL_FAILED)

    def _fail(self, key: _Key, error: str) -> News | None:
        """Remember a failed pull; the same failure again is no news."""
        former = self._failed.get(key, Failure())
        now = self._clock.monotonic()
        failure = former.again(error, self._backoff, now)
        self._failed[key] = replace(failure, retry_at=max(failure.retry_at, now + _LEAST_DELAY))
        if former.error == error:
            return None
        return News(type="pull-failed", message=one_line(error), cause=PULL_FAILED)

    def _note_refresh(self, key: _Key, image: Image) -> None:
        if image.not_refreshed:
            self._not_refreshed[key] = image.not_refreshed
        else:
            self._not_refreshed.pop(key, None)


def _key(need: Need) -> _Key:
    return _Key(need.reference, need.policy)


def _pulled(image: Image, progress: Progress | None, seconds: float) -> News:
    layers = progress.layers if progress is not None else ()
    fetched = sum(layer.total for layer in layers if layer.state != "cached")
    message = f"pulled {image.name}: {fetched / 1e6:.1f} MB in {seconds:.1f} s"
    return News(type="pulled", message=message, cause=IMAGE_READY)


def _not_refreshed(image: Image) -> News | None:
    """Say that an old copy is used; that the registry answers again shows in what it brings."""
    if not image.not_refreshed:
        return None
    message = f"{image.reference} could not be looked up, so the copy on this machine is used: "
    said = message + one_line(image.not_refreshed)
    return News(type="image-not-refreshed", message=said, cause=IMAGE_READY)
