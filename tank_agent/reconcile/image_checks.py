"""Looks for newer images behind the tags that pods follow, and makes updates of them.

A registry is asked for the digest of a tag by HEAD, seldom, and one request at a time. All trouble, a tag
that is gone included, is no news. A newer image is fetched beside the one that runs; only then do its pods
get another generation, with its digest.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import PodNotFound, Stalled, TankError, one_line
from tank_agent.image.jobs import CancelledError, Lanes, lane_of
from tank_agent.image.registry.client import BusyError
from tank_agent.image.store.store import ImageStore
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, NewEvent
from tank_agent.linux.clock import Clock
from tank_agent.linux.fault import point
from tank_agent.reconcile.core.newer import Newer, TagLook, tag_of, tags_of
from tank_agent.reconcile.pulls import Pulls
from tank_agent.retry import Failure, Pace
from tank_agent.spec.reference import find_image

_log = structlog.get_logger()
IMAGE_MOVED = "image moved"
_MEMORY = "image.looks"
# The least seconds between two requests to one registry.
_APART = 1.0
# The part of the time between two looks by which it is longer or shorter, so that machines don't ask as one.
_JITTER = 0.1
# After a look that failed; the longest delay is the usual time between two.
_FIRST_RETRY = 600.0
_PULL_PACE = Pace(base=60.0, cap=6 * 3600.0)
_MOST_PULLS = 8
_AFTER_A_BUG = 60.0
_STORE_SOON = 1.0


class MovedContainer(Struct, frozen=True, kw_only=True):
    """A container whose reference, as its file writes it, stands for another image than the one it runs."""

    container: str
    image: str
    before: str
    after: str


class ImageChecks:
    """Looks for newer images, in a thread that starts with the first pod that wants to follow its tags.

    Args:
        journal: has the pods, keeps the looks, and takes the moves.
        store, pulls: fetch images; pulls know when the store is ready.
        clock: Unix time for looks, which are rarer than agents start; monotonic time for what is retried.
        check: the seconds between two looks at a tag, 0 for none.
        wake: called with a pod's name, and the cause, after a move.
        suspended: returns whether all sources are suspended, which keeps every pod as it is.
        runs: returns the digests of a pod's runs by container.
    """

    def __init__(
        self,
        journal: Journal,
        store: ImageStore,
        pulls: Pulls,
        *,
        clock: Clock,
        check: float,
        wake: Callable[[str, str], None],
        suspended: Callable[[], bool] = lambda: False,
        runs: Callable[[str], Mapping[str, str]] = lambda _: {},
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._journal, self._store, self._pulls, self._clock = journal, store, pulls, clock
        self._wake, self._suspended, self._runs, self._chance = wake, suspended, runs, chance
        self._check = check
        self._changed = threading.Condition()
        self._stale = self._closing = False
        self._thread: threading.Thread | None = None
        # Replaced, never changed, so that readers need no lock.
        self._looks: Mapping[str, TagLook] = {}
        # Monotonic times before which a registry is not asked.
        self._quiet: dict[str, float] = {}
        self._fetching: set[str] = set()
        self._failures: dict[str, Failure] = {}
        self._lanes = Lanes("image-update", each=1, most=_MOST_PULLS)

    def start(self) -> None:
        """Begin to look, if a pod asks for it by now."""
        try:
            looks = msgspec.json.decode(self._journal.recall(_MEMORY) or b"{}", type=dict[str, TagLook])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("the last looks at images can't be read", error=str(error))
            looks = {}
        self._looks = looks
        self.resync()

    def resync(self) -> None:
        """Look for pods that have come, and for what is due; cheap, for a regular call."""
        if not self._check or not any(_follows(pod) for pod in self._journal.desired().values()):
            return
        with self._changed:
            self._stale = True
            self._changed.notify_all()
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="image-checks", daemon=True)
                self._thread.start()

    def reload(self, check: float) -> None:
        """Apply another time between two looks; 0 is none."""
        self._check = check
        self.resync()

    def alive(self) -> bool:
        """Return whether the thread still runs, if there must be one."""
        return self._thread is None or self._thread.is_alive()

    def close(self) -> None:
        """Give up looks and pulls, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._lanes.close()
        if self._thread is not None:
            self._thread.join()

    def newer(self, name: str) -> Mapping[str, str]:
        """Return the digests of newer images, by container, for a pod whose tags were looked at."""
        if not self._looks or (desired := self._journal.get(name)) is None:
            return {}
        return self._newer(desired).acceptable(self._store.created, partial(self._journal.history, name))

    def errors(self, name: str) -> Mapping[str, str]:
        """Return, by container, why the last look for a newer image of it failed."""
        if not self._looks or (desired := self._journal.get(name)) is None:
            return {}
        tags = ((container.name, tag_of(container.image)) for container in desired.pod.containers)
        looks = {name: self._looks.get(str(tag)) for name, tag in tags if tag is not None}
        return {name: look.error for name, look in looks.items() if look is not None and look.error}

    def check_now(self, name: str, *, force: bool = False) -> tuple[DesiredPod, list[MovedContainer]]:
        """Look at the tags of a pod now; return the pod, and its containers that run another image.

        Raises:
            PodNotFound: there is none of that name.
            Stalled: the pod is held, or an image failed in it before and `force` is not set.
            TankError: a registry has no answer.
        """
        desired = self._journal.get(name)
        if desired is None:
            raise PodNotFound(f"there is no pod {name}", hint="`tank list` shows all")
        if desired.hold is not None:
            raise Stalled(
                f"pod {name} is {desired.hold.kind}, so its images stay as they are",
                hint=f"`tank resume {name}` lets it change again",
            )
        for full, image in tags_of(desired.pod).items():
            self._keep(full, self._ask(image, self._looks.get(full, TagLook())))
        self._remember()
        known = self._newer(desired)
        moved = []
        for container in desired.pod.containers:
            tag = tag_of(container.image)
            look = self._looks.get(str(tag)) if tag is not None else None
            before = known.runs_now(container.name)
            if look is not None and container.image is not None and look.digest != before:
                image = container.image
                moved.append(
                    MovedContainer(container=container.name, image=image, before=before, after=look.digest)
                )
        if not force:
            for one in moved:
                self._refuse_failed(known, one.container, one.after)
        return desired, moved

    def move(
        self, desired: DesiredPod, images: Mapping[str, str], *, by: str = "", force: bool = False
    ) -> bool:
        """Make fetched images an update of a pod; False if it has changed since, or has them already.

        `by` is the user who asked for it.

        Raises:
            TankError: as `check_now`, or the journal can't store it.
        """
        if not force:
            known = self._newer(desired)
            for container, digest in images.items():
                self._refuse_failed(known, container, digest)
        applied = self._journal.move_images(desired.name, images, desired.generation, by=by)
        point("image:moved")
        for pod in applied.changed:
            _log.info("image moved", pod=pod, images=dict(images))
            self._wake(pod, IMAGE_MOVED)
        return bool(applied.changed)

    def turn(self) -> float | None:
        """Do what is due; return the seconds until there is more, None if there is nothing to wait for."""
        pods = [pod for pod in self._journal.desired().values() if _follows(pod) and pod.hold is None]
        if not self._check or not pods or self._suspended():
            return None
        if not self._pulls.wait(0):
            return _STORE_SOON
        tags = {full: image for pod in pods for full, image in tags_of(pod.pod).items()}
        waits = [self._look_if_due(full, image) for full, image in tags.items()]
        waits += [self._advance(pod) for pod in pods]
        return min((wait for wait in waits if wait is not None), default=None)

    def _run(self) -> None:
        wait: float | None = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stale or self._closing, wait)
                self._stale = False
                if self._closing:
                    return
            try:
                wait = self.turn()
            except Exception:
                if self._stops():
                    return
                _log.exception("looking for newer images failed by a bug")
                wait = _AFTER_A_BUG

    def _stops(self) -> bool:
        return self._closing

    def _newer(self, desired: DesiredPod) -> Newer:
        status = self._journal.status(desired.name)
        return Newer(desired=desired, status=status, looks=self._looks, runs=self._runs(desired.name))

    def _refuse_failed(self, known: Newer, container: str, digest: str) -> None:
        name = known.desired.name
        reason = known.failed(container, digest, partial(self._journal.history, name))
        if reason is not None:
            raise Stalled(
                f"the image {digest[:19]} failed in pod {name} before: {reason}",
                hint=f"`tank image update {name} --force` tries it again",
            )

    # Looks: in the thread, or in that of a caller of `check_now`.

    def _look_if_due(self, full: str, image: str) -> float | None:
        """Look at a tag if it is time to; return the seconds until the next look."""
        look, now, monotonic = self._looks.get(full), self._clock.wall(), self._clock.monotonic()
        if look is None:
            record = self._store.recorded(image)
            if record is None:
                # Its first pull is still to come.
                return None
            # Pulls ask for a tag as looks do.
            look = TagLook(at=record.pulled_at, due=record.pulled_at + self._interval())
            self._keep(full, look)
        # The time between two looks may be another now, and so may the clock.
        due = min(look.due, look.at + self._check * (1 + _JITTER)) if look.at <= now else now
        place = lane_of(image)
        wait = max(due - now, self._quiet.get(place, 0.0) - monotonic if due <= now else 0.0)
        if wait > 0:
            return wait
        after = 0.0
        try:
            found = self._ask(image, look)
        except CancelledError:
            return None
        except Exception as error:
            if not isinstance(error, TankError):
                _log.exception("a look at an image failed by a bug", image=image)
            after = error.after if isinstance(error, BusyError) else 0.0
            found = self._failed(image, look, error, after)
        self._quiet[place] = self._clock.monotonic() + max(_APART, after)
        self._keep(full, found)
        self._remember()
        return max(0.0, found.due - now)

    def _ask(self, image: str, before: TagLook) -> TagLook:
        """Return what a reference stands for now; a full look only if the small question shows that it moved.

        Raises:
            TankError: that can't be known.
        """
        asked, record = self._store.stands_for(image, self._stops), self._store.recorded(image)
        if not asked:
            raise Stalled(f"{image} can't be read")
        is_local = find_image(image).transport != "registry"
        known = (record.stamp if is_local else record.index or record.digest) if record is not None else ""
        digest, created = before.digest, before.created
        if asked == known and record is not None:
            digest, created = record.digest, self._store.created(record.digest)
        elif asked != before.asked or not before.digest:
            found = self._store.look(image, self._stops)
            digest, created = found.digest, found.configuration.created
            if record is not None and record.digest == digest:
                # Only another platform's image is new.
                self._store.note_index(image, found.index)
                point("image:index-noted")
            if not is_local and asked != (found.index or digest):
                # The content decides, and a registry that says another digest than it has is asked in full.
                asked = ""
        agreed = before.agreed + 1 if digest == before.digest else 1
        now = self._clock.wall()
        return TagLook(
            asked=asked, digest=digest, created=created, agreed=agreed, at=now, due=now + self._interval()
        )

    def _failed(self, image: str, look: TagLook, error: Exception, after: float) -> TagLook:
        text, now = one_line(str(error)), self._clock.wall()
        if text != look.error:
            _log.warning("cannot look for a newer image", image=image, error=text)
        pace = Pace(base=min(_FIRST_RETRY, self._check), cap=self._check)
        delay = max(after, pace.delay(look.failures, self._chance()))
        return replace(look, at=now, due=now + delay, error=text, failures=look.failures + 1)

    def _interval(self) -> float:
        return self._check * (1 - _JITTER + 2 * _JITTER * self._chance())

    def _keep(self, full: str, look: TagLook) -> None:
        with self._changed:
            self._looks = {**self._looks, full: look}

    def _remember(self) -> None:
        """Write down the looks at what pods still name; a failure of the journal costs another look later."""
        tags = {full for pod in self._journal.desired().values() for full in tags_of(pod.pod)}
        with self._changed:
            self._looks = {full: look for full, look in self._looks.items() if full in tags}
        try:
            self._journal.remember(_MEMORY, msgspec.json.encode(self._looks))
            point("image:looks-recorded")
        except TankError as error:
            _log.warning("cannot record the looks at images", error=str(error))

    # Moves: only in the thread, but for those of a person.

    def _advance(self, pod: DesiredPod) -> float | None:
        """Fetch the newer images of a pod, or make an update of those that are here.

        Returns the seconds until a pull that failed is tried again.
        """
        known = self._newer(pod)
        images = known.may_move() and known.acceptable(
            self._store.created, partial(self._journal.history, pod.name)
        )
        if not images:
            return None
        named = {container.name: container.image for container in pod.pod.containers}
        missing = {
            image: digest
            for container, digest in images.items()
            if (image := named[container]) is not None and self._store.cached(image, digest) is None
        }
        waits = [self._fetch(image, digest) for image, digest in missing.items()]
        here = {name: digest for name, digest in images.items() if named[name] not in missing}
        # All at once, but those that can be had don't wait for one that can't.
        if here and all(image in self._failures for image in missing):
            try:
                self.move(pod, here)
            except TankError as error:
                _log.warning("cannot move the images of a pod", pod=pod.name, error=str(error))
                return _AFTER_A_BUG
        return min((wait for wait in waits if wait is not None), default=None)

    def _fetch(self, image: str, digest: str) -> float | None:
        """Begin to fetch what a reference stood for; return the seconds until it may be tried again."""
        failure = self._failures.get(image, Failure())
        wait = failure.retry_at - self._clock.monotonic() if failure.count else 0.0
        if wait > 0 or image in self._fetching:
            return wait if wait > 0 else None
        self._fetching.add(image)
        self._lanes.submit(lane_of(image), lambda: self._pull(image, digest))
        return None

    def _pull(self, image: str, digest: str) -> None:
        error, full = "", str(tag_of(image))
        try:
            found = self._store.pull_newer(image, digest, cancelled=self._stops)
            error = found.not_refreshed
        except Exception as failure:
            error = str(failure)
            if not isinstance(failure, TankError):
                _log.exception("a pull failed by a bug", image=image)
        else:
            look = self._looks.get(full, TagLook())
            if not error and found.digest != look.digest:
                # It moved again since the look.
                created = self._store.created(found.digest)
                self._keep(full, replace(look, asked="", digest=found.digest, created=created, agreed=1))
        if error and not self._closing:
            failure_now = self._failures.get(image, Failure())
            now = self._clock.monotonic()
            if failure_now.error != error:
                _log.warning("cannot fetch a newer image", image=image, error=error)
                self._report(image, "pull-failed", one_line(error))
            self._failures[image] = failure_now.again(error, _PULL_PACE, now, self._chance())
        elif not error:
            self._failures.pop(image, None)
            self._pulls.pulled(image)
            self._report(image, "pulled", f"pulled {found.name}, which is newer than the one that runs")
        self._fetching.discard(image)
        with self._changed:
            self._stale = True
            self._changed.notify_all()

    def _report(self, image: str, kind: str, message: str) -> None:
        event = NewEvent(pod="", type=kind, message=message, cause=IMAGE_MOVED)
        self._journal.record_for_pods(_followers(self._journal.desired(), image), event)


def _follows(pod: DesiredPod) -> bool:
    return pod.pod.update.image == "digest"


def _followers(pods: Mapping[str, DesiredPod], image: str) -> Collection[str]:
    full = str(tag_of(image))
    return [name for name, pod in pods.items() if _follows(pod) and full in tags_of(pod.pod)]
