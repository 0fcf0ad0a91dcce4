"""Wake followers when a directory of pod files or a ref changes. An event is only a hint to read again."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from tank_agent.linux.mounts import mount_points
from tank_agent.linux.paths import LINKS_MAX, Closing, directory_identity
from tank_agent.linux.wakeups import WakeEvent, WatchedFile
from tank_agent.spec.names import is_pod_file_name

# An emitter that is stopped between two of its steps logs an error that means nothing. Without any handler,
# Python would print it to stderr; a handler that others add still gets it.
logging.getLogger("watchdog").addHandler(logging.NullHandler())

# No "opened": our own reading makes those. No "modified": it comes before a writer is done.
_FILE_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
]
_EVENTS = [*_FILE_EVENTS, DirCreatedEvent, DirDeletedEvent, DirMovedEvent]
# Far up, only a rename can take the directory away; all other changes there concern others.
_FAR_EVENTS: list[type[FileSystemEvent]] = [DirMovedEvent]


class _Place(NamedTuple):
    """A path to watch: `identity` differs once another file or directory has that path."""

    identity: bytes
    on_event: Callable[[FileSystemEvent], None]
    events: list[type[FileSystemEvent]]
    recursive: bool = False


class _Handler(FileSystemEventHandler):
    def __init__(self, on_event: Callable[[FileSystemEvent], None]) -> None:
        self._on_event = on_event

    def dispatch(self, event: FileSystemEvent) -> None:
        """Pass on every event."""
        self._on_event(event)


class _Watches:
    """Watches paths as soon as that is possible; to be used by one thread at a time.

    watchdog 7 asks for its inotify instance when an observer is made, watchdog 6 when a path is watched.
    """

    def __init__(self) -> None:
        self._observer: BaseObserver | None = None
        self._armed: dict[str, tuple[bytes, ObservedWatch]] = {}

    def renew(self, places: Mapping[str, _Place]) -> tuple[bool, str | None]:
        """Watch these paths and no others.

        Returns:
            Whether some of them were not watched before; and the reason if one can't be watched now.
        """
        if self._observer is not None and not self._observer.is_alive():
            self._observer = None
        emitters = () if self._observer is None else tuple(self._observer.emitters)
        alive = {emitter.watch for emitter in emitters if emitter.is_alive()}
        for path, (identity, watch) in list(self._armed.items()):
            if path not in places or places[path].identity != identity or watch not in alive:
                if self._observer is not None and watch in {emitter.watch for emitter in emitters}:
                    self._observer.unschedule(watch)
                del self._armed[path]
        missing = [path for path in places if path not in self._armed]
        for path in missing:
            try:
                self._armed[path] = (places[path].identity, self._watch(path, places[path]))
            except OSError as error:
                return True, _why_not(path, error)
        return bool(missing), None

    def stop(self) -> None:
        """Stop watching, and wait for the threads."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None

    def _watch(self, path: str, place: _Place) -> ObservedWatch:
        try:
            if self._observer is None:
                observer = Observer()
                observer.start()
                self._observer = observer
            handler = _Handler(place.on_event)
            return self._observer.schedule(
                handler, path, recursive=place.recursive, event_filter=[*place.events]
            )
        except RuntimeError as error:
            # "can't start new thread"
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error


def _why_not(path: str, error: OSError) -> str:
    return f"can't watch {path}: {error.strerror or error}"


# For changes that cause no event, as when a directory far up is made again.
CHECK_EVERY = 10.0
# A directory of links to everywhere must not use up the kernel's watches; the resync finds the other changes.
_PLACES_MAX = 64
# Files that have other names are watched by themselves, up to this number.
_FILES_MAX = 64


