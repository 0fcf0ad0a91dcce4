"""Pulls of images, which run beside the workers, and wake the pods that wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from functools import partial

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
from tank_agent.reconcile.counters import Counters
from tank_agent.retry import Failure
from tank_agent.spec.model import Container, PullPolicy

_log = structlog.get_logger()
# For each registry, or place on this machine, so that one that stalls delays only its own pods. Pulls mostly
# wait, and the store limits the layers that are fetched at once.
_PARALLEL = 8
_MOST_PARALLEL = 256
IMAGE_READY, PULL_FAILED = "image ready", "pull failed"
# The least seconds between two tries, even if containers have no back-off.
_LEAST_DELAY = 1.0


_Key = tuple[str, PullPolicy, str]


class Need(Struct, frozen=True, kw_only=True):
    """The image that a container of a pod needs, and when its registry is asked for it.

    With `digest`, of a manifest, it is that very image, whatever the reference stands for now.
    """

    pod: str
    container: str
    reference: str
    policy: PullPolicy
    digest: str = ""

    @property
    def key(self) -> _Key:
        """Return the key of the pull; containers share it if they want the same image in the same way."""
        return self.reference, self.policy, self.digest


class _Job(Struct, kw_only=True):
    progress: PullProgress | None = None
    cancelled: bool = False


class _Wanted(Struct, kw_only=True):
    """An image wanted in one way, and the needs for it; `fresh` are those that a pull was made for."""

    needs: set[Need] = msgspec.field(default_factory=set)
    fresh: set[Need] = msgspec.field(default_factory=set)
    ready: bool = False
    job: _Job | None = None
    failure: Failure | None = None

    def known(self, need: Need) -> ObservedImage | None:
        """Return the state of the image for a container; None if only the store knows it."""
        if need in self.fresh if need.policy == "always" else self.ready:
            return ObservedImage(state=ImageState.READY)
        if self.job is None:
            return None
        # The last error counts until a try succeeds.
        error = self.failure.error if self.failure is not None else None
        return ObservedImage(state=ImageState.PULLING, error=error, progress=self.job.progress)


class Pulls:
    """Knows for every needed image whether it is ready, being pulled, or why its pull failed.

    To `observe` an image is a pure read; only `want` and `pull`, of the loop, make a pod wait for one. With
    the policy "always", an image is ready for the one start that a pull was made for.

    Args:
        store: has the images.
        clock: for the back-off of failed pulls.
        backoff: as for restarts.
        wake: called with a pod's name when an image that it waits for is ready or failed.
        policy: for containers without one, which is read by others, too.
        prepare: makes the store ready, in the background; until then, every image counts as being pulled.
        report: called before `wake` with all pods that waited for a pull, and the event of its end.
        counters: counts the pulls that ended.
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
        counters: Counters | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._backoff = backoff
        self._wake = wake
        self.policy = policy
        self._report = report
        self._counters = counters or Counters()
        self._lock = threading.Lock()
        # By pod and by image, so that no call searches the needs of all.
        self._pods: dict[str, frozenset[Need]] = {}
        self._images: dict[_Key, _Wanted] = {}
        # Reported already: a container that restarts often asks as often.
        self._not_refreshed: dict[_Key, str] = {}
        self._prepared = threading.Event()
        self._lanes = Lanes("pull", each=_PARALLEL, most=_MOST_PARALLEL)
        self._lanes.submit("", lambda: self._prepare(prepare))

    def wait(self, timeout: float) -> bool:
        """Block until the store is ready; False if it is not within `timeout` seconds."""
        return self._prepared.wait(timeout)

    def need(self, pod: str, container: Container, digest: str = "") -> Need:
        """Return the need of a container that has an image, or that must run the one with this digest."""
        assert container.image is not None
        policy = container.pull or self.policy
        if digest and policy == "always":
            # Nobody can have another image by the same digest.
            policy = "missing"
        return Need(
            pod=pod, container=container.name, reference=container.image, policy=policy, digest=digest
        )

    def observe(self, need: Need) -> ObservedImage:
        """Return the state of an image for a container; asks the store only if it is not known."""
        if not self._prepared.is_set():
            return ObservedImage(state=ImageState.PULLING)
        with self._lock:
            wanted = self._images.get(need.key, _Wanted())
            known, failure = wanted.known(need), wanted.failure
        if known is not None:
            return known
        try:
            image = self._store.cached(need.reference, need.digest) if need.policy != "always" else None
        except TankError as error:
            # A bad reference does not get better by frequent tries.
            again = self._clock.monotonic() + self._backoff.cap
            return ObservedImage(state=ImageState.FAILED, error=str(error), retry_at=again)
        if image is not None:
            with self._lock:
                wanted.ready = bool(wanted.needs)
            return ObservedImage(state=ImageState.READY)
        if failure is not None:
            return ObservedImage(state=ImageState.FAILED, error=failure.error, retry_at=failure.retry_at)
        return ObservedImage(state=ImageState.ABSENT)

    def get(self, need: Need) -> Image | None:
        """Return an image to start from, and use up a pull for this start; None if the image was removed."""
        image = self._store.cached(need.reference, need.digest)
        with self._lock:
            wanted = self._images.get(need.key, _Wanted())
            wanted.fresh.discard(need)
            wanted.ready = wanted.ready and image is not None
        return image

    def pull(self, need: Need) -> bool:
        """Begin to fetch an image that a container needs, or join the pull that is under way.

        Returns True if a "pulling" event should be recorded (not for a refresh, a retry, or policy "never").
        """
        known = self._store.cached(need.reference, need.digest)
        with self._lock:
            self._pods[need.pod] = self._pods.get(need.pod, frozenset()) | {need}
            wanted = self._want(need)
            if wanted.job is not None:
                return False
            job = wanted.job = _Job()
            first = known is None and wanted.failure is None and need.policy != "never"
        self._lanes.submit(lane_of(need.reference), lambda: self._run(need.key, wanted, job, known))
        return first

    def pulled(self, reference: str) -> None:
        """Forget the failed pulls of an image that was fetched elsewhere."""
        with self._lock:
            for key, wanted in self._images.items():
                if key[0] == reference:
                    wanted.failure = None

    def retry(self, pod: str) -> None:
        """Forget the failed pulls of a pod: its next look tries them at once."""
        with self._lock:
            for need in self._pods.get(pod, ()):
                self._images[need.key].failure = None

    def proved(self, reference: str, digest: str, since: float) -> None:
        """Let a reference stand for an image that was good in an update of `since`; log a failure to.

        Until then it stands for the former one: an image that fails is to be nobody's.
        """
        try:
            self._store.name(reference, digest, since)
        except (TankError, OSError) as error:
            _log.warning("cannot let a name stand for a newer image", image=reference, error=str(error))

    def want(self, pod: str, needs: Collection[Need]) -> None:
        """Set the needs of a pod, and cancel the pulls that no pod needs any more."""
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
        wanted = self._images.setdefault(need.key, _Wanted())
        wanted.needs.add(need)
        return wanted

    def _give_up(self, need: Need) -> None:
        wanted = self._images[need.key]
        wanted.needs.discard(need)
        wanted.fresh.discard(need)
        if not wanted.needs and wanted.job is None:
            del self._images[need.key]
        elif not wanted.needs and wanted.job is not None:
            wanted.ready, wanted.failure, wanted.job.cancelled = False, None, True

    def close(self) -> None:
        """Cancel every pull; the next one uses what was fetched already."""
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
        (reference, policy, digest), began = key, time.monotonic()
        log = _log.bind(image=reference)
        progress = partial(setattr, job, "progress")
        image: Image | None = None
        error = ""
        try:
            image = self._store.pull(
                reference,
                digest=digest,
                policy=policy,
                progress=progress,
                cancelled=lambda: job.cancelled,
            )
        except TankError as failure:
            error = str(failure)
        except Exception as failure:
            log.exception("pull failed by a bug")
            error = f"cannot pull {reference}: {failure!r}"
        if error and not job.cancelled:
            log.warning("pull failed", error=error)
        if image is not None or not job.cancelled:
            self._counters.pull(good=image is not None)
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
        """Keep a failed pull, and return its event; None if the error is the same as before."""
        former, now = wanted.failure or Failure(), self._clock.monotonic()
        failure = former.again(error, self._backoff, now)
        wanted.failure = replace(failure, retry_at=max(failure.retry_at, now + _LEAST_DELAY))
        return _event("pull-failed", one_line(error), PULL_FAILED) if former.error != error else None

    def _refreshed(
        self, key: _Key, image: Image, known: Image | None, progress: PullProgress | None, seconds: float
    ) -> NewEvent | None:
        """Return the event for an image that changed, or whose registry does not answer."""
        former, why = self._not_refreshed.pop(key, ""), image.not_refreshed
        if why:
            self._not_refreshed[key] = why
        if known is None or known.digest != image.digest:
            layers = progress.layers if progress is not None else ()
            fetched = sum(layer.total for layer in layers if layer.state != "cached")
            message = f"pulled {image.name}: {fetched / 1e6:.1f} MB in {seconds:.1f} s"
            return _event("pulled", message, IMAGE_READY)
        if not why or why == former:
            return None
        message = f"{image.reference} could not be looked up, so the copy on this machine is used: "
        return _event("image-not-refreshed", message + one_line(why), IMAGE_READY)


def _event(kind: str, message: str, cause: str) -> NewEvent:
    return NewEvent(pod="", type=kind, message=message, cause=cause)
