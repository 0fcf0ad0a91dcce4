"""Snapshots of managed volumes: copies in `data_dir/snapshots/<pod>/<volume>/<id>`.

A copy has another name until all copies of one snapshot are on the disk: its last rename marks it as whole.
The id is the generation that it was taken for, with "manual-" before it if a person asked, and "-2" and so on
behind it to make it unique.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import structlog
from msgspec import Struct

from tank_agent.errors import Retry, Stalled, TankError, shortage
from tank_agent.linux import atomic
from tank_agent.linux.fault import point
from tank_agent.linux.tree_copy import CopyProgress, copy_tree, is_mount_point, shares_blocks
from tank_agent.linux.tree_walk import TreeSize, WalkCancelledError, measure_tree
from tank_agent.linux.trees import left_for_later, remove_tree
from tank_agent.runtime.mounts.volumes import Volumes

_log = structlog.get_logger()
_DIRECTORY = "snapshots"
_ID = re.compile(r"(manual-)?([0-9]+)(?:-[0-9]+)?")
# The names of copies that are not whole, and of what is being removed.
_PART, _LINKS, _GONE = ".part", ".part.links", ".gone"
# The snapshot of a volume that did not exist.
ABSENT = "absent"
_GO_ON = (
    "bring it back; or, to go on with the data that is there, take the pod away (`tank delete`, or its file) "
    "and give it back once it is gone"
)
# The room for a copy, in parts of its size: blocks lie otherwise in it.
_MARGIN = 1.1
# Bytes a second, with the time until they are on the disk; a single disk or a cheap SSD.
_RATE = 170e6
Wanted = Mapping[str, "bool | Literal['reflink']"]
Cancelled = Callable[[], bool]


class TakenSnapshot(Struct, frozen=True, kw_only=True):
    """A whole snapshot on the disk; `at` is Unix time, `generation` the one that it was taken for."""

    pod: str
    volume: str
    id: str
    path: Path
    at: float
    generation: int
    manual: bool = False


class PutBack(Struct, frozen=True, kw_only=True):
    """A note on the disk: the directory of this device and inode is the volume as in the snapshot.

    It makes `put_back` repeatable: nothing else tells a volume that was put back from one that was not.
    """

    generation: int
    id: str
    device: int
    inode: int


class CopyJob(Struct, kw_only=True):
    """Work that can be watched and cancelled by other threads; `total` is 0 while it is not known."""

    cancelled: bool = False
    # The agent ends: what is half done is left for the next one.
    closing: bool = False
    total: int = 0
    progress: CopyProgress = msgspec.field(default_factory=CopyProgress)

    def is_cancelled(self) -> bool:
        """Return whether it is not wanted any more."""
        return self.cancelled


class SnapshotStore:
    """The snapshots on disk. Methods of one volume are called by one thread at a time."""

    def __init__(self, data_dir: Path, volumes: Volumes) -> None:
        self._root, self._volumes = data_dir / _DIRECTORY, volumes
        left = [*self._halves(), *self._volumes.half_made()]
        if left:
            # Away at once, so that their names are free.
            gone = [_discard(path) for path in left]
            threading.Thread(target=_sweep, args=(gone,), name="snapshot-sweep", daemon=True).start()

    def _halves(self) -> Iterable[Path]:
        suffixes = (_PART, _LINKS, _GONE)
        return [path for path in self._root.glob("*/*/*") if path.name.endswith(suffixes)]

    def refusal(self, pod: str, wanted: Wanted, job: CopyJob) -> str | None:
        """Return why a snapshot can't be taken; None if nothing speaks against it.

        Raises:
            WalkCancelledError: the job was cancelled.
        """
        try:
            return self._refusal(pod, wanted, job)
        except OSError as error:
            return str(_explained(f"cannot look at the volumes of pod {pod}", error))

    def _refusal(self, pod: str, wanted: Wanted, job: CopyJob) -> str | None:
        needed: dict[int, TreeSize] = {}
        places: dict[int, Path] = {}
        for name, how in wanted.items():
            live = self._volumes.path(pod, name)
            if not live.is_dir():
                continue
            if is_mount_point(live):
                return (
                    f"volume {name}: a file system is mounted at {live}, so no snapshot could take its "
                    f"place; mount it at {live.parent} or above, or leave `snapshot` out"
                )
            place = self._place(pod, name)
            if shares_blocks(live.parent, place):
                continue
            if how == "reflink":
                return (
                    f'volume {name}: snapshot = "reflink" needs a file system that shares blocks, such as '
                    f"btrfs or xfs, with volumes and snapshots on it; {self._root.parent} is on another"
                )
            size = measure_tree(live, cancelled=job.is_cancelled) or TreeSize()
            job.total += size.size
            device = place.stat().st_dev
            before = needed.get(device, TreeSize())
            needed[device] = TreeSize(size=before.size + size.size, entries=before.entries + size.entries)
            places[device] = place
        return next((why for at, size in needed.items() if (why := no_room(places[at], size))), None)

    def cost(self, pod: str, names: Collection[str], deadline: float) -> tuple[int | None, bool]:
        """Return the bytes in volumes, None if that is not known by then, and whether blocks are shared."""
        total: int | None = 0
        shared = True
        for name in names:
            live = self._volumes.path(pod, name)
            if not live.is_dir():
                continue
            place = next((one for one in (self._root / pod / name, self._root) if one.is_dir()), live.parent)
            shared = shared and shares_blocks(live.parent, place)
            size = measure_tree(live, deadline=deadline)
            total = None if total is None or size is None else total + size.size
        return total, shared

    def take(self, pod: str, generation: int, wanted: Wanted, job: CopyJob) -> dict[str, str]:
        """Copy volumes, whose programs are stopped, and return the ids by volume; all of them or none.

        Raises:
            TankError: it failed, and nothing of it is left.
        """
        for name in wanted:
            # Of a try that nobody recorded, or of a former pod of this name.
            for old in self.of_volume(pod, name):
                if old.generation == generation and not old.manual:
                    self._remove(old.path)
        return self._take(pod, str(generation), wanted, job)

    def take_by_hand(
        self, pod: str, generation: int, name: str, job: CopyJob, check: Callable[[], None]
    ) -> TakenSnapshot:
        """Copy one volume because a person asks; `check` raises if a program may have written meanwhile."""
        ids = self._take(pod, f"manual-{generation}", {name: True}, job, check)
        if ids[name] == ABSENT:
            raise Stalled(f"there is no volume {pod}/{name}", hint="`tank volume ls` shows them")
        return next(one for one in self.of_volume(pod, name) if one.id == ids[name])

    def _take(
        self, pod: str, wish: str, wanted: Wanted, job: CopyJob, check: Callable[[], None] = lambda: None
    ) -> dict[str, str]:
        ids: dict[str, str] = {}
        parts: dict[Path, Path] = {}
        try:
            for name, how in wanted.items():
                live = self._volumes.path(pod, name)
                if not live.is_dir():
                    ids[name] = ABSENT
                    continue
                place = self._place(pod, name)
                ids[name] = _free_id(place, wish)
                whole = place / ids[name]
                part = whole.with_name(f"{whole.name}{_PART}")
                self._remove(part)
                parts[part] = whole
                point("snapshot:begun")
                self._copy(live, part, job, always=how == "reflink")
                point("snapshot:copied")
            _sync(parts)
            point("snapshot:synced")
            check()
            for part, whole in parts.items():
                part.rename(whole)
                point("snapshot:marked")
            _sync_names(parts)
        except (OSError, TankError) as error:
            if not job.closing:
                for path in itertools.chain.from_iterable(parts.items()):
                    with left_for_later(str(path)):
                        self._remove(path)
            raise _explained(f"cannot copy volumes of pod {pod}", error) from error
        return ids

    def put_back(
        self, pod: str, generation: int, snapshots: Mapping[str, str], job: CopyJob, *, failed: int
    ) -> dict[str, str]:
        """Put snapshots in place of volumes for a generation; it can be repeated after any failure.

        Returns:
            The names by which data of the generation that failed is kept, by volume.
        """
        kept: dict[str, str] = {}
        try:
            ready: dict[str, Path | None] = {}
            for name, identifier in snapshots.items():
                if self._is_back(pod, name, generation, identifier):
                    continue
                if identifier != ABSENT and not (self._root / pod / name / identifier).is_dir():
                    raise Stalled(f"snapshot {pod}/{name}@{identifier} is gone", hint=_GO_ON)
                ready[name] = self._ready(pod, name, identifier, job)
            _sync([path for path in ready.values() if path is not None])
            point("snapshot:ready")
            for name, path in ready.items():
                self._note(pod, name, generation, snapshots[name], path)
                aside = self._volumes.replace(pod, name, path, f"failed-{failed}")
                if aside is not None:
                    kept[name] = aside.name
                point("snapshot:back")
        except (OSError, TankError) as error:
            raise _explained(f"cannot put the volumes of pod {pod} back", error) from error
        return kept

    def restore_by_hand(
        self, snapshot: TakenSnapshot, generation: int, job: CopyJob, check: Callable[[], None]
    ) -> str | None:
        """Put one snapshot in place of its volume; return the name of the former data, if there was any."""
        pod, name = snapshot.pod, snapshot.volume
        try:
            check()
            ready = self._ready(pod, name, snapshot.id, job, may_move=False)
            assert ready is not None
            _sync([ready])
            aside = self._volumes.swap(pod, name, ready, f"replaced-{generation}", check)
        except (OSError, TankError) as error:
            with left_for_later(f"volume {pod}/{name}"):
                self._remove(self._volumes.restoring(pod, name))
            raise _explained(f"cannot restore volume {pod}/{name}", error) from error
        return aside.name if aside is not None else None

    def settle(self, pod: str, names: Iterable[str]) -> None:
        """Forget that volumes were put back: it is recorded elsewhere."""
        for name in names:
            self._volumes.note(pod, name).unlink(missing_ok=True)

    def _is_back(self, pod: str, name: str, generation: int, identifier: str) -> bool:
        live = self._volumes.path(pod, name)
        try:
            known = msgspec.json.decode(self._volumes.note(pod, name).read_bytes(), type=PutBack)
            found = (status.st_dev, status.st_ino) if (status := _status(live)) is not None else (0, 0)
        except (FileNotFoundError, msgspec.DecodeError):
            return False
        wanted = PutBack(generation=generation, id=identifier, device=found[0], inode=found[1])
        # A reboot may give the disk another number.
        return msgspec.structs.replace(known, device=found[0]) == wanted

    def _note(self, pod: str, name: str, generation: int, identifier: str, path: Path | None) -> None:
        status = path.stat() if path is not None else None
        device, inode = (status.st_dev, status.st_ino) if status is not None else (0, 0)
        note = PutBack(generation=generation, id=identifier, device=device, inode=inode)
        file = self._volumes.note(pod, name)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.write(file, msgspec.json.encode(note), durable=True, fault_point="snapshot:noted")

    def _ready(
        self, pod: str, name: str, identifier: str, job: CopyJob, *, may_move: bool = True
    ) -> Path | None:
        """Return a directory that can take the volume's place by a rename; None for one that was absent."""
        if identifier == ABSENT:
            return None
        whole = self._root / pod / name / identifier
        if not (_ID.fullmatch(identifier) and whole.is_dir()):
            raise Stalled(
                f"there is no snapshot {pod}/{name}@{identifier}", hint="`tank volume ls` shows them"
            )
        part = self._volumes.restoring(pod, name)
        self._remove(part)
        part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._copy(whole, part, job)
        except OSError as error:
            same_disk = whole.stat().st_dev == part.parent.stat().st_dev
            if not (may_move and same_disk and error.errno in (errno.ENOSPC, errno.EDQUOT)):
                raise
            # There is no room for one more copy, so the snapshot itself goes back.
            _log.warning("no room for a copy of the snapshot; it is moved", snapshot=str(whole))
            self._remove(part)
            return whole
        return part

    def of_volume(self, pod: str, name: str) -> Sequence[TakenSnapshot]:
        """Return the snapshots of a volume, the newest first."""
        found = []
        with suppress(FileNotFoundError, NotADirectoryError):
            for path in (self._root / pod / name).iterdir():
                match, status = _ID.fullmatch(path.name), _status(path)
                if match is not None and status is not None:
                    one = TakenSnapshot(
                        pod=pod,
                        volume=name,
                        id=path.name,
                        path=path,
                        # Nothing but its last rename changed the directory since.
                        at=status.st_ctime,
                        generation=int(match[2]),
                        manual=match[1] is not None,
                    )
                    found.append(one)
        return sorted(found, key=lambda one: one.at, reverse=True)

    def all(self) -> Sequence[TakenSnapshot]:
        """Return all snapshots, in the order of pods and volumes, the newest of each first."""
        places = sorted((path.parent.name, path.name) for path in self._root.glob("*/*"))
        return [one for pod, name in places for one in self.of_volume(pod, name)]

    def by_generation(self, pod: str) -> Mapping[int, Mapping[str, str]]:
        """Return the snapshots that updates of a pod took: the generation of each, and its ids by volume."""
        found: dict[int, dict[str, str]] = {}
        for place in sorted((self._root / pod).glob("*")):
            for one in self.of_volume(pod, place.name):
                if not one.manual:
                    found.setdefault(one.generation, {})[place.name] = one.id
        return found

    def remove(self, pod: str, name: str, identifier: str) -> bool:
        """Remove a snapshot; False if there is none."""
        found = [one for one in self.of_volume(pod, name) if one.id == identifier]
        try:
            for one in found:
                self._remove(one.path)
                with suppress(OSError):
                    one.path.parent.rmdir()
                    one.path.parent.parent.rmdir()
        except OSError as error:
            where = f" at {error.filename}" if error.filename else ""
            raise Retry(
                f"cannot remove snapshot {pod}/{name}@{identifier}: {error.strerror}{where}"
            ) from error
        return bool(found)

    def retain(self, pod: str, wanted: Collection[str], keep: int) -> None:
        """Remove the snapshots of updates, and data that failed, but for the newest `keep` of each volume.

        Args:
            wanted: the ids of snapshots that stay in any case. Those that a person took stay, too.
        """
        # A revision is good, so nothing is to be put back; an agent may have died before it settled that.
        self.settle(pod, self._volumes.noted(pod))
        too_many: list[Path] = []
        for place in (self._root / pod).glob("*"):
            own = [one for one in self.of_volume(pod, place.name) if not one.manual]
            too_many += [one.path for one in own[keep:] if one.id not in wanted]
        aside: dict[str, list[tuple[float, Path]]] = {}
        for _, name, path in (one for one in self._volumes.put_aside() if one[0] == pod):
            if path.name.startswith(f"{name}.failed-") and (status := _status(path)) is not None:
                aside.setdefault(name, []).append((status.st_ctime, path))
        too_many += [path for paths in aside.values() for _, path in sorted(paths, reverse=True)[keep:]]
        for path in too_many:
            point("snapshot:retention")
            with left_for_later(str(path)):
                self._remove(path)

    def size(self, path: Path, deadline: float) -> int | None:
        """Return the bytes of a volume or a snapshot; None if it is gone or that takes longer."""
        try:
            found = measure_tree(path, deadline=deadline)
        except OSError:
            return None
        return found.size if found is not None else None

    def _place(self, pod: str, name: str) -> Path:
        place = self._root / pod / name
        for directory in (self._root, place.parent, place):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place

    def _copy(self, source: Path, target: Path, job: CopyJob, *, always: bool = False) -> None:
        copy_tree(source, target, always=always, progress=job.progress, cancelled=job.is_cancelled)
        if job.progress.mounts:
            _log.warning("mounts in a volume are no part of its snapshot", volume=str(source))

    def _remove(self, path: Path) -> None:
        """Remove a tree, which an agent that is killed meanwhile leaves for the next one."""
        for found in (path, path.with_name(f"{path.name}.links")):
            if os.path.lexists(found):
                remove_tree(_discard(found))


