"""The verbs about images: list, pull, remove and prune; images that a pod needs always stay."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from tank_agent.api.storage import ImageUpdate, ListedImage, MovedImage, PullReport, RemovedImages
from tank_agent.api.types import PullLine, UpdateLine, shown
from tank_agent.errors import Retry, TankError
from tank_agent.image.config import Image, PullProgress
from tank_agent.image.store.store import ImageStore, ImageUse
from tank_agent.journal.records import NewEvent, Revision
from tank_agent.linux.clock import rfc3339
from tank_agent.reconcile.image_checks import ImageChecks
from tank_agent.reconcile.machine import Machine
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.settings.image import PullPolicy
from tank_agent.spec.model import Pod
from tank_agent.spec.reference import find_image

# Seconds between two reports of a pull.
_LOOK = 0.2
_PREPARED_WITHIN = 60.0
# Characters of a digest, and the number of images, that an event names.
_SHORT = 19
_NAMED = 10
_NOTHING = PullProgress(done=0, total=0)
T = TypeVar("T")
L = TypeVar("L")


@dataclass(eq=False)
class Images:
    """The images, as the API sees them. All methods may be called from many threads."""

    store: ImageStore
    machine: Machine
    reconciler: Reconciler
    checks: ImageChecks

    def list(self) -> Sequence[ListedImage]:
        """Return all images by name; those without a name come last."""
        pods: dict[str, set[str]] = {}
        for need in self.store.needs(self._uses()):
            for digest in need.digests:
                pods.setdefault(digest, set()).add(need.use.pod)
        return [
            ListedImage(
                reference=row.reference,
                digest=row.digest,
                size=row.size,
                layers=row.layers,
                pulled_at=rfc3339(row.pulled_at or None),
                pods=tuple(sorted(pods.get(row.digest, ()))),
            )
            for row in self.store.list()
        ]

    def pull(
        self, reference: str, policy: PullPolicy, ended: Callable[[], bool], *, by: str = ""
    ) -> Iterator[PullLine]:
        """Fetch an image for the user `by`: yield how far it is, and at last the image.

        Fails when `ended()` becomes true, and with "always" if the registry does not answer.
        """
        full = str(find_image(reference))
        before = {row.digest for row in self.store.list() if row.reference == full}
        fetching = self._fetch(reference, partial(self.store.pull, reference, policy=policy), ended)
        image, latest = yield from _each(fetching, _line)
        if image.digest not in before:
            self._tell("pulled", f"pulled {full}: it is {image.digest[:_SHORT]} now", by)
        yield _line(latest)
        # An image on disk has no name of its own, so the name asked for is looked up.
        for row in self.list():
            if row.reference == full and row.digest == image.digest:
                yield PullLine(image=row)
                return
        raise Retry(f"{full} was removed while it was pulled")

    def update(
        self, name: str, ended: Callable[[], bool], *, by: str = "", force: bool = False
    ) -> Iterator[UpdateLine]:
        """Look now for newer images of a pod, fetch them, and make them an update of it.

        Yields how far it is as `pull` does, and at last what moved. `force` tries an image again that failed.

        Raises:
            PodNotFound: there is none of that name.
            Stalled: the pod is held, or an image failed in it before.
            Retry: it was changed meanwhile.
        """
        looking = _beside(partial(self.checks.check_now, name, force=force), deque([_NOTHING]))
        pod, found = yield from _each(looking, _line_of_update)
        digests: dict[str, str] = {}
        for reference, digest in {one.image: one.after for one in found}.items():
            pull = partial(self.store.pull_newer, reference, digest)
            image, _ = yield from _each(self._fetch(reference, pull, ended), _line_of_update)
            digests[reference] = image.digest
        # What is on disk may have changed once more since the look.
        moved = [replace(one, after=digests[one.image]) for one in found]
        moved = [one for one in moved if one.after != one.before]
        images = {one.container: one.after for one in moved}
        if images and not self.checks.move(pod, images, by=by, force=force):
            raise Retry(f"pod {name} was changed meanwhile", hint="look at it, and try again")
        now = self.machine.journal.get(name)
        generation = now.generation if now is not None else 0
        shown_images = tuple(shown(one, MovedImage) for one in moved)
        stopped = self.machine.journal.status(name).stopped is not None
        update = ImageUpdate(name=name, generation=generation, moved=shown_images, stopped=stopped)
        yield UpdateLine(update=update)

    def _fetch(
        self, reference: str, pull: Callable[..., Image], ended: Callable[[], bool]
    ) -> Generator[PullProgress, None, tuple[Image, PullProgress]]:
        """Yield how far a pull is, and return the image and the last progress; raises as `pull`."""
        full = str(find_image(reference))
        deadline = time.monotonic() + _PREPARED_WITHIN
        while not self.machine.pulls.wait(_LOOK):
            if ended() or time.monotonic() > deadline:
                raise Retry("the image store is still being cleaned", hint="try again in a minute")
            yield _NOTHING
        latest, given_up = deque([_NOTHING], maxlen=1), threading.Event()
        work = partial(pull, progress=latest.append, cancelled=lambda: given_up.is_set() or ended())
        try:
            image = yield from _beside(work, latest)
        finally:
            given_up.set()
        if image.not_refreshed:
            wrong = f"the registry did not answer; the copy of {full} on this machine stays as it is"
            raise Retry(wrong, hint=image.not_refreshed)
        self._wake_waiting(full)
        return image, latest[0]

    def remove(self, reference: str, *, by: str = "") -> RemovedImages:
        """Remove a name or, by its digest, an image with all its names, for the user `by`.

        Raises:
            ImageInUse: a pod runs it, should run it, or did before its last change.
            Stalled: there is no such image.
        """
        removed = shown(self.store.remove(reference, self._uses()), RemovedImages)
        self._tell_removed(removed, by)
        return removed

    def prune(self, by: str = "") -> RemovedImages:
        """Remove every image that no pod runs, should run, or ran before its last change."""
        removed = shown(self.store.prune(self._uses()), RemovedImages)
        self._tell_removed(removed, by)
        return removed

    def _tell_removed(self, removed: RemovedImages, by: str) -> None:
        """Record an event for what was removed, if that is anything."""
        names = [*removed.removed]
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            self._tell("image-removed", f"removed {', '.join(names[:_NAMED])}{more}", by)

    def _tell(self, kind: str, message: str, by: str) -> None:
        self.machine.journal.try_to_record([NewEvent(pod="", type=kind, message=message, by=by)])

    def _uses(self) -> Iterator[ImageUse]:
        journal, containers = self.machine.journal, self.machine.containers
        for name, desired in journal.desired().items():
            for image in (*_images(desired.pod), *desired.images.values()):
                yield ImageUse(image=image, pod=name, why="is to run it")
            history = journal.history(name)
            former = [old for old in history if old.generation < desired.generation]
            for image in _of_revision(former[-1]) if former else ():
                yield ImageUse(image=image, pod=name, why="ran it before its last change")
            # What it goes back to by itself, what runs until an update can begin, and what it is kept from or
            # was rolled back to.
            status, hold = journal.status(name), desired.hold
            good, rollout = status.good, status.rollout
            kept = {good.generation if good is not None else 0, hold.generation if hold is not None else 0}
            kept |= {rollout.replaced} if rollout is not None and rollout.outcome is None else set()
            kept_images = [image for old in history if old.generation in kept for image in _of_revision(old)]
            for image in (*kept_images, *(good.images.values() if good is not None else ())):
                yield ImageUse(image=image, pod=name, why="goes back to it if an update fails")
        for name in containers.pods():
            for run in containers.runs(name):
                # A root file system on the host's disk is no image.
                if not run.record.image.startswith("/"):
                    yield ImageUse(image=run.record.image, pod=name, why="runs it")

    def _wake_waiting(self, full: str) -> None:
        """Wake the pods that wait for an image, also those that back off."""
        for name, desired in self.machine.journal.desired().items():
            for image in {image for image in _images(desired.pod) if _is(image, full)}:
                self.machine.pulls.pulled(image)
                self.reconciler.wake(name, "image pulled")


def _images(pod: Pod) -> list[str]:
    return [container.image for container in pod.containers if container.image is not None]


def _of_revision(revision: Revision) -> list[str]:
    """Return the images of a revision, and the digests that it ran."""
    ran = revision.verdict.images if revision.verdict is not None else {}
    return [*_images(revision.pod), *revision.images.values(), *ran.values()]


def _is(image: str, full: str) -> bool:
    try:
        return str(find_image(image)) == full
    except TankError:
        return False


def _beside(work: Callable[[], T], latest: deque[PullProgress]) -> Generator[PullProgress, None, T]:
    """Do some work in a thread, yield the latest progress a few times a second, and return the result."""
    with ThreadPoolExecutor(1, thread_name_prefix="image-pull") as pool:
        future = pool.submit(work)
        while not wait([future], _LOOK).done:
            yield latest[0]
        return future.result()


def _each(
    progress: Generator[PullProgress, None, T], line: Callable[[PullProgress], L]
) -> Generator[L, None, T]:
    """Yield the lines of all progress, and return the result."""
    with closing(progress):
        while True:
            try:
                now = next(progress)
            except StopIteration as stop:
                result: T = stop.value
                return result
            yield line(now)


def _line(progress: PullProgress) -> PullLine:
    return PullLine(progress=shown(progress, PullReport))


def _line_of_update(progress: PullProgress) -> UpdateLine:
    return UpdateLine(progress=shown(progress, PullReport))
