"""One pull: fetch, verify and unpack the image that a reference names."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.image.config import Cancelled, LayerProgress, PullProgress, Report
from tank_agent.image.jobs import CancelledError, Job, Jobs, Share
from tank_agent.image.manifest import (
    CONFIG_LIMIT,
    Configuration,
    Descriptor,
    Index,
    Manifest,
    digest_of,
    parse_configuration,
    parse_manifest,
)
from tank_agent.image.platform import Platform, best, host_platform, parse_platform, runs_on
from tank_agent.image.store.files import IMPLICIT, LayerRecord, Layers
from tank_agent.image.unpack.parent import RefusedLayerError, UnpackServer
from tank_agent.linux import fault
from tank_agent.settings.image import ImageSettings
from tank_agent.spec.reference import Reference

_POLL = 0.1
# The seconds without progress after which a pull no longer waits for another pull's fetch of a layer.
_PATIENCE = 3.0
_NESTED_INDEXES = 3
# The entries of an index that are no images but attestations of the builder.
_REFERENCE_TYPE, _ATTESTATION = "vnd.docker.reference.type", "attestation-manifest"
_CHUNK = 1 << 18
_PARTIAL_LIFETIME = 7 * 86400.0
# An image's layers, lowest first, each with the digest of its uncompressed form.
_Pairs = list[tuple[Descriptor, str]]


# Returns at most so many bytes, b"" at the end.
ReadChunk = Callable[[int], bytes]


class DamagedError(Retry):
    """The content is not what the manifest names."""

    reason = "damaged"


class MissingError(Stalled):
    """The place does not have this content."""


class Document(Struct, frozen=True, kw_only=True):
    """An index or a manifest as it came, with the media type that the place stated ("" if none)."""

    data: bytes
    media_type: str


class ImageContent(Protocol):
    """One image's place: a registry, a layout or an archive. It verifies nothing; the pull does. Thread-safe.

    `local` content is read in place and not kept while it is fetched. Methods raise Stalled or Retry.
    """

    local: bool

    def manifest(self, digest: str = "") -> Document:
        """Return what the reference names, or another manifest of the same place by its digest."""

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return small content whole; Stalled if it has more than `limit` bytes."""

    def open(self, descriptor: Descriptor, offset: int) -> AbstractContextManager[ReadChunk]:
        """Open content from a byte offset on."""

    def close(self) -> None:
        """Close connections and files. Idempotent."""


class LayerTask(Struct, frozen=True):
    """One layer to fetch, as manifest and configuration name it; `where` is the image, for messages.

    `apart` is a suffix of its partial file, if the same layer is fetched from elsewhere at the same time.
    """

    content: ImageContent
    descriptor: Descriptor
    diff_id: str
    where: str
    apart: str = ""


class LayerFetcher:
    """Fetches, verifies and unpacks layers into a store. Thread-safe; one call a layer at a time."""

    def __init__(self, root: Path, layers: Layers, server: UnpackServer) -> None:
        self._partial = root / "partial"
        self._partial.mkdir(mode=0o700, exist_ok=True)
        self._layers = layers
        self._server = server

    def fetch(self, task: LayerTask, job: Job) -> None:
        """Fetch a layer into the store; resume a broken transfer from its partial file."""
        # Another pull may have brought it since this one looked.
        if self._layers.record(task.diff_id) is not None:
            return
        partial = self._partial / f"{_hex(task.descriptor.digest)}{task.apart}.{_hex(task.diff_id)[:16]}"
        resumed = partial.exists()
        try:
            try:
                self._attempt(task, job, partial)
            except DamagedError:
                if not resumed:
                    raise
                # The partial file may be damaged: fetch the layer from the start.
                job.done = 0
                self._attempt(task, job, partial)
        except MissingError as error:
            if not task.descriptor.foreign:
                raise
            wrong = f"the layer {task.descriptor.digest} is a foreign layer, kept elsewhere than the image"
            raise Stalled(
                f"{wrong}; no address that an image names is asked",
                where=task.where,
                hint="push the image with all its layers, as Docker's allow-nondistributable-artifacts does",
            ) from error
        except RefusedLayerError as error:
            wrong = f"the layer {task.descriptor.digest} is refused: {error}"
            raise Stalled(wrong, where=task.where) from error
        except OSError as error:
            hint = "free some space in data_dir" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
            raise Retry(f"cannot store a layer: {error.strerror}", where=task.where, hint=hint) from error

    def sweep(self, *, everything: bool = False) -> None:
        """Remove old partial files and those of stored layers; `everything` if nothing is being fetched."""
        there = {_hex(diff_id)[:16] for diff_id in self._layers.all()}
        oldest = time.time() - _PARTIAL_LIFETIME
        for entry in list(os.scandir(self._partial)):
            if everything or entry.name.rpartition(".")[2] in there or entry.stat().st_mtime < oldest:
                Path(entry.path).unlink(missing_ok=True)

    def _attempt(self, task: LayerTask, job: Job, partial: Path) -> None:
        try:
            with self._layers.staged() as place:
                fault.point("image:layer-staged")
                found = self._unpack(task, job, partial, place)
                fault.point("image:layer-unpacked")
                self._layers.commit(place, found)
        except (DamagedError, RefusedLayerError, Stalled):
            partial.unlink(missing_ok=True)
            raise
        partial.unlink(missing_ok=True)

    def _unpack(self, task: LayerTask, job: Job, partial: Path, place: Path) -> LayerRecord:
        wanted, summed, is_read = task.descriptor.digest, hashlib.sha256(), True
        with self._server.start(place / "diff", hint=task.descriptor.media_type[-4:]) as unpack:
            job.state = "downloading"
            for chunk in self._chunks(task, job, partial):
                summed.update(chunk)
                job.done += len(chunk)
                # A child that refuses the layer doesn't end the transfer: the digest shows whose fault it is.
                is_read = is_read and unpack.write(chunk)
            if f"sha256:{summed.hexdigest()}" != wanted:
                wrong = f"the layer {wanted} came as sha256:{summed.hexdigest()}"
                hint = "the registry or a mirror serves wrong content, or a copy on disk is damaged"
                raise DamagedError(wrong, where=task.where, hint=hint)
            fault.point("image:layer-fetched")
            job.state = "unpacking"
            with (place / IMPLICIT).open("wb") as implicit:
                found = unpack.finish(implicit)
        if found.diff_id != task.diff_id:
            wrong = f"unpacks to {found.diff_id}, but the image's configuration names {task.diff_id}"
            hint = "the image is broken; build and push it again"
            raise Stalled(f"the layer {wanted} {wrong}", where=task.where, hint=hint)
        return found

    def _chunks(self, task: LayerTask, job: Job, partial: Path) -> Iterator[bytes]:
        if task.content.local:
            with task.content.open(task.descriptor, 0) as read:
                yield from _checked(read, job)
            return
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            yield from _checked(file.read, job)
            if file.tell() >= task.descriptor.size:
                return
            with task.content.open(task.descriptor, file.tell()) as read:
                for chunk in _checked(read, job):
                    file.write(chunk)
                    fault.point("image:layer-chunk")
                    yield chunk


