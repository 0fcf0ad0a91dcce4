"""The verbs about images: list, pull, remove and prune; images that a pod needs always stay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from tank_agent.api.types import ListedImage, PullLine, PullReport, RemovedImages, shown
from tank_agent.errors import Retry, TankError
from tank_agent.image.config import PullProgress
from tank_agent.image.store.store import ImageStore, ImageUse
from tank_agent.linux.clock import rfc3339
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.reconcile.steps import Machine
from tank_agent.settings.image import PullPolicy
from tank_agent.spec.model import Pod
from tank_agent.spec.reference import find_image

# How often a pull that goes on is looked at, in seconds.
_LOOK = 0.2
_PREPARED_WITHIN = 60.0
_NOTHING = PullProgress(done=0, total=0)


class Images:
    """Images as the API shows them. All methods may be called from many threads."""

    def __init__(self, store: ImageStore, machine: Machine, reconciler: Reconciler) -> None:
        self._store = store
        self._machine = machine
        self._reconciler = reconciler

    def list(self) -> Sequence[ListedImage]:
        """Return all images by name; those that no name stands for come last."""
        rows = self._store.list()
        pods: dict[str, set[str]] = {}
        for need in self._store.needs(self._uses()):
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
            for row in rows
        ]

    def pull(self, reference: str, policy: PullPolicy, ended: Callable[[], bool]) -> Iterator[PullLine]:
        """Fetch an image: yields how far it is a few times a second, and at last the image.

        Ends early, with an error, when `ended()` becomes true; with "always" also if the registry can't be
        asked.
        """
        full = str(find_image(reference))
        deadline = time.monotonic() + _PREPARED_WITHIN
        while not self._machine.pulls.wait(_LOOK):
            if ended() or time.monotonic() > deadline:
                raise Retry("the image store is still being cleaned", hint="try again in a minute")
            yield _line(_NOTHING)
        given_up = threading.Event()
        seen = [_NOTHING]
        with ThreadPoolExecutor(1, thread_name_prefix="image-pull") as pool:
            future = pool.submit(
                self._store.pull,
                reference,
                policy=policy,
                progress=lambda progress: seen.__setitem__(0, progress),
                cancelled=lambda: given_up.is_set() or ended(),
            )
            try:
                while not wait([future], _LOOK).done:
                    yield _line(seen[0])
            finally:
                given_up.set()
            image = future.result()
        if image.not_refreshed:
            wrong = f"the registry did not answer; the copy of {full} on this machine stays as it is"
            raise Retry(wrong, hint=image.not_refreshed)
        yield _line(seen[0])
        self._wake_waiting(full)
        # An image on disk has no name of its own digest, so the one that was asked for is looked up.
        found = [row for row in self.list() if row.reference == full and row.digest == image.digest]
        if not found:
            raise Retry(f"{full} was removed while it was pulled")
        yield PullLine(image=found[0])

    def remove(self, reference: str) -> RemovedImages:
        """Remove a name or, by its digest, an image with all its names.

        Raises:
            ImageInUse: a pod runs it, should run it, or did before its last change.
            Stalled: there is no such image.
        """
        return shown(self._store.remove(reference, self._uses()), RemovedImages)

    def prune(self) -> RemovedImages:
        """Remove every image that no pod runs, should run, or ran before its last change."""
        return shown(self._store.prune(self._uses()), RemovedImages)

    def _uses(self) -> Iterator[ImageUse]:
        journal, containers = self._machine.journal, self._machine.containers
        for name, desired in journal.desired().items():
            for image in _images(desired.pod):
                yield ImageUse(image=image, pod=name, why="is to run it")
            former = [old for old in journal.history(name) if old.generation < desired.generation]
            for image in _images(former[-1].pod) if former else ():
                yield ImageUse(image=image, pod=name, why="ran it before its last change")
        for name in containers.pods():
            for run in containers.runs(name):
                # A root file system on the host's disk is no image.
                if not run.record.image.startswith("/"):
                    yield ImageUse(image=run.record.image, pod=name, why="runs it")

    def _wake_waiting(self, full: str) -> None:
        """Let pods that wait for the image look again, also those that gave up for a while."""
        for name, desired in self._machine.journal.desired().items():
            named = {image for image in _images(desired.pod) if _is(image, full)}
            for image in named:
                self._machine.pulls.pulled(image)
            if named:
                self._reconciler.wake(name, "image pulled")


def _images(pod: Pod) -> list[str]:
    return [container.image for container in pod.containers if container.image is not None]


def _is(image: str, full: str) -> bool:
    try:
        return str(find_image(image)) == full
    except TankError:
        return False


def _line(progress: PullProgress) -> PullLine:
    return PullLine(progress=shown(progress, PullReport))
