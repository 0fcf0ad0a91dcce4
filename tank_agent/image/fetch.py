"""Bring one layer from where it is into the store: fetch, verify and unpack it, all at once."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.image.jobs import Job
from tank_agent.image.manifest import Descriptor
from tank_agent.image.store.content import Content, DamagedError, MissingError
from tank_agent.image.store.layers import LayerRecord, Layers
from tank_agent.image.unpack.process import LayerUnpack, RefusedLayerError, Unpacked, UnpackServer
from tank_agent.linux import fault

_CHUNK = 1 << 18
_PARTIAL_LIFETIME = 7 * 86400.0


class LayerTask(Struct, frozen=True, kw_only=True):
    """One layer to fetch, as manifest and configuration name it; `where` is the image, for messages.

    `apart` sets its partial file apart, should the same layer be fetched from elsewhere at the same time.
    """

    content: Content
    descriptor: Descriptor
    diff_id: str
    where: str
    apart: str = ""


class LayerFetcher:
    """Fetches layers into a store. Thread-safe; one call per layer at a time."""

    def __init__(self, root: Path, layers: Layers, server: UnpackServer) -> None:
        self._partial = root / "partial"
        self._partial.mkdir(mode=0o700, exist_ok=True)
        self._layers = layers
        self._server = server

    def fetch(self, task: LayerTask, job: Job) -> None:
        """Fetch, verify and unpack a layer; afterwards the store has it.

        What a broken transfer brought stays on disk, and the next try goes on from there.

        Raises:
            Stalled: the layer is refused.
            Retry: the place, the network or the disk failed for now.
        """
        name = f"{_hex(task.descriptor.digest)}{task.apart}.{_hex(task.diff_id)[:16]}"
        partial = self._partial / name
        resumed = partial.exists()
        try:
            try:
                self._attempt(task, job, partial)
            except DamagedError:
                if not resumed:
                    raise
                # What an earlier try left may be what is damaged: once more, from the start.
                job.done = 0
                self._attempt(task, job, partial)
        except MissingError as error:
            if not task.descriptor.foreign:
                raise
            raise _foreign(task) from error
        except OSError as error:
            hint = "free some space in data_dir" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
            raise Retry(f"cannot store a layer: {error.strerror}", where=task.where, hint=hint) from error

    def sweep(self) -> None:
        """Remove what broken transfers left if its layer is there, or if nobody came back for it."""
        there = {_hex(diff_id)[:16] for diff_id in self._layers.all()}
        oldest = time.time() - _PARTIAL_LIFETIME
        for entry in list(os.scandir(self._partial)):
            if entry.name.rpartition(".")[2] in there or entry.stat().st_mtime < oldest:
                Path(entry.path).unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove all that broken transfers left; only while nothing is fetched."""
        for entry in list(os.scandir(self._partial)):
            Path(entry.path).unlink(missing_ok=True)

    def _attempt(self, task: LayerTask, job: Job, partial: Path) -> None:
        place = self._layers.stage()
        fault.point("image:layer-staged")
        try:
            with self._server.start(place / "diff", hint=task.descriptor.media_type[-4:]) as unpack:
                job.state = "downloading"
                digest = self._pass_on(task, job, partial, unpack)
                if digest != task.descriptor.digest:
                    raise DamagedError(
                        f"the layer {task.descriptor.digest} came as {digest}",
                        where=task.where,
                        hint="the registry or a mirror serves wrong content, or a copy on disk is damaged",
                    )
                fault.point("image:layer-fetched")
                job.state = "unpacking"
                with self._layers.implicit_file(place) as implicit:
                    found = _finish(unpack, task, implicit)
            fault.point("image:layer-unpacked")
            self._layers.commit(place, _record(found))
        except (DamagedError, Stalled):
            self._layers.abandon(place)
            partial.unlink(missing_ok=True)
            raise
        except BaseException:
            self._layers.abandon(place)
            raise
        partial.unlink(missing_ok=True)

    def _pass_on(self, task: LayerTask, job: Job, partial: Path, unpack: LayerUnpack) -> str:
        """Pass all bytes to the unpacking child; return their digest."""
        summed = hashlib.sha256()
        wanted = True
        for chunk in self._bytes(task, job, partial):
            summed.update(chunk)
            job.done += len(chunk)
            # A child that refuses the layer does not end the transfer: only the digest tells whose fault it
            # is.
            wanted = wanted and unpack.write(chunk)
        return f"sha256:{summed.hexdigest()}"

    def _bytes(self, task: LayerTask, job: Job, partial: Path) -> Iterator[bytes]:
        if task.content.local:
            with task.content.open(task.descriptor, 0) as read:
                while chunk := read(_CHUNK):
                    job.check()
                    yield chunk
            return
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            offset = 0
            while chunk := file.read(_CHUNK):
                job.check()
                offset += len(chunk)
                yield chunk
            if offset >= task.descriptor.size:
                return
            with task.content.open(task.descriptor, offset) as read:
                while chunk := read(_CHUNK):
                    job.check()
                    file.write(chunk)
                    fault.point("image:layer-chunk")
                    yield chunk


def _foreign(task: LayerTask) -> Stalled:
    return Stalled(
        f"the layer {task.descriptor.digest} is a foreign layer, kept elsewhere than the image; no "
        "address that an image names is asked",
        where=task.where,
        hint="push the image with all its layers, as Docker's allow-nondistributable-artifacts does",
    )


def _finish(unpack: LayerUnpack, task: LayerTask, implicit: BinaryIO) -> Unpacked:
    try:
        found = unpack.finish(implicit)
    except RefusedLayerError as error:
        raise Stalled(f"the layer {task.descriptor.digest} is refused: {error}", where=task.where) from error
    if found.diff_id != task.diff_id:
        raise Stalled(
            f"the layer {task.descriptor.digest} unpacks to {found.diff_id}, but the image's configuration "
            f"names {task.diff_id}",
            where=task.where,
            hint="the image is broken; build and push it again",
        )
    return found


def _record(found: Unpacked) -> LayerRecord:
    return LayerRecord(
        diff_id=found.diff_id,
        size=found.size,
        entries=found.entries,
        opaque_root=found.opaque_root,
    )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
