"""One pull: from a reference's content to an image whose layers are all unpacked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, wait
from types import TracebackType
from typing import Protocol

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.image.config import LayerProgress, Progress
from tank_agent.image.fetch import LayerFetcher, LayerTask
from tank_agent.image.jobs import Job, Jobs, Share
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
from tank_agent.image.store.content import CancelledError, Content, DamagedError
from tank_agent.image.store.layers import Layers
from tank_agent.settings.image import ImageSettings
from tank_agent.spec.reference import Reference

_POLL = 0.1
# How long nothing may come of a layer that another pull fetches from elsewhere, in seconds.
_PATIENCE = 3.0
_NESTED_INDEXES = 3
# Where builders keep what they attest in an index, beside the images.
_REFERENCE_TYPE, _ATTESTATION = "vnd.docker.reference.type", "attestation-manifest"


class Resolved(Struct, frozen=True, kw_only=True):
    """What a reference stands for now. `index` is the digest of the outermost index, or ""."""

    digest: str
    index: str
    manifest: Manifest
    configuration: Configuration
    manifest_data: bytes
    configuration_data: bytes


class Pull:
    """One pull of one reference. `cancelled` and `progress` are the caller's."""

    def __init__(
        self,
        reference: Reference,
        content: Content,
        settings: ImageSettings,
        *,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._reference = reference
        self._where = str(reference)
        self._content = content
        self._settings = settings
        self._progress = progress
        self._over = False
        self._asked_to_stop = cancelled
        self._lane = reference.registry or reference.path
        self._jobs: list[Job] = []

    def __enter__(self) -> Pull:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up what is under way, and close the content once no other pull reads from it either."""
        self._over = True

        def close_after_the_last(_: object) -> None:
            if all(job.future.done() for job in self._jobs):
                self._content.close()

        for job in self._jobs:
            job.future.add_done_callback(close_after_the_last)
        if not self._jobs:
            self._content.close()

    def resolve(self) -> Resolved:
        """Fetch and verify the manifest for this machine's platform and the image's configuration.

        Raises:
            Stalled: there is none, or we refuse it.
            Retry: the place failed for now.
        """
        document = self._content.manifest()
        digest = digest_of(document.data)
        if self._reference.digest:
            self._same(digest, self._reference.digest)
        outermost = digest
        platform = self._wanted_platform()
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
        return Resolved(
            digest=digest,
            index=outermost if outermost != digest else "",
            manifest=parsed,
            configuration=configuration,
            manifest_data=document.data,
            configuration_data=data,
        )

    def fetch(self, resolved: Resolved, layers: Layers, jobs: Jobs, fetcher: LayerFetcher) -> None:
        """Bring all layers that are missing.

        Raises:
            Stalled: a layer is refused.
            Retry: something failed for now, or the pull was cancelled.
        """
        pairs = list(zip(resolved.manifest.layers, resolved.configuration.diff_ids, strict=True))
        tasks: dict[str, LayerTask] = {}
        for descriptor, diff_id in pairs:
            if diff_id not in tasks and layers.record(diff_id) is None:
                tasks[diff_id] = LayerTask(
                    content=self._content, descriptor=descriptor, diff_id=diff_id, where=self._where
                )

        def begin(diff_id: str, *, alone: bool = False) -> Share:
            task = msgspec.structs.replace(tasks[diff_id], apart=f".{_short(self._lane)}" if alone else "")
            work = _work(layers, fetcher, task)
            share = jobs.submit(f"{diff_id}{task.apart}", self._lane, self._cancelled, work)
            self._jobs.append(share.job)
            return share

        self._wait(pairs, {diff_id: begin(diff_id) for diff_id in tasks}, begin, layers)

    def _cancelled(self) -> bool:
        return self._over or self._asked_to_stop()

    def _wait(
        self,
        pairs: list[tuple[Descriptor, str]],
        shares: dict[str, Share],
        begin: _Begin,
        layers: Layers,
    ) -> None:
        last: Progress | None = None
        patience = _Patience()
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
                if shares[diff_id].ours or self._cancelled():
                    raise error
                # The other pull was given up, or its place failed; ours was not asked yet.
                shares[diff_id] = begin(diff_id)
                pending[shares[diff_id].job.future] = diff_id
            for future, diff_id in list(pending.items()):
                share = shares[diff_id]
                if not patience.is_over(diff_id, share.job):
                    continue
                if layers.record(diff_id) is not None:
                    # Another brought it, from elsewhere.
                    del pending[future], shares[diff_id]
                elif not share.ours and share.job.lane != self._lane:
                    del pending[future]
                    shares[diff_id] = begin(diff_id, alone=True)
                    pending[shares[diff_id].job.future] = diff_id

    def _wanted_platform(self) -> Platform:
        return parse_platform(self._settings.platform) if self._settings.platform else host_platform()

    def _choose(self, index: Index, platform: Platform) -> Descriptor:
        offered: dict[Platform, Descriptor] = {}
        for entry in index.manifests:
            if entry.annotations.get(_REFERENCE_TYPE) != _ATTESTATION:
                offered.setdefault(entry.platform or Platform(), entry)
        # One that names no architecture is for whoever finds no other; its configuration tells.
        unnamed = (entry for found, entry in offered.items() if not found.architecture)
        chosen = best(platform, offered)
        taken = offered[chosen] if chosen is not None else next(unnamed, None)
        if taken is None:
            known = ", ".join(sorted({str(found) for found in offered if found.os != "unknown"})) or "nothing"
            raise Stalled(
                f"no image for {platform}", where=self._where, hint=f"there are images for: {known}"
            )
        return taken

    def _check(self, manifest: Manifest, configuration: Configuration, platform: Platform) -> None:
        if len(manifest.layers) != len(configuration.diff_ids):
            raise Stalled(
                f"the manifest has {len(manifest.layers)} layers and the configuration "
                f"{len(configuration.diff_ids)}",
                where=self._where,
            )
        total = sum(layer.size for layer in manifest.layers)
        if total > self._settings.image_size:
            raise Stalled(
                f"the image has {total} bytes; {self._settings.image_size} are allowed",
                where=self._where,
                hint="raise image_size in agent.toml",
            )
        found = configuration.platform
        if found.architecture and not runs_on(platform, found):
            raise Stalled(
                f"the image is for {found}, and this machine is {platform}",
                where=self._where,
                hint="set [image] platform in agent.toml if it runs here all the same (binfmt)",
            )

    def _same(self, digest: str, named: str) -> str:
        if digest != named:
            raise DamagedError(
                f"asked for {named} and got {digest}",
                where=self._where,
                hint="the registry or a mirror serves wrong content",
            )
        return digest


class _Begin(Protocol):
    def __call__(self, diff_id: str, *, alone: bool = False) -> Share: ...


class _Patience:
    """How long nothing may come of a layer before it is looked for elsewhere."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[tuple[Job, int, str], float]] = {}

    def is_over(self, diff_id: str, job: Job) -> bool:
        """Return whether nothing came for too long."""
        now, stands = time.monotonic(), (job, job.done, job.state)
        seen = self._seen.get(diff_id)
        # What is unpacked is here already.
        if seen is None or seen[0] != stands or job.state == "unpacking":
            self._seen[diff_id] = (stands, now)
            return False
        return now - seen[1] >= _PATIENCE


def _short(lane: str) -> str:
    return hashlib.sha256(lane.encode()).hexdigest()[:8]


def _work(layers: Layers, fetcher: LayerFetcher, task: LayerTask) -> Callable[[Job], None]:
    def work(job: Job) -> None:
        # Another pull may have brought it between our look and the job's turn.
        if layers.record(task.diff_id) is None:
            fetcher.fetch(task, job)

    return work


def _progress(pairs: list[tuple[Descriptor, str]], shares: dict[str, Share]) -> Progress:
    rows = []
    for descriptor, diff_id in pairs:
        share = shares.get(diff_id)
        done = descriptor.size if share is None else min(share.job.done, descriptor.size)
        state = "cached" if share is None else share.job.state
        rows.append(LayerProgress(digest=descriptor.digest, done=done, total=descriptor.size, state=state))
    total = sum(row.total for row in rows)
    return Progress(done=sum(row.done for row in rows), total=total, layers=tuple(rows))
