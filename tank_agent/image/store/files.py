"""The store's files: what names stand for, manifests and configurations, and unpacked layers.

    blobs/<hex>              manifests and configurations as they came, by the digest of their content
    images/<hex>.json        ImageRecord, by the manifest's digest
    references/<hex>.json    ReferenceRecord, by the SHA-256 of the reference
    layers/<hex>/diff        what overlayfs takes as a lower directory
    layers/<hex>/layer.json  LayerRecord
    layers/<hex>/implicit    its directories that no entry described, in the form of stream.packed
    layers/<hex>/sealed      empty: written once the layer's files are known to be on the disk
    staging/<id>/            a layer that is being unpacked
    trash/<id>/              a layer that is being removed

A power cut can leave empty files behind that were unpacked just before. So a layer without a seal is trusted
only during the boot that unpacked it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import uuid
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
from tank_agent.image.unpack.stream import LONGEST_LINE, unpacked
from tank_agent.linux import atomic, fault
from tank_agent.linux.clock import boot_id
from tank_agent.linux.trees import try_remove_tree
from tank_agent.spec.reference import is_digest

_SEAL = "sealed"
IMPLICIT = "implicit"
_Kind = TypeVar("_Kind", bound=Struct)


class ImageRecord(Struct, frozen=True, kw_only=True):
    """An image that was pulled whole: the layers to mount, lowest first, and their size in bytes."""

    digest: str
    layers: tuple[str, ...]
    size: int


class ReferenceRecord(Struct, frozen=True):
    """The image that a name stood for when it was pulled, at `pulled_at` (a Unix timestamp in seconds).

    `digest` is the manifest's, `index` that of the index which listed it ("" if none did). `stamp` is for
    images on disk, and changes when they do.
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


class LayerRecord(Struct, frozen=True, kw_only=True):
    """An unpacked layer; it hides all layers below it if it has an `opaque_root`.

    `size` is in bytes of the uncompressed archive, `boot` the boot that unpacked it. Older agents kept the
    list of the file `implicit` here, in hex.
    """

    diff_id: str
    size: int
    entries: int = 0
    implicit: tuple[str, ...] = ()
    opaque_root: bool = False
    boot: str = ""


