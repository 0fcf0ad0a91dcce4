"""The verbs about images: list, pull, remove and prune; images that a pod needs always stay."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

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

# Seconds between two reports of a pull.
_LOOK = 0.2
_PREPARED_WITHIN = 60.0
_NOTHING = PullProgress(done=0, total=0)


@dataclass(eq=False)
class Images:
    """The images, as the API sees them. All methods may be called from many threads."""

    store: ImageStore
    machine: Machine
    reconciler: Reconciler

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

    def pull(self, reference: str, policy: PullPolicy, ended: Callable[[], bool]) -> Iterator[PullLine]:
        """Fetch an image: yield how far it is a few times a second, and at last the image.

        Fails when `ended()` becomes true, and with "always" if the registry does not answer.
        """
        full = str(find_image(reference))
        deadline = time.monotonic() + _PREPARED_WITHIN
        while not self.machine.pulls.wait(_LOOK):
            if ended() or time.monotonic() > deadline:
                raise Retry("the image store is still being cleaned", hint="try again in a minute")
            yield _line(_NOTHING)
        given_up = threading.Event()
        latest = deque([_NOTHING], maxlen=1)
        with ThreadPoolExecutor(1, thread_name_prefix="image-pull") as pool:
            future = pool.submit(
                self.store.pull,
                reference,
                policy=policy,
                progress=latest.append,
                cancelled=lambda: given_up.is_set() or ended(),
            )
            try:
                while not wait([future], _LOOK).done:
                    yield _line(latest[0])
            finally:
                given_up.set()
            image = future.result()
        if image.not_refreshed:
            wrong = f"the registry did not answer; the copy of {full} on this machine stays as it is"
            raise Retry(wrong, hint=image.not_refreshed)
        yield _line(latest[0])
        self._wake_waiting(full)
        # An image on disk has no name of its own, so the name asked for is looked up.
        for row in self.list():
            if row.reference == full and row.digest == image.digest:
                yield PullLine(image=row)
                return
        raise Retry(f"{full} was removed while it was pulled")

    def remove(self, reference: str) -> RemovedImages:
        """Remove a name or, by its digest, an image with all its names.

        Raises:
            ImageInUse: a pod runs it, should run it, or did before its last change.
            Stalled: there is no such image.
        """
        return shown(self.store.remove(reference, self._uses()), RemovedImages)

    def prune(self) -> RemovedImages:
        """Remove every image that no pod runs, should run, or ran before its last change."""
        return shown(self.store.prune(self._uses()), RemovedImages)

    def _uses(self) -> Iterator[ImageUse]:
        journal, containers = self.machine.journal, self.machine.containers
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
        """Wake the pods that wait for an image, also those that back off."""
        for name, desired in self.machine.journal.desired().items():
            for image in {image for image in _images(desired.pod) if _is(image, full)}:
                self.machine.pulls.pulled(image)
                self.reconciler.wake(name, "image pulled")


def _images(pod: Pod) -> list[str]:
    return [container.image for container in pod.containers if container.image is not None]


def _is(image: str, full: str) -> bool:
    try:
        return str(find_image(image)) == full
    except TankError:
        return False


def _line(progress: PullProgress) -> PullLine:
    return PullLine(progress=shown(progress, PullReport))