class Resolved(Struct, frozen=True):
    """The image that a reference stands for now. `index` is the digest of the outermost index, or ""."""

    digest: str
    index: str
    manifest: Manifest
    configuration: Configuration
    manifest_data: bytes
    configuration_data: bytes


class ImagePull(AbstractContextManager["ImagePull"]):
    """One pull of one reference, which reports `progress` and stops when `cancelled` returns True."""

    def __init__(
        self,
        reference: Reference,
        content: ImageContent,
        settings: ImageSettings,
        *,
        progress: Report,
        cancelled: Cancelled,
    ) -> None:
        self._reference, self._where = reference, str(reference)
        self._content, self._settings = content, settings
        self._progress, self._asked_to_stop = progress, cancelled
        self._ended = False
        self._jobs: list[Job] = []
        self._seen: dict[str, tuple[tuple[Job, int, str], float]] = {}

    def __exit__(self, *_: object) -> None:
        """Cancel the pull; close the content after its last job, which other pulls may still wait for."""
        self._ended = True

        def close_after_the_last(_: object = None) -> None:
            if all(job.future.done() for job in self._jobs):
                self._content.close()

        for job in self._jobs:
            job.future.add_done_callback(close_after_the_last)
        close_after_the_last()

    def resolve(self) -> Resolved:
        """Fetch and verify the manifest for this machine's platform and the image's configuration."""
        document = self._content.manifest()
        digest = outermost = digest_of(document.data)
        if self._reference.digest:
            self._same(digest, self._reference.digest)
        platform = parse_platform(self._settings.platform) if self._settings.platform else host_platform()
        parsed = parse_manifest(document.data, document.media_type, self._where)
        depth = 0
        while isinstance(parsed, Index):
            depth += 1
            if depth > _NESTED_INDEXES:
                raise Stalled("the image's index is nested too deeply", where=self._where)
            chosen = self._choose(parsed, platform)
            document = self._content.manifest(chosen.digest)
            digest = self._same(digest_of(document.data), chosen.digest)
            parsed = parse_manifest(document.data, document.media_type or chosen.media_type, self._where)
        data = self._content.document(parsed.config, CONFIG_LIMIT)
        self._same(digest_of(data), parsed.config.digest)
        configuration = parse_configuration(data, self._where)
        self._check(parsed, configuration, platform)
        index = outermost if outermost != digest else ""
        return Resolved(digest, index, parsed, configuration, document.data, data)

    def fetch(self, resolved: Resolved, layers: Layers, jobs: Jobs, fetcher: LayerFetcher) -> None:
        """Fetch all missing layers into the store."""
        pairs = list(zip(resolved.manifest.layers, resolved.configuration.diff_ids, strict=True))
        missing: dict[str, Descriptor] = {}
        for descriptor, diff_id in pairs:
            if layers.record(diff_id) is None:
                missing.setdefault(diff_id, descriptor)

        shares: dict[str, Share] = {}

        def begin(diff_id: str, apart: str = "") -> Future[None]:
            task = LayerTask(self._content, missing[diff_id], diff_id, self._where, apart)
            key, lane = f"{diff_id}{apart}", self._reference.place
            shares[diff_id] = jobs.submit(key, lane, self._cancelled, lambda job: fetcher.fetch(task, job))
            self._jobs.append(shares[diff_id].job)
            return shares[diff_id].job.future

        for diff_id in missing:
            begin(diff_id)
        self._wait(pairs, shares, begin, layers)

    def _cancelled(self) -> bool:
        return self._ended or self._asked_to_stop()

    def _wait(
        self, pairs: _Pairs, shares: dict[str, Share], begin: Callable[..., Future[None]], layers: Layers
    ) -> None:
        last: PullProgress | None = None
        lane = self._reference.place
        pending = {share.job.future: diff_id for diff_id, share in shares.items()}
        while True:
            now = _progress(pairs, shares)
            if now != last:
                self._progress(now)
                last = now
            if not pending:
                return
            if self._cancelled():
                raise CancelledError("the pull was cancelled", where=self._where)
            for future in wait(pending, timeout=_POLL, return_when=FIRST_EXCEPTION).done:
                diff_id = pending.pop(future)
                error = future.exception()
                if error is None:
                    continue
                if shares[diff_id].own or self._cancelled():
                    raise error
                # The other pull was given up, or its place failed; this pull's place was not asked yet.
                pending[begin(diff_id)] = diff_id
            for future, diff_id in list(pending.items()):
                share = shares[diff_id]
                if not self._is_silent(diff_id, share.job):
                    continue
                if layers.record(diff_id) is not None:
                    # Another pull brought it, from elsewhere.
                    del pending[future], shares[diff_id]
                elif not share.own and share.job.lane != lane:
                    del pending[future]
                    apart = f".{hashlib.sha256(lane.encode()).hexdigest()[:8]}"
                    pending[begin(diff_id, apart)] = diff_id

    def _is_silent(self, diff_id: str, job: Job) -> bool:
        """Return whether a layer makes no progress for too long; one that is being unpacked has arrived."""
        state, now = (job, job.done, job.state), time.monotonic()
        if self._seen.get(diff_id, (None, now))[0] != state or job.state == "unpacking":
            self._seen[diff_id] = state, now
        return now - self._seen[diff_id][1] >= _PATIENCE

    def _choose(self, index: Index, platform: Platform) -> Descriptor:
        offered: dict[Platform, Descriptor] = {}
        for entry in index.manifests:
            if entry.annotations.get(_REFERENCE_TYPE) != _ATTESTATION:
                offered.setdefault(entry.platform or Platform(), entry)
        # An entry without an architecture is taken if no other fits; its configuration decides.
        unnamed = (entry for found, entry in offered.items() if not found.architecture)
        chosen = best(platform, offered)
        taken = offered[chosen] if chosen is not None else next(unnamed, None)
        if taken is None:
            known = ", ".join(sorted({str(found) for found in offered if found.os != "unknown"})) or "nothing"
            hint = f"there are images for: {known}"
            raise Stalled(f"no image for {platform}", where=self._where, hint=hint)
        return taken

    def _check(self, manifest: Manifest, configuration: Configuration, platform: Platform) -> None:
        layers, diff_ids = len(manifest.layers), len(configuration.diff_ids)
        if layers != diff_ids:
            wrong = f"the manifest has {layers} layers and the configuration {diff_ids}"
            raise Stalled(wrong, where=self._where)
        total, allowed = sum(layer.size for layer in manifest.layers), self._settings.image_size
        if total > allowed:
            wrong, hint = (
                f"the image has {total} bytes; {allowed} are allowed",
                "raise image_size in agent.toml",
            )
            raise Stalled(wrong, where=self._where, hint=hint)
        found = configuration.platform
        if found.architecture and not runs_on(platform, found):
            wrong = f"the image is for {found}, and this machine is {platform}"
            hint = "set [image] platform in agent.toml if it runs here all the same (binfmt)"
            raise Stalled(wrong, where=self._where, hint=hint)

    def _same(self, digest: str, named: str) -> str:
        if digest != named:
            hint = "the registry or a mirror serves wrong content"
            raise DamagedError(f"asked for {named} and got {digest}", where=self._where, hint=hint)
        return digest


def _progress(pairs: _Pairs, shares: dict[str, Share]) -> PullProgress:
    rows = []
    for descriptor, diff_id in pairs:
        job = shares[diff_id].job if diff_id in shares else None
        done = descriptor.size if job is None else min(job.done, descriptor.size)
        state = "cached" if job is None else job.state
        rows.append(LayerProgress(digest=descriptor.digest, done=done, total=descriptor.size, state=state))
    total = sum(row.total for row in rows)
    return PullProgress(done=sum(row.done for row in rows), total=total, layers=tuple(rows))


def _checked(read: ReadChunk, job: Job) -> Iterator[bytes]:
    while chunk := read(_CHUNK):
        job.check()
        yield chunk


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