def estimate(size: int | None, *, shared: bool) -> str:
    """Return how much a snapshot copies, and how long the pod is down for it."""
    if shared:
        return f"snapshots {amount_text(size)} of volume data without copying it, about a second down"
    if size is None:
        return "copies the data of its volumes; how much is not known in time"
    return f"copies {amount_text(size)} of volume data, about {_span(size / _RATE)} down"


def amount_text(size: int | None) -> str:
    """Return a number of bytes for people."""
    if size is None:
        return "an unknown amount"
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1000:.3g} kB"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def no_room(place: Path, size: TreeSize, takes: str = "a snapshot takes") -> str | None:
    """Return why there is no room for a copy of something in a directory; None if there is."""
    found = os.statvfs(place)
    free, needed = found.f_bavail * found.f_frsize, round(size.size * _MARGIN)
    if free < needed:
        what = f"{takes} {amount_text(needed)} of room, and {amount_text(free)} are free in {place}"
    # Some file systems have no fixed number of files.
    elif found.f_files and found.f_favail < size.entries:
        what = f"{takes} {size.entries} files, and {found.f_favail} more can be made in {place}"
    else:
        return None
    return f"{what}; make room there, or put it on another disk"


def no_snapshot(pod: str, name: str, identifier: str) -> Stalled:
    """Return the error for a snapshot that is not there."""
    return Stalled(f"there is no snapshot {pod}/{name}@{identifier}", hint="`tank volume ls` shows them")


