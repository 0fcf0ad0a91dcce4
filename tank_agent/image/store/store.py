"""The image store: list the images of this machine, pull missing ones, and remove those that nobody needs.

It is in <data_dir>/images/ (see files.py), where `lock` keeps a second agent out. Nothing changes in place: a
pull adds layers, then documents, then the record that makes them an image, then the name. So a killed agent
leaves only what `sweep` and `prune` find.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
from msgspec import Struct

from tank_agent.errors import ImageInUse, Retry, Stalled, TankError
from tank_agent.image.config import Cancelled, Image, PullProgress, Report
from tank_agent.image.jobs import Jobs, Lanes
from tank_agent.image.pull import ImageContent, ImagePull, LayerFetcher, MissingError, Resolved
from tank_agent.image.registry.client import RegistryContent, Trouble
from tank_agent.image.store.compose import compose
from tank_agent.image.store.files import ImageRecord, Layers, PulledImage, Records, ReferenceRecord
from tank_agent.image.store.layout import open_on_disk, stamp
from tank_agent.image.unpack.parent import UnpackServer
from tank_agent.linux import fault
from tank_agent.linux.locks import LockFile
from tank_agent.settings.image import ImageSettings, PullPolicy
from tank_agent.spec.reference import Reference, find_image, is_digest

_log = structlog.get_logger()
_ATTEMPTS_WITH_COPY = 2
_NEWER = "`tank image update POD` lets the pod run the image that its reference stands for now"


class StoredImage(Struct, frozen=True):
    """One line of `tank image ls`; `reference` is a full form, or "" for an image without a name.

    `size` is in bytes, uncompressed; layers are shared, so sizes don't add up. `pulled_at` is a Unix time.
    """

    reference: str
    digest: str
    size: int
    layers: int
    pulled_at: float


class Pruned(Struct, frozen=True, kw_only=True):
    """The removed names (digests of images without one), and the size of their layers in bytes."""

    removed: tuple[str, ...] = ()
    freed: int = 0


class ImageUse(Struct, frozen=True, kw_only=True):
    """An image that a pod needs: a reference as in its file, a digest, or `name@digest`."""

    image: str
    pod: str = ""
    why: str = ""


class ImageNeed(NamedTuple):
    """A use, the full form of its reference, and the images that it means by name and by digest."""

    use: ImageUse
    full: str | None
    digests: frozenset[str]


def find_needs(uses: Iterable[ImageUse], records: Sequence[ReferenceRecord]) -> Iterator[ImageNeed]:
    """Yield the images that each use needs."""
    named = {record.reference: record.digest for record in records}
    listed: dict[str, set[str]] = {}
    for record in records:
        listed.setdefault(record.index, set()).add(record.digest)
    for use in uses:
        digest = use.image.rpartition("@")[2]
        digests = {digest, *listed.get(digest, ())} if is_digest(digest) else set()
        try:
            full = str(find_image(use.image))
        except TankError:
            full = None
        if full in named:
            digests.add(named[full])
        yield ImageNeed(use, full, frozenset(digests))


class ImageStore(AbstractContextManager["ImageStore"]):
    """The images in the agent's `data_dir`. Thread-safe. Stalled if another agent has them."""

    def __init__(self, data_dir: Path, settings: ImageSettings | None = None) -> None:
        self._settings = settings or ImageSettings()
        root = data_dir / "images"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        try:
            self._lock_file = LockFile(root / "lock")
        except BlockingIOError as error:
            hint = "stop it, or give this one another --data-dir"
            raise Stalled(f"another agent uses {root}", hint=hint) from error
        self._records, self._layers = Records(root), Layers(root)
        self._server = UnpackServer(self._settings.limits)
        self._fetcher = LayerFetcher(root, self._layers, self._server)
        self._jobs = Jobs(self._settings.parallel)
        self._scratch = root / "partial"
        self._lock = threading.Lock()
        self._pins: dict[object, frozenset[str]] = {}
        self._closed = threading.Event()
        self._sealer = Lanes("image-seal", each=1, most=1)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel all pulls, end the child processes and let another agent in."""
        self._closed.set()
        self._jobs.close()
        self._server.close()
        self._sealer.close()
        self._lock_file.close()

    def cached(self, reference: str, digest: str = "") -> Image | None:
        """Return the image if all of it is on this machine; quick, no network.

        With the digest of a manifest, it is that very image, whatever the reference stands for now.
        """
        named = self._named(find_image(reference), digest)
        known = self._records.image(named.digest) if named is not None else None
        if named is None or known is None:
            return None
        if any(self._layers.record(diff_id) is None for diff_id in known.record.layers):
            return None
        return self._image(reference, known, named)

    def pull(
        self,
        reference: str,
        *,
        digest: str = "",
        policy: PullPolicy | None = None,
        progress: Report = lambda _: None,
        cancelled: Cancelled = lambda: False,
    ) -> Image:
        """Fetch, verify and unpack what is missing, and return the image; stop when `cancelled()` is true.

        Args:
            digest: of a manifest: that very image is taken, from here or from the registry, and the tag is
                neither asked nor changed.
            policy: "missing" takes a cached image, "always" asks the registry first and takes the cached
                image only if nobody answers, "never" asks nobody; None is the policy of agent.toml.
        """
        policy = policy or self._settings.pull
        found = self.cached(reference, digest)
        if found is not None and (digest or policy != "always"):
            return found
        asked = _by_digest(find_image(reference), digest)
        if policy == "never":
            hint = 'pull it with `tank image pull`, or write pull = "missing"'
            image = asked if digest else reference
            raise Stalled(f"the image {image} is not on this machine, and may not be fetched", hint=hint)
        settings = self._settings
        if found is not None:
            # A container waits for its start, and there is a copy to fall back to.
            settings = msgspec.structs.replace(settings, attempts=min(settings.attempts, _ATTEMPTS_WITH_COPY))
        try:
            return self._pull(reference, digest, settings, progress, self._stops(cancelled))
        except MissingError as error:
            if not digest:
                raise
            gone = f"{asked.registry} no longer has the image {digest} of {reference}"
            raise Stalled(gone, hint=_NEWER) from error
        except Retry as error:
            if found is None or cancelled():
                raise
            _log.warning("image is not refreshed, the copy is used", image=reference, error=str(error))
            return msgspec.structs.replace(found, not_refreshed=str(error))

    def pull_newer(
        self,
        reference: str,
        digest: str,
        *,
        progress: Report = lambda _: None,
        cancelled: Cancelled = lambda: False,
    ) -> Image:
        """Fetch the image that a reference stands for now, and let it stand for the former one until `name`.

        What is on disk can be read by its name only, so there the newest is taken, at once.
        """
        in_registry = find_image(reference).transport == "registry"
        policy: PullPolicy = "missing" if in_registry else "always"
        by_digest = digest if in_registry else ""
        return self.pull(reference, digest=by_digest, policy=policy, progress=progress, cancelled=cancelled)

    def recorded(self, reference: str) -> ReferenceRecord | None:
        """Return what a reference stood for when it was pulled last, also if it changed on disk since."""
        return self._records.reference(str(find_image(reference)))

    def created(self, digest: str) -> float | None:
        """Return the Unix time at which an image of this machine was built, None if that is not known."""
        known = self._records.image(digest)
        return known.configuration.created if known is not None else None

    def stands_for(self, reference: str, cancelled: Cancelled = lambda: False) -> str:
        """Return the digest that a registry names for a reference now, or the stamp of an image on disk.

        It costs one small request; "" if an image on disk can't be read. Nothing proves the digest.
        """
        parsed = find_image(reference)
        if parsed.transport != "registry":
            return stamp(parsed)
        with closing(RegistryContent(parsed, self._for_a_look(), self._stops(cancelled), _ignore)) as content:
            return content.digest()

    def look(self, reference: str, cancelled: Cancelled = lambda: False) -> Resolved:
        """Return the image that a reference stands for now at its place, verified, and fetch no layer."""
        parsed, stops = find_image(reference), self._stops(cancelled)
        content = self._content(parsed, self._for_a_look(), stops, _ignore)
        with ImagePull(parsed, content, self._settings, progress=lambda _: None, cancelled=stops) as pull:
            return pull.resolve()

    def note_index(self, reference: str, index: str) -> None:
        """Record another index that lists the image which a reference stands for already."""
        record = self.recorded(reference)
        if record is not None and index != record.index:
            self._records.put_reference(msgspec.structs.replace(record, index=index))

    def name(self, reference: str, digest: str, since: float) -> None:
        """Let a reference stand for an image of this machine, unless it was pulled after `since`."""
        parsed, known = find_image(reference), self._records.image(digest)
        record = self._records.reference(str(parsed))
        fresh = record is not None and (record.pulled_at > since or record.digest == digest)
        if known is not None and not fresh and parsed.transport == "registry":
            self._records.put_reference(ReferenceRecord(str(parsed), digest, pulled_at=since))
            fault.point("image:named-anew")

    def list(self) -> tuple[StoredImage, ...]:
        """Return all images, by name; those without one come last."""
        names = self._records.references()
        unnamed = sorted(set(self._records.images()) - {record.digest for record in names})
        rows = []
        for name in (*names, *(ReferenceRecord("", digest) for digest in unnamed)):
            known = self._records.image(name.digest)
            if known is not None:
                size, layers = known.record.size, len(known.manifest.layers)
                rows.append(StoredImage(name.reference, name.digest, size, layers, name.pulled_at))
        return tuple(rows)

    def needs(self, uses: Iterable[ImageUse]) -> Iterator[ImageNeed]:
        """Yield the images that each use needs."""
        return find_needs(uses, self._records.references())

    def remove(self, reference: str, uses: Iterable[ImageUse] = ()) -> Pruned:
        """Remove a name, and the image with its last name; or, by its digest, an image with all its names.

        `uses` are read late, so that they count a pod which came a moment ago. Stalled if there is no such
        image, or a pull under way needs it; ImageInUse if a pod does.
        """
        with self._lock:
            records = self._records.references()
            if is_digest(reference):
                digest = reference
                names = [record.reference for record in records if record.digest == digest]
            else:
                parsed = find_image(reference)
                found = self._named(parsed)
                names, digest = [str(parsed)], found.digest if found is not None else ""
            if not digest or self._records.image(digest) is None:
                raise Stalled(f"there is no image {reference}", hint="see `tank image ls`")
            stays = digest in {record.digest for record in records if record.reference not in names}
            needs = list(find_needs(uses, records))
            for name in names or [digest]:
                users = [
                    f"pod {need.use.pod} {need.use.why}"
                    for need in needs
                    if need.full == name or (not stays and digest in need.digests)
                ]
                if users:
                    needed = f"the image {name} is needed: {', '.join(dict.fromkeys(users))}"
                    raise ImageInUse(needed, hint="remove the pod first, or change its image")
            if not stays and digest in self._pinned():
                raise Stalled(f"the image {reference} is in use", hint="remove the pod that needs it first")
            for name in names:
                self._records.drop_reference(name)
            if not stays:
                self._records.drop_image(digest)
            freed = self._collect()
        self._layers.empty_trash()
        return Pruned(removed=(reference,), freed=freed)

    def prune(self, uses: Iterable[ImageUse]) -> Pruned:
        """Remove every image that neither these uses nor a pull under way need."""
        with self._lock:
            records = self._records.references()
            wanted = self._pinned().union(*(need.digests for need in find_needs(uses, records)))
            removed = [record.reference for record in records if record.digest not in wanted]
            for name in removed:
                self._records.drop_reference(name)
            unneeded = sorted(set(self._records.images()) - wanted)
            for digest in unneeded:
                self._records.drop_image(digest)
            removed += [digest for digest in unneeded if digest not in {record.digest for record in records}]
            freed = self._collect()
            if not self._pins:
                self._fetcher.sweep(everything=True)
        self._layers.empty_trash()
        return Pruned(removed=tuple(removed), freed=freed)

    def sweep(self) -> None:
        """Remove unfinished work of a killed agent or a power cut; call it once, before the first pull."""
        self._records.sweep()
        self._layers.sweep()
        self._fetcher.sweep()
        self._sealer.submit("", self._seal)

    def _pull(
        self,
        reference: str,
        asked: str,
        settings: ImageSettings,
        progress: Report,
        cancelled: Cancelled,
    ) -> Image:
        """Pull what a reference stands for, or the image with the digest that is asked for."""
        parsed, last = _by_digest(find_image(reference), asked), PullProgress(done=0, total=0)

        def report(now: PullProgress) -> None:
            nonlocal last
            last = now
            progress(now)

        before = stamp(parsed) if parsed.transport != "registry" else ""
        content = self._content(
            parsed, settings, cancelled, lambda text: report(msgspec.structs.replace(last, trouble=text))
        )
        with (
            self._session() as pin,
            ImagePull(parsed, content, self._settings, progress=report, cancelled=cancelled) as pull,
        ):
            resolved = pull.resolve()
            digest = resolved.digest
            if asked and digest != asked:
                raise Stalled(f"{asked} is no image for one platform, but an index", where=reference)
            pin(digest, *resolved.configuration.diff_ids)
            fault.point("image:resolved")
            pull.fetch(resolved, self._layers, self._jobs, self._fetcher)
            try:
                mounted = compose(resolved.configuration.diff_ids, self._layers)
            except OSError as error:
                raise Retry(f"cannot put the layers together: {error}", where=digest) from error
            pin(digest, *resolved.configuration.diff_ids, *mounted)
            found = [self._layers.record(diff_id) for diff_id in mounted]
            size = sum(layer.size for layer in found if layer is not None)
            record = ImageRecord(digest=digest, layers=mounted, size=size)
            self._records.put_image(record, resolved.manifest_data, resolved.configuration_data)
            fault.point("image:recorded")
            name = "" if asked else str(parsed)
            named = ReferenceRecord(name, digest, resolved.index, stamp=before, pulled_at=time.time())
            if name:
                self._records.put_reference(named)
                fault.point("image:named")
            known = self._records.image(digest)
            if known is None:
                raise Retry(f"the image {reference} was damaged while it was stored")
            return self._image(reference, known, named)

    def _content(
        self, reference: Reference, settings: ImageSettings, cancelled: Cancelled, trouble: Trouble
    ) -> ImageContent:
        if reference.transport == "registry":
            return RegistryContent(reference, settings, cancelled, trouble)
        return open_on_disk(reference, self._scratch, settings.image_size)

    def _for_a_look(self) -> ImageSettings:
        """Return settings for looks, which come again by themselves."""
        return msgspec.structs.replace(self._settings, attempts=1)

    def _stops(self, cancelled: Cancelled) -> Cancelled:
        return lambda: cancelled() or self._closed.is_set()

    @contextmanager
    def _session(self) -> Iterator[Callable[..., None]]:
        """Keep what a pull pins from being pruned; after the last pull, end the helper process and seal."""
        token = object()

        def pin(*digests: str) -> None:
            with self._lock:
                self._pins[token] = frozenset(digests)

        pin()
        try:
            yield pin
        finally:
            with self._lock:
                del self._pins[token]
                idle = not self._pins
            if idle:
                self._server.close()
                self._sealer.submit("", self._seal)

    def _seal(self) -> None:
        # If the disk is in trouble, the layers stay unsealed, and are unpacked anew after a reboot.
        with suppress(OSError):
            self._layers.seal(list(self._layers.all()))

    def _named(self, reference: Reference, asked: str = "") -> ReferenceRecord | None:
        """Return what a reference stands for on this machine; with a digest, always the image with that."""
        if asked:
            return ReferenceRecord("", asked)
        record = self._records.reference(str(reference))
        if record is not None:
            now = stamp(reference) if reference.transport != "registry" else ""
            # An image on disk that changed is another image; one that can't be read now is the stored one.
            return None if now and now != record.stamp else record
        if reference.digest:
            if self._records.image(reference.digest) is not None:
                return ReferenceRecord(str(reference), reference.digest)
            for other in self._records.references():
                if other.index == reference.digest:
                    return other
        return None

    def _image(self, reference: str, known: PulledImage, named: ReferenceRecord) -> Image:
        return Image(
            reference=reference,
            digest=known.record.digest,
            layers=tuple(self._layers.directory(diff_id) for diff_id in known.record.layers),
            config=known.configuration.config,
            index=(named.index or named.digest) if named.reference else "",
        )

    def _pinned(self) -> set[str]:
        """Return what the pulls under way need; with the lock held."""
        return set().union(*self._pins.values())

    def _collect(self) -> int:
        """Remove documents and layers that no image needs; files are deleted later, without the lock."""
        found = [self._records.image(digest) for digest in self._records.images()]
        images = [image for image in found if image is not None]
        unneeded = set(self._layers.all()).difference(
            self._pinned(), *(image.record.layers for image in images)
        )
        records = [self._layers.record(diff_id) for diff_id in unneeded]
        for diff_id in unneeded:
            self._layers.bury(diff_id)
        digests = ((image.record.digest, image.manifest.config.digest) for image in images)
        self._records.drop_blobs(set().union(*digests))
        return sum(record.size for record in records if record is not None)


def _ignore(_: str) -> None:
    """Take the trouble of a request that is not tried again."""


def _by_digest(reference: Reference, digest: str) -> Reference:
    """Return the reference of an image that is asked for by its digest, if there is one.

    Raises:
        Stalled: it was on this machine's disk, where another may be by now.
    """
    if not digest:
        return reference
    if reference.transport != "registry":
        gone = f"the image {digest} is no longer in the store, and {reference} may be another one by now"
        raise Stalled(gone, hint=_NEWER)
    return msgspec.structs.replace(reference, tag="", digest=digest)