class DirectoryWatcher:
    """Calls `wake` soon after a pod file in `path` changed, or the directory itself came or went.

    That includes the directories and targets of its links, mounts over it or its files, and writers by
    another name, and the same of the files beside pod files that `watch_beside` names. The next resync finds
    what the kernel does not report, as on a network file system.

    Args:
        path: the directory; it may come later, and so may the kernel's means to watch it.
        wake: runs in a thread of the watcher and must return at once.
        report: called when the answer of `check` has changed.
    """

    def __init__(
        self, path: Path, wake: Callable[[], None], report: Callable[[str | None], None] = lambda _: None
    ) -> None:
        self._path = path.absolute()
        self._wake = wake
        self._report = report
        self._trouble: str | None = None
        self._watches = _Watches()
        self._lock = threading.Lock()
        # Of every directory watched, the names that matter in it.
        self._names: Mapping[str, AbstractSet[str]] = {}
        # The same for files beside pod files, which lead nowhere else.
        self._beside: frozenset[str] = frozenset()
        self._names_beside: Mapping[str, AbstractSet[str]] = {}
        self._mounted: frozenset[Path] = frozenset()
        self._rearm = WakeEvent()
        self._stopped = False
        self._thread = threading.Thread(target=self._rearm_when_asked, name="watch-directory", daemon=True)
        _report_renames_at_once()

    def start(self) -> str | None:
        """Start to watch, and return the result of the first `check`."""
        self._thread.start()
        return self.check()

    def check(self) -> str | None:
        """Watch paths that were replaced or whose watch has ended, and wake: events may have been missed.

        Returns:
            Why the directory can't be watched now, or None. It is tried again at the next check.
        """
        with self._lock:
            places = self._places()
            is_new, trouble = self._watches.renew(places)
            if is_new:
                self._wake()
            if trouble is None and str(self._path.resolve()) not in places:
                trouble = f"can't watch {self._path}: it is not there"
            if trouble != self._trouble:
                self._trouble = trouble
                self._report(trouble)
        return trouble

    def watch_beside(self, paths: frozenset[str]) -> None:
        """Watch these files, as paths from the directory, and no others beside its pod files.

        Returns at once, from any thread; wakes once those are watched that were not before.
        """
        if paths != self._beside:
            self._beside = paths
            self._rearm.set()

    def stop(self) -> None:
        """Stop watching, and wait for the threads."""
        self._stopped = True
        self._rearm.set()
        self._thread.join()
        self._watches.stop()
        self._rearm.close()

    def _rearm_when_asked(self) -> None:
        while not self._stopped:
            if self._rearm.wait(CHECK_EVERY):
                self._rearm.clear()
            if self._rearm.written():
                self._wake()
            if not self._stopped:
                self.check()

    def _places(self) -> dict[str, _Place]:
        """Return the directories to watch: all on the way to this one and to the targets of its links."""
        target = str(self._path.resolve())
        names: dict[str, set[str]] = {}
        _add_path(names, str(self._path))
        mounted = self._mounted
        # Without a descriptor to spare, the mounts known so far still count.
        with suppress(OSError):
            mounted = mount_points(Path(target))
        beside = self._beside
        links, others = _odd_files(target, mounted, beside)
        for link in links:
            if len(names) < _PLACES_MAX:
                _add_path(names, os.path.join(target, link))
        self._names_beside = _add_beside(names, target, beside)
        self._names = names
        if self._rearm.watch_files(others) or mounted != self._mounted:
            self._mounted = mounted
            self._wake()
        places: dict[str, _Place] = {}
        # The most important first, since the kernel may not have watches for all.
        for directory in dict.fromkeys((target, str(Path(target).parent), *names, *self._names_beside)):
            with (
                suppress(OSError),
                Closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd,
            ):
                far = self._is_far(directory)
                places[directory] = _Place(
                    directory_identity(fd) + (b" far" if far else b""),
                    partial(self.on_event, directory),
                    _FAR_EVENTS if far else _EVENTS,
                )
        return places

    def _is_far(self, directory: str) -> bool:
        """Return whether a directory matters only as a parent of the directories that are watched."""
        near = self._path.parent
        below = [Path(directory, name) for name in self._names.get(directory, ())]
        return bool(below) and all(one in near.parents and not one.is_symlink() for one in below)

    def on_event(self, directory: str, event: FileSystemEvent) -> None:
        """Wake if the event can matter; called by the observer, in its lock, with the directory watched."""
        target = str(self._path.resolve())
        paths = [os.fsdecode(path) for path in (event.src_path, event.dest_path) if path]
        names = self._names.get(directory, ())
        if any(path == directory or Path(path).name in names for path in paths):
            # Not check() itself: it takes the watcher's lock and then the observer's, which is held here.
            self._rearm.set()
            self._wake()
        elif any(
            Path(path).name in self._names_beside.get(directory, ())
            or (directory == target and is_pod_file_name(Path(path).name))
            for path in paths
        ):
            if any(_is_odd(path) for path in paths):
                self._rearm.set()
            self._wake()