def _free_id(place: Path, wish: str) -> str:
    names = itertools.chain([wish], (f"{wish}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(place / name))


def _sync(paths: Iterable[Path]) -> None:
    """Write copies out, each file system once."""
    by_device = {path.stat().st_dev: path for path in paths}
    for path in by_device.values():
        atomic.sync_file_system(path)


def _sync_names(parts: Iterable[Path]) -> None:
    for place in {path.parent for path in parts}:
        atomic.sync_directory(place)


def _status(path: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return path.lstat()
    return None


def _discard(path: Path) -> Path:
    """Give a tree that is to be removed a name that says so."""
    if path.name.endswith(_GONE):
        return path
    gone = path.with_name(f".{secrets.token_hex(8)}{_GONE}")
    path.rename(gone)
    return gone


def _sweep(left: Sequence[Path]) -> None:
    for path in left:
        with left_for_later(str(path)):
            remove_tree(path)


def _explained(what: str, error: OSError | TankError) -> TankError:
    if isinstance(error, WalkCancelledError):
        return WalkCancelledError(f"{what}: {error.message}")
    if isinstance(error, TankError):
        return type(error)(f"{what}: {error.message}", hint=error.hint)
    lacking = shortage(error)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return Retry(f"{what}: {where}{error.strerror}", hint=lacking.hint if lacking else None)