class Records:
    """The small files of the store. Thread-safe; every write is atomic and durable."""

    def __init__(self, root: Path) -> None:
        self._blobs, self._images, self._references = _directories(root, "blobs", "images", "references")
        self._known: dict[str, PulledImage] = {}

    def image(self, digest: str) -> PulledImage | None:
        """Return an image by its manifest's digest; None if it isn't there or one of its files is damaged."""
        path = self._image_path(digest)
        known = self._known.get(digest) or self._load(digest, path)
        if known is None or not path.exists():
            self._known.pop(digest, None)
            return None
        self._known[digest] = known
        return known

    def images(self) -> Iterator[str]:
        """Return the digests of all pulled images."""
        return _digests(self._images)

    def put_image(self, record: ImageRecord, manifest: bytes, configuration: bytes) -> None:
        """Record an image whose layers are all there."""
        for data in (manifest, configuration):
            atomic.write(_path(self._blobs, digest_of(data)), data, durable=True)
        atomic.write(self._image_path(record.digest), msgspec.json.encode(record), durable=True)
        self._known.pop(record.digest, None)

    def drop_image(self, digest: str) -> None:
        """Forget an image; its layers stay."""
        self._known.pop(digest, None)
        self._image_path(digest).unlink(missing_ok=True)

    def drop_blobs(self, keep: set[str]) -> None:
        """Remove all documents but these."""
        for digest in set(_digests(self._blobs)) - keep:
            _path(self._blobs, digest).unlink(missing_ok=True)

    def reference(self, reference: str) -> ReferenceRecord | None:
        """Return the record of a reference in its full form."""
        record = _read_record(self._reference_path(reference), ReferenceRecord)
        return record if record is not None and is_digest(record.digest) else None

    def references(self) -> list[ReferenceRecord]:
        """Return the records of all references, in the order of their names."""
        found = (_read_record(Path(entry.path), ReferenceRecord) for entry in os.scandir(self._references))
        return sorted((record for record in found if record is not None), key=lambda record: record.reference)

    def put_reference(self, record: ReferenceRecord) -> None:
        """Let a reference stand for an image."""
        atomic.write(self._reference_path(record.reference), msgspec.json.encode(record), durable=True)

    def drop_reference(self, reference: str) -> None:
        """Forget a reference."""
        self._reference_path(reference).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove temporary files of a killed agent."""
        for directory in (self._blobs, self._images, self._references):
            for path in directory.glob(".*"):
                path.unlink(missing_ok=True)

    def _load(self, digest: str, path: Path) -> PulledImage | None:
        record = _read_record(path, ImageRecord)
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
        with _path(self._blobs, digest).open("rb") as file:
            data = file.read(CONFIG_LIMIT)
        if digest_of(data) != digest:
            raise Stalled(f"the document {digest} is damaged")
        return data

    def _image_path(self, digest: str) -> Path:
        return _path(self._images, digest).with_suffix(".json")

    def _reference_path(self, reference: str) -> Path:
        return self._references / f"{hashlib.sha256(reference.encode()).hexdigest()}.json"


class Layers:
    """The layers below one directory. Thread-safe; one thread at a time may write one layer."""

    def __init__(self, root: Path) -> None:
        self._layers, self._staging, self._trash = _directories(root, "layers", "staging", "trash")
        self._records: dict[str, LayerRecord] = {}
        self._boot = boot_id()
        # Two pulls may bring the same layer from different places.
        self._committing = threading.Lock()

    def directory(self, diff_id: str) -> Path:
        """Return the directory of a layer's files, whether it is there or not."""
        return self._home(diff_id) / "diff"

    def record(self, diff_id: str) -> LayerRecord | None:
        """Return the record of a layer, None if it isn't there; quick."""
        if not self.directory(diff_id).is_dir():
            self._records.pop(diff_id, None)
            return None
        record = self._records.get(diff_id) or _read_record(self._home(diff_id) / "layer.json", LayerRecord)
        if record is None or record.diff_id != diff_id:
            return None
        self._records[diff_id] = record
        return record

    def implicit(self, diff_id: str) -> Iterator[bytes]:
        """Yield, sorted, a layer's directories that no entry described; ValueError if the list is damaged."""
        record = self.record(diff_id)
        if record is not None:
            yield from sorted(bytes.fromhex(path) for path in record.implicit)
        with contextlib.suppress(FileNotFoundError), (self._home(diff_id) / IMPLICIT).open("rb") as file:
            yield from unpacked(iter(lambda: file.readline(LONGEST_LINE), b""))

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """Make a place to unpack into, `diff` and `IMPLICIT`; what is not committed is removed at the end."""
        place = self._staging / uuid.uuid4().hex
        try:
            place.mkdir(mode=0o700)
            (place / "diff").mkdir(mode=0o755)
            (place / "diff").chmod(0o755)
            yield place
        finally:
            try_remove_tree(place)

    def commit(self, place: Path, record: LayerRecord) -> None:
        """Store a staged layer, at once; keep one that another pull brought, as it may be in use."""
        record = msgspec.structs.replace(record, boot=self._boot)
        (place / "layer.json").write_bytes(msgspec.json.encode(record))
        with self._committing:
            if self.record(record.diff_id) is None:
                self.bury(record.diff_id)
                place.rename(self._home(record.diff_id))
        fault.point("image:layer-committed")

    def bury(self, diff_id: str) -> None:
        """Take a layer away at once; `empty_trash` deletes its files."""
        self._records.pop(diff_id, None)
        with contextlib.suppress(FileNotFoundError):
            self._home(diff_id).rename(self._trash / uuid.uuid4().hex)
            fault.point("image:layer-trashed")

    def empty_trash(self) -> None:
        """Delete the files of buried layers; this can take long."""
        for entry in list(os.scandir(self._trash)):
            try_remove_tree(Path(entry.path))

    def all(self) -> Iterator[str]:
        """Return the diff_id of every layer."""
        return _digests(self._layers)

    def is_sealed(self, diff_id: str) -> bool:
        """Return whether the whole layer is known to be on the disk."""
        return (self._home(diff_id) / _SEAL).exists()

    def seal(self, diff_ids: list[str]) -> None:
        """Write everything to the disk and record that it is there; this can take long."""
        waiting = [diff_id for diff_id in diff_ids if not self.is_sealed(diff_id)]
        if not waiting:
            return
        atomic.sync_file_system(self._layers)
        for diff_id in waiting:
            # It may have been pruned meanwhile.
            with contextlib.suppress(FileNotFoundError):
                atomic.write(self._home(diff_id) / _SEAL, b"", durable=True)

    def sweep(self) -> None:
        """Remove unfinished layers of a killed agent or a power cut."""
        for entry in list(os.scandir(self._staging)):
            try_remove_tree(Path(entry.path))
        for diff_id in list(self.all()):
            record = self.record(diff_id)
            if record is None or (record.boot != self._boot and not self.is_sealed(diff_id)):
                self.bury(diff_id)
        self.empty_trash()

    def _home(self, diff_id: str) -> Path:
        return _path(self._layers, diff_id)


def _directories(root: Path, *names: str) -> list[Path]:
    directories = [root / name for name in names]
    for directory in directories:
        directory.mkdir(mode=0o700, exist_ok=True)
    return directories


def _path(directory: Path, digest: str) -> Path:
    assert is_digest(digest), digest
    return directory / digest.removeprefix("sha256:")


def _digests(directory: Path) -> Iterator[str]:
    for entry in os.scandir(directory):
        digest = f"sha256:{entry.name.removesuffix('.json')}"
        if is_digest(digest):
            yield digest


def _read_record(path: Path, kind: type[_Kind]) -> _Kind | None:
    """Read a file of the store; None if it is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
