"""Records of images besides their layers: manifests, configurations, and the digests that names stand for.

blobs/<hex>             manifests and configurations as they came; the name is the digest of the content
images/<hex>.json       ImageRecord, by the manifest's digest
references/<hex>.json   ReferenceRecord, by the SHA-256 of the reference
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.image.manifest import (
    CONFIG_LIMIT,
    Configuration,
    Manifest,
    digest_of,
    parse_configuration,
    parse_manifest,
)
from tank_agent.linux import atomic
from tank_agent.spec.reference import is_digest

_Kind = TypeVar("_Kind", bound=Struct)


class ImageRecord(Struct, frozen=True, kw_only=True):
    """An image that was pulled whole: the layers to mount, lowest first, and their size in bytes."""

    digest: str
    layers: tuple[str, ...]
    size: int


class ReferenceRecord(Struct, frozen=True):
    """The image that a name stood for when it was pulled.

    `digest` is the manifest's, `index` that of the index which listed it ("" if none did). `stamp` is for
    images on disk: it changes when they do. `pulled_at` is a Unix timestamp in seconds.
    """

    reference: str
    digest: str
    index: str = ""
    stamp: str = ""
    pulled_at: float = 0.0


class PulledImage(Struct, frozen=True, kw_only=True):
    """A pulled image with its documents."""

    record: ImageRecord
    manifest: Manifest
    configuration: Configuration


class Records:
    """The small files of the store. Thread-safe; every write is atomic and durable."""

    def __init__(self, root: Path) -> None:
        self._directories = [root / name for name in ("blobs", "images", "references")]
        self._blobs, self._images, self._references = self._directories
        for directory in self._directories:
            directory.mkdir(mode=0o700, exist_ok=True)
        self._known: dict[str, PulledImage] = {}

    def image(self, digest: str) -> PulledImage | None:
        """Return an image by its manifest's digest; None if it isn't there or one of its files is damaged."""
        path = self._path(self._images, digest, ".json")
        known = self._known.get(digest) or self._load(digest, path)
        if known is None or not path.exists():
            self._known.pop(digest, None)
            return None
        self._known[digest] = known
        return known

    def images(self) -> Iterator[str]:
        """Return the digests of all pulled images."""
        return _names(self._images)

    def put_image(self, record: ImageRecord, manifest: bytes, configuration: bytes) -> None:
        """Record an image whose layers are all there."""
        for data in (manifest, configuration):
            atomic.write(self._path(self._blobs, digest_of(data)), data, durable=True)
        path = self._path(self._images, record.digest, ".json")
        atomic.write(path, msgspec.json.encode(record), durable=True)
        self._known.pop(record.digest, None)

    def drop_image(self, digest: str) -> None:
        """Forget an image; its layers stay."""
        self._known.pop(digest, None)
        self._path(self._images, digest, ".json").unlink(missing_ok=True)

    def drop_blobs(self, keep: set[str]) -> None:
        """Remove all documents but these."""
        for digest in list(_names(self._blobs)):
            if digest not in keep:
                self._path(self._blobs, digest).unlink(missing_ok=True)

    def reference(self, reference: str) -> ReferenceRecord | None:
        """Return the record of a reference in its full form."""
        record = read_record(self._reference_path(reference), ReferenceRecord)
        return record if record is not None and is_digest(record.digest) else None

    def references(self) -> list[ReferenceRecord]:
        """Return all, in the order of their names."""
        found = (read_record(Path(entry.path), ReferenceRecord) for entry in os.scandir(self._references))
        return sorted((record for record in found if record is not None), key=lambda record: record.reference)

    def put_reference(self, record: ReferenceRecord) -> None:
        """Let a reference stand for an image."""
        atomic.write(self._reference_path(record.reference), msgspec.json.encode(record), durable=True)

    def drop_reference(self, reference: str) -> None:
        """Forget a reference."""
        self._reference_path(reference).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove temporary files of a killed agent."""
        for directory in self._directories:
            for entry in list(os.scandir(directory)):
                if entry.name.startswith("."):
                    Path(entry.path).unlink(missing_ok=True)

    def _load(self, digest: str, path: Path) -> PulledImage | None:
        record = read_record(path, ImageRecord)
        if record is None or record.digest != digest:
            return None
        try:
            manifest = parse_manifest(self._blob(digest), "", digest)
            assert isinstance(manifest, Manifest)
            configuration = parse_configuration(self._blob(manifest.config.digest), digest)
        except (FileNotFoundError, Stalled):
            return None
        return PulledImage(record=record, manifest=manifest, configuration=configuration)

    def _blob(self, digest: str) -> bytes:
        with self._path(self._blobs, digest).open("rb") as file:
            data = file.read(CONFIG_LIMIT)
        if digest_of(data) != digest:
            raise Stalled(f"the document {digest} is damaged")
        return data

    def _reference_path(self, reference: str) -> Path:
        return self._references / f"{hashlib.sha256(reference.encode()).hexdigest()}.json"

    @staticmethod
    def _path(directory: Path, digest: str, suffix: str = "") -> Path:
        assert is_digest(digest), digest
        return directory / f"{digest.removeprefix('sha256:')}{suffix}"


def _names(directory: Path) -> Iterator[str]:
    for entry in os.scandir(directory):
        digest = f"sha256:{entry.name.removesuffix('.json')}"
        if is_digest(digest):
            yield digest


def read_record(path: Path, kind: type[_Kind]) -> _Kind | None:
    """Read a file of the store; None if it is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
