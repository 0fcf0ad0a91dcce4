"""Unpacked layers on disk: one directory per layer, shared by all images, there whole or not at all.

    layers/<hex>/diff          what overlayfs takes as a lower directory
    layers/<hex>/layer.json    LayerRecord
    layers/<hex>/implicit      its directories that no entry described, in the form of tarfilter.packed
    layers/<hex>/sealed        empty: written once the layer's files are known to be on the disk
    staging/<id>/              a layer that is being unpacked
    trash/<id>/                a layer that is being removed

A power cut can leave empty files behind that were unpacked just before. So a layer without a seal is
believed only during the boot that unpacked it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from tank_agent.image.store.records import read_record
from tank_agent.image.unpack.tarfilter import LONGEST_LINE, unpacked
from tank_agent.linux import atomic, fault
from tank_agent.linux.clock import boot_id
from tank_agent.linux.trees import try_remove_tree
from tank_agent.spec.reference import is_digest

_SEAL = "sealed"
IMPLICIT = "implicit"


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


class Layers:
    """The layers below one directory. Thread-safe; one thread at a time may write one layer."""

    def __init__(self, root: Path) -> None:
        self._layers, self._staging, self._trash = places = [
            root / name for name in ("layers", "staging", "trash")
        ]
        for directory in places:
            directory.mkdir(mode=0o700, exist_ok=True)
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
        record = self._records.get(diff_id) or read_record(self._home(diff_id) / "layer.json", LayerRecord)
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
        """Make a staged layer a layer, at once; one that another pull brought stays: it may be in use."""
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
        """Yield the diff_id of every layer."""
        for entry in os.scandir(self._layers):
            diff_id = f"sha256:{entry.name}"
            if is_digest(diff_id):
                yield diff_id

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
        assert is_digest(diff_id), diff_id
        return self._layers / diff_id.removeprefix("sha256:")