def _add_path(names: dict[str, set[str]], path: str) -> None:
    """Add every name that is looked up on the way to an absolute path, by the directory that holds it.

    The directories are written without links. The last name may be missing.
    """
    left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    place, links = "/", 0
    while left:
        name = left.pop()
        if name == "..":
            place = str(Path(place).parent)
            continue
        names.setdefault(place, set()).add(name)
        here = os.path.join(place, name)
        try:
            target = str(Path(here).readlink())
        except OSError:
            # No link; or it is not there, and then its directory is where it will come.
            if left and not os.path.isdir(here):
                return
            place = here
            continue
        links += 1
        if links > LINKS_MAX:
            return
        left += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        place = "/" if target.startswith("/") else place


def _add_beside(
    names: dict[str, set[str]], target: str, paths: AbstractSet[str]
) -> dict[str, AbstractSet[str]]:
    """Add the directories of files beside pod files to `names`; return the files' names by their directories.

    No link is followed to them, so a directory that is one is not watched.
    """
    found: dict[str, set[str]] = {}
    for path in sorted(paths):
        *parents, name = path.split("/")
        place = target
        for parent in parents:
            names.setdefault(place, set()).add(parent)
            place = os.path.join(place, parent)
            if Path(place).is_symlink() or not os.path.isdir(place):
                break
        else:
            if place in found or len(found) < _PLACES_MAX:
                found.setdefault(place, set()).add(name)
    return dict(found)


def _odd_files(
    directory: str, mounted: frozenset[Path], beside: AbstractSet[str]
) -> tuple[list[str], list[WatchedFile]]:
    """Return the names of pod files that are links, and the files that can be written under other names."""
    links: list[str] = []
    others: list[WatchedFile] = []

    def add(path: str) -> None:
        if len(others) < _FILES_MAX and (_is_odd(path) or (mounted and Path(path) in mounted)):
            status = Path(path).stat()
            others.append((path, status.st_dev, status.st_ino))

    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if is_pod_file_name(entry.name):
                if entry.is_symlink():
                    links.append(entry.name)
                else:
                    add(entry.path)
    for path in sorted(beside):
        with suppress(OSError):
            # One behind a link is never read.
            if os.path.realpath(file := os.path.join(directory, path)) == file:
                add(file)
    return sorted(links), others


def _is_odd(path: str) -> bool:
    """Return whether a file can change without an event in its directory."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1)


def _report_renames_at_once() -> None:
    """Keep watchdog from delaying the event of a file moved away, and all later ones, by half a second.

    It waits to pair the two ends of a rename, which nobody needs here. The class that waits has another name
    in watchdog 6 than in 7; where neither is found, only that half second is lost.
    """
    for module, name in (
        ("watchdog.observers.inotify_move_event_grouper", "InotifyMoveEventGrouper"),
        ("watchdog.observers.inotify_buffer", "InotifyBuffer"),
    ):
        with suppress(ModuleNotFoundError, KeyError):
            vars(importlib.import_module(module))[name].delay = 0.0


class RefWatcher:
    """Calls `wake` when HEAD, packed-refs or a file below refs/ of a bare repository changes.

    `wake` runs in a thread of the watcher and must return at once.
    """

    def __init__(self, path: Path, wake: Callable[[], None]) -> None:
        self._path = path
        self._wake = wake
        self._watches = _Watches()
        self._lock = threading.Lock()

    def check(self) -> str | None:
        """Watch the paths that are not watched now; return why that fails for one of them, or None."""
        places: dict[str, _Place] = {}
        complaint = None
        with self._lock:
            for path, recursive in ((self._path, False), (self._path / "refs", True)):
                try:
                    identity = str(path.stat().st_ino).encode()
                    places[str(path)] = _Place(identity, self._on_event, _FILE_EVENTS, recursive)
                except OSError as error:
                    complaint = _why_not(str(path), error)
            return self._watches.renew(places)[1] or complaint

    def stop(self) -> None:
        """Stop watching, and wait for the threads."""
        self._watches.stop()

    def _on_event(self, event: FileSystemEvent) -> None:
        """Wake, unless only a lock came or went: the rename over the ref follows it."""
        path = os.fsdecode(event.dest_path or event.src_path)
        name = Path(path).name
        if not name.endswith(".lock") and (name in ("HEAD", "packed-refs") or "/refs/" in path):
            self._wake()
