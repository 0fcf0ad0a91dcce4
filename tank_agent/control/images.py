"""The verbs about images: list, pull, remove and prune; what a pod needs stays, whatever is asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

from msgspec import Struct

from tank_agent.api.types import ListedImage, PullLine, PullReport, RemovedImages, shown
from tank_agent.errors import ImageInUse, Retry, TankError
from tank_agent.image.config import Progress
from tank_agent.image.store.store import ImageStore, Pruned, StoredImage
from tank_agent.linux.clock import rfc3339
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.reconcile.steps import Machine
from tank_agent.settings.image import PullPolicy
from tank_agent.spec.reference import find_image, is_digest

# How often a pull that goes on is looked at, in seconds.
_LOOK = 0.2
_PREPARED_WITHIN = 60.0
_NOTHING = Progress(done=0, total=0)


class _Use(Struct, frozen=True):
    """An image that is needed: as a pod file names it, or `name@digest` of what runs."""

    pod: str
    image: str
    why: str


class _Need(NamedTuple):
    """A use, the full form of its reference, and the images that it means by name and by digest."""

    use: _Use
    full: str | None
    digests: frozenset[str]


class Images:
    """What the API asks about images. All methods may be called from many threads.

    Args:
        store: where images are.
        machine: what runs, and what should.
        reconciler: woken when an image came that pods wait for.
    """

    def __init__(self, store: ImageStore, machine: Machine, reconciler: Reconciler) -> None:
        self._store = store
        self._machine = machine
        self._reconciler = reconciler

    def list(self) -> Sequence[ListedImage]:
        """Return all images by name; those that no name stands for come last."""
        rows = self._store.list()
        pods: dict[str, set[str]] = {}
        for need in _needs(self._uses(), rows):
            for digest in need.digests:
                pods.setdefault(digest, set()).add(need.use.pod)
        return [_listed(row, pods.get(row.digest, ())) for row in rows]

    def pull(self, reference: str, policy: PullPolicy, ended: Callable[[], bool]) -> Iterator[PullLine]:
        """Fetch an image: yields how far it is a few times a second, and at last the image.

        Ends early, with an error, when `ended()` becomes true.

        Raises:
            Stalled: no such image, or one that we refuse.
            Retry: it failed for now; with "always" also if the registry could not be asked.
        """
        full = str(find_image(reference))
        deadline = time.monotonic() + _PREPARED_WITHIN
        while not self._machine.pulls.wait(_LOOK):
            if ended() or time.monotonic() > deadline:
                raise Retry("the image store is still being cleaned", hint="try again in a minute")
            yield _line(_NOTHING)
        over = threading.Event()
        seen = [_NOTHING]
        with ThreadPoolExecutor(1, thread_name_prefix="image-pull") as pool:
            future = pool.submit(
                self._store.pull,
                reference,
                policy=policy,
                progress=lambda progress: seen.__setitem__(0, progress),
                cancelled=lambda: over.is_set() or ended(),
            )
            try:
                while not wait([future], _LOOK).done:
                    yield _line(seen[0])
            finally:
                over.set()
            image = future.result()
        if image.not_refreshed:
            raise Retry(
                f"the registry did not answer; the copy of {full} on this machine stays as it is",
                hint=image.not_refreshed,
            )
        yield _line(seen[0])
        self._tell_pods(full)
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
        rows = self._store.list()
        wanted = reference if is_digest(reference) else str(find_image(reference))
        going = [row for row in rows if wanted in (row.reference, row.digest)]
        staying = {row.digest for row in rows if row not in going}
        needs = _needs(self._uses(), rows)
        for row in going:
            users = [
                need.use
                for need in needs
                if need.full == row.reference or (row.digest not in staying and row.digest in need.digests)
            ]
            if users:
                raise ImageInUse(
                    f"the image {row.reference or row.digest} is needed: "
                    + ", ".join(dict.fromkeys(f"pod {use.pod} {use.why}" for use in users)),
                    hint="remove the pod first, or change its image",
                )
        return _removed(self._store.remove(reference, keep=_Needed(self)))

    def prune(self) -> RemovedImages:
        """Remove every image that no pod runs, should run, or ran before its last change."""
        return _removed(self._store.prune(_Needed(self)))

    def needed(self) -> Iterator[str]:
        """Yield references and digests of all images that pods need now."""
        for use in self._uses():
            yield use.image
            digest = use.image.rpartition("@")[2]
            if is_digest(digest):
                yield digest

    def _uses(self) -> Iterator[_Use]:
        for name, desired in self._machine.journal.desired().items():
            for container in desired.pod.containers:
                if container.image is not None:
                    yield _Use(name, container.image, "is to run it")
            former = [
                revision
                for revision in self._machine.journal.history(name)
                if revision.generation < desired.generation
            ]
            for container in former[-1].pod.containers if former else ():
                if container.image is not None:
                    yield _Use(name, container.image, "ran it before its last change")
        containers = self._machine.containers
        for name in containers.pods():
            for run in containers.runs(name):
                # A root file system on the host's disk is no image.
                if not run.record.image.startswith("/"):
                    yield _Use(name, run.record.image, "runs it")

    def _tell_pods(self, full: str) -> None:
        """Let pods that wait for the image look again, also those that gave up for a while."""
        for name, desired in self._machine.journal.desired().items():
            named = {container.image for container in desired.pod.containers if container.image}
            mine = {image for image in named if _full(image) == full}
            for image in mine:
                self._machine.pulls.pulled(image)
            if mine:
                self._reconciler.wake(name, "image pulled")


class _Needed(Collection[str]):
    """What pods need, looked up when the store asks: a pod that came a moment ago counts, too."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __iter__(self) -> Iterator[str]:
        return self._images.needed()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in set(self)


def _full(reference: str) -> str | None:
    """Return the full form of a reference; None if it can't be read."""
    try:
        return str(find_image(reference))
    except TankError:
        return None


def _needs(uses: Iterable[_Use], rows: Sequence[StoredImage]) -> tuple[_Need, ...]:
    named = {row.reference: row.digest for row in rows if row.reference}
    found = []
    for use in uses:
        full, digest = _full(use.image), use.image.rpartition("@")[2]
        digests = {named[full]} if full in named else set()
        digests |= {digest} if is_digest(digest) else set()
        found.append(_Need(use, full, frozenset(digests)))
    return tuple(found)


def _listed(row: StoredImage, pods: Collection[str]) -> ListedImage:
    return ListedImage(
        reference=row.reference,
        digest=row.digest,
        size=row.size,
        layers=row.layers,
        pulled_at=rfc3339(row.pulled_at or None),
        pods=tuple(sorted(pods)),
    )


def _line(progress: Progress) -> PullLine:
    return PullLine(progress=shown(progress, PullReport))


def _removed(pruned: Pruned) -> RemovedImages:
    return RemovedImages(removed=pruned.removed, freed=pruned.freed)
