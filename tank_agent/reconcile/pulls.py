"""Pulls of images: they run beside the workers, and wake the pods that wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import get_args

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import TankError, one_line
from tank_agent.image.config import Image, PullProgress
from tank_agent.image.jobs import Lanes, lane_of
from tank_agent.image.store.store import ImageStore
from tank_agent.journal.records import NewEvent
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


class _Job(Struct, kw_only=True):
    progress: PullProgress | None = None
    cancelled: bool = False


class _Wanted(Struct, kw_only=True):
    """One image, wanted in one way, and who waits for it; `fresh` are needs that a pull was made for."""

    needs: set[Need] = msgspec.field(default_factory=set)
    fresh: set[Need] = msgspec.field(default_factory=set)
    ready: bool = False
    job: _Job | None = None
    failure: Failure | None = None

    def known(self, need: Need) -> ObservedImage | None:
        """Return how the image stands for a container without asking the store; None if only that knows."""
        if need in self.fresh if need.policy == "always" else self.ready:
            return ObservedImage(state=ImageState.READY)
        if self.job is None:
            return None
        # Why it is tried again is still true until it worked.
        error = self.failure.error if self.failure is not None else None
        return ObservedImage(state=ImageState.PULLING, error=error, progress=self.job.progress)


# Containers share a pull if they want the same image in the same way.
_Key = tuple[str, PullPolicy]


class Pulls:
    """Knows of every image that a container needs whether it is ready, on its way, or why not.

    To `observe` an image is a pure read; only `want` and `pull`, of the loop, make a pod wait for one. With
    the policy "always", an image is ready for the one start that a pull was made for.

    Args:
        store: where images are.
        clock: for the back-off of failed pulls.
        backoff: as for restarts.
        wake: called with a pod's name when an image that it waits for is ready or failed.
        policy: of containers without one.
        prepare: makes the store ready, in the background; until then, every image is on its way.
        report: called before `wake` with all pods that waited for a pull, and the event of how it ended.
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
        report: Callable[[Collection[str], NewEvent], None] = lambda *_: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._backoff = backoff
        self._wake = wake
        self._policy = policy
        self._report = report
        self._lock = threading.Lock()
        # By pod and by image: neither has to look through what others wait for.
        self._pods: dict[str, frozenset[Need]] = {}
        self._images: dict[_Key, _Wanted] = {}
        # What was reported already: a container that restarts often asks as often.
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
        if not self._prepared.is_set():
            return ObservedImage(state=ImageState.PULLING)
        with self._lock:
            wanted = self._images.get(_key(need))
            known = wanted.known(need) if wanted is not None else None
            failure = wanted.failure if wanted is not None else None
        if known is not None:
            return known
        try:
            image = self._store.cached(need.reference) if need.policy != "always" else None
        except TankError as error:
            return self._unknowable(error)
        if image is not None:
            with self._lock:
                if wanted is not None and wanted.needs:
                    wanted.ready = True
            return ObservedImage(state=ImageState.READY)
        if failure is not None:
            return ObservedImage(state=ImageState.FAILED, error=failure.error, retry_at=failure.retry_at)
        return ObservedImage(state=ImageState.ABSENT)

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
            wanted = self._images.get(_key(need), _Wanted())
            wanted.fresh.discard(need)
            wanted.ready = wanted.ready and image is not None
        return image

    def pull(self, need: Need) -> bool:
        """Begin to fetch an image that a container wants, or join the pull that is under way.

        Returns True if a "pulling" event should be recorded (not for a refresh, a retry, or policy "never").
        """
        key = _key(need)
        known = self._store.cached(need.reference)
        with self._lock:
            self._pods[need.pod] = self._pods.get(need.pod, frozenset()) | {need}
            wanted = self._want(need)
            if wanted.job is not None:
                return False
            job = wanted.job = _Job()
            first = known is None and wanted.failure is None and need.policy != "never"
        self._lanes.submit(lane_of(need.reference), lambda: self._run(key, wanted, job, known))
        return first

    def pulled(self, reference: str) -> None:
        """Forget why an image could not be had, since somebody else fetched it."""
        with self._lock:
            for policy in get_args(PullPolicy):
                self._images.get((reference, policy), _Wanted()).failure = None

    def want(self, pod: str, needs: Collection[Need]) -> None:
        """Set what a pod waits for now; what it waited for before, and nobody else does, is given up."""
        wanted = frozenset(needs)
        with self._lock:
            before = self._pods.pop(pod, frozenset())
            if wanted:
                self._pods[pod] = wanted
            for need in wanted - before:
                self._want(need)
            for need in before - wanted:
                self._give_up(need)

    def _want(self, need: Need) -> _Wanted:
        wanted = self._images.setdefault(_key(need), _Wanted())
        wanted.needs.add(need)
        return wanted

    def _give_up(self, need: Need) -> None:
        wanted = self._images[_key(need)]
        wanted.needs.discard(need)
        wanted.fresh.discard(need)
        if wanted.needs:
            return
        if wanted.job is None:
            del self._images[_key(need)]
            return
        wanted.ready, wanted.failure, wanted.job.cancelled = False, None, True

    def close(self) -> None:
        """Cancel every pull; what was fetched already is used again by the next one."""
        with self._lock:
            for wanted in self._images.values():
                if wanted.job is not None:
                    wanted.job.cancelled = True
        self._lanes.close()

    def _prepare(self, prepare: Callable[[], None]) -> None:
        try:
            prepare()
        except Exception:
            _log.exception("the image store could not be cleaned")
        with self._lock:
            self._prepared.set()
            waiting = list(self._pods)
        for pod in waiting:
            self._wake(pod, "image store ready")

    def _run(self, key: _Key, wanted: _Wanted, job: _Job, known: Image | None) -> None:
        reference, policy = key
        log = _log.bind(image=reference)
        began = time.monotonic()

        def progress(done: PullProgress) -> None:
            job.progress = done

        image: Image | None = None
        error = ""
        try:
            image = self._store.pull(
                reference, policy=policy, progress=progress, cancelled=lambda: job.cancelled
            )
        except TankError as failure:
            error = str(failure)
        except Exception as failure:
            log.exception("pull failed by a bug")
            error = f"cannot pull {reference}: {failure!r}"
        if error and not job.cancelled:
            log.warning("pull failed", error=error)
        event: NewEvent | None = None
        with self._lock:
            wanted.job = None
            if image is not None:
                event = self._refreshed(key, image, known, job.progress, time.monotonic() - began)
                wanted.failure, wanted.ready = None, bool(wanted.needs)
                wanted.fresh |= {need for need in wanted.needs if need.policy == "always"}
            elif not job.cancelled:
                event = self._fail(wanted, error)
            pods = {need.pod for need in wanted.needs}
            if not pods and self._images.get(key) is wanted:
                del self._images[key]
        if event is not None and pods:
            # At once for all: thousands may wait for one image.
            self._report(pods, event)
        for pod in pods:
            self._wake(pod, IMAGE_READY if image is not None else PULL_FAILED)

    def _fail(self, wanted: _Wanted, error: str) -> NewEvent | None:
        """Remember a failed pull; no event if it failed like this before."""
        former, now = wanted.failure or Failure(), self._clock.monotonic()
        failure = former.again(error, self._backoff, now)
        wanted.failure = replace(failure, retry_at=max(failure.retry_at, now + _LEAST_DELAY))
        return _event("pull-failed", one_line(error), PULL_FAILED) if former.error != error else None

    def _refreshed(
        self, key: _Key, image: Image, known: Image | None, progress: PullProgress | None, seconds: float
    ) -> NewEvent | None:
        """Return the event for an image that is another one now, or whose registry does not answer."""
        former, why = self._not_refreshed.pop(key, ""), image.not_refreshed
        if why:
            self._not_refreshed[key] = why
        if known is None or known.digest != image.digest:
            layers = progress.layers if progress is not None else ()
            fetched = sum(layer.total for layer in layers if layer.state != "cached")
            return _event(
                "pulled", f"pulled {image.name}: {fetched / 1e6:.1f} MB in {seconds:.1f} s", IMAGE_READY
            )
        if not why or why == former:
            # That the registry answers again shows in what it brings.
            return None
        message = f"{image.reference} could not be looked up, so the copy on this machine is used: "
        return _event("image-not-refreshed", message + one_line(why), IMAGE_READY)


def _key(need: Need) -> _Key:
    return need.reference, need.policy


def _event(kind: str, message: str, cause: str) -> NewEvent:
    return NewEvent(pod="", type=kind, message=message, cause=cause)
