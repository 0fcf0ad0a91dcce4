"""Newer images behind the references of a pod: which there are, and which become an update. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.journal.records import DesiredPod, PodStatus, Revision
from tank_agent.spec.model import Container, Pod
from tank_agent.spec.reference import Reference, find_image

# The looks in a row that must give an image which is older than the one that runs: a registry that lost its
# newest state, or an old mirror in its place, must downgrade nobody.
_AGREED = 2


class TagLook(Struct, frozen=True, kw_only=True):
    """The last look at what a reference stands for in its registry, or on this machine's disk.

    `asked` is the answer to the small question (a digest, or a stamp on disk); if it is the same the next
    time, so is the image; "" asks in full. `digest` is the manifest's for this machine, `created` the Unix
    time at which the image was built, and `agreed` the number of looks in a row that gave it. `at` and `due`
    are the Unix times of this look and of the next one. `error` is why the last look failed, `failures` how
    many failed in a row.
    """

    asked: str = ""
    digest: str = ""
    created: float | None = None
    agreed: int = 0
    at: float = 0.0
    due: float = 0.0
    error: str = ""
    failures: int = 0


@functools.lru_cache(4096)
def tag_of(image: str | None) -> Reference | None:
    """Return the reference of an image that may become another one; None if it can't."""
    try:
        found = find_image(image) if image is not None else None
    except TankError:
        return None
    return None if found is None or found.digest else found


def tags_of(pod: Pod) -> dict[str, str]:
    """Return the images of a pod that may become other ones: as its file writes them, by their full form."""
    found = ((tag_of(container.image), container.image) for container in pod.containers)
    return {str(tag): image for tag, image in found if tag is not None and image is not None}


class Newer(Struct, frozen=True, kw_only=True):
    """The facts from which newer images of one pod follow.

    `looks` are by the full form of the reference, `runs` the digests of runs by container.
    """

    desired: DesiredPod
    status: PodStatus
    looks: Mapping[str, TagLook]
    runs: Mapping[str, str]

    def runs_now(self, container: str) -> str:
        """Return the digest of the image that a container runs, or is to run; "" if that is not known."""
        known, good = self.status.containers.get(container), self.status.good
        return (
            self.desired.images.get(container)
            or self.runs.get(container)
            or (known.digest if known is not None else "")
            or (good.images.get(container) if good is not None and good.hash == self.desired.hash else "")
            or ""
        )

    def moved(self) -> dict[str, TagLook]:
        """Return, by container, the looks that found another image than the one that runs."""
        found = {}
        for container in self.desired.pod.containers:
            look, now = self._look(container), self.runs_now(container.name)
            if look is not None and look.digest and now and look.digest != now:
                found[container.name] = look
        return found

    def acceptable(
        self, created: Callable[[str], float | None], history: Callable[[], Iterable[Revision]]
    ) -> dict[str, str]:
        """Return, by container, the digests to move to: neither failed before, nor older by accident.

        `created` gives the time at which an image of this machine was built.
        """
        found = {}
        for container, look in self.moved().items():
            former = created(self.runs_now(container))
            is_older = former is not None and look.created is not None and look.created < former
            if is_older and look.agreed < _AGREED:
                continue
            if self.failed(container, look.digest, history) is None:
                found[container] = look.digest
        return found

    def failed(self, container: str, digest: str, history: Callable[[], Iterable[Revision]]) -> str | None:
        """Return why an image failed in this pod with its present spec; None if it did not.

        One that was good in another revision was not to blame: it only ran beside the one that was.
        """
        for bad in self.status.bad:
            if bad.hash == self.desired.hash and bad.images.get(container) == digest:
                verdicts = (one.verdict for one in history())
                good = (one.images for one in verdicts if one is not None and one.outcome == "good")
                return None if any(images.get(container) == digest for images in good) else bad.reason
        return None

    def may_move(self) -> bool:
        """Return whether a newer image may become an update now: the pod asks for it, and is at rest."""
        if self.status.stopped is not None:
            # Its digests stay until it runs again.
            return False
        if self.desired.hold is not None or self.desired.pod.update.image != "digest":
            return False
        rollout = self.status.rollout
        if rollout is None:
            # It runs since an agent that knew no rollouts.
            return bool(self.runs)
        return rollout.generation == self.desired.generation and rollout.outcome is not None

    def _look(self, container: Container) -> TagLook | None:
        tag = tag_of(container.image)
        return self.looks.get(str(tag)) if tag is not None else None
