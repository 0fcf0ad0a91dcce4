"""Wake the agent when a directory of pod files or a ref changes. Events are hints; the sources read."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
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
from tank_agent.linux.paths import LINKS_MAX, directory_identity
from tank_agent.linux.wakeups import WakeEvent, WatchedFile
from tank_agent.spec.document import is_pod_file_name


class LateObserver:
    """Watches paths as soon as that is possible. Calls come from one thread at a time.

    watchdog 7 asks for its inotify instance when an observer is made, watchdog 6 when a path is watched.
    """

    def __init__(self) -> None:
        self._observer: BaseObserver | None = None

    def alive(self) -> frozenset[ObservedWatch]:
        """Return what is watched now."""
        if self._observer is None:
            return frozenset()
        if not self._observer.is_alive():
            self._observer = None
            return frozenset()
        return frozenset(emitter.watch for emitter in self._observer.emitters if emitter.is_alive())

    def watch(
        self,
        handler: FileSystemEventHandler,
        path: str,
        *,
        events: Sequence[type[FileSystemEvent]],
        recursive: bool = False,
    ) -> ObservedWatch:
        """Begin to watch a path.

        Raises:
            OSError: the path, or a limit on instances, watches, descriptors or threads, forbids it.
        """
        try:
            if self._observer is None:
                observer = Observer()
                observer.start()
                self._observer = observer
            return self._observer.schedule(handler, path, recursive=recursive, event_filter=[*events])
        except RuntimeError as error:
            # "can't start new thread"
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error

    def forget(self, watch: ObservedWatch) -> None:
        """Stop to watch a path; nothing if it is not watched any more."""
        if self._observer is not None and watch in {emitter.watch for emitter in self._observer.emitters}:
            self._observer.unschedule(watch)

    def stop(self) -> None:
        """Stop to watch, and wait for the threads."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None


# A directory of links to everywhere must not use up the kernel's watches; the resync sees the rest.
_PLACES_MAX = 64


class PathNames:
    """Names that matter, by the directory that holds them; every directory is written without links."""

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {}

    def add_path(self, path: str) -> None:
        """Add every name that is looked up on the way to an absolute path; the last may be missing."""
        left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        place, links = "/", 0
        while left:
            name = left.pop()
            if name == "..":
                place = str(Path(place).parent)
                continue
            self.names.setdefault(place, set()).add(name)
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

    def add_files(self, directory: str, names: Iterable[str]) -> None:
        """Add what links of these names in a directory lead through, as far as there is room."""
        for name in names:
            if len(self.names) >= _PLACES_MAX:
                return
            self.add_path(os.path.join(directory, name))


# An emitter that is stopped between two of its steps logs an error that means nothing. Without any handler,
# Python would print it to stderr; whoever sets up logging still gets it.
logging.getLogger("watchdog").addHandler(logging.NullHandler())

# No "modified" and "opened": the first comes before a writer is done, the second from our own reading.
_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
]


# Far up, only a rename can take the directory away; whatever else happens there is others' business.
_FAR_EVENTS: list[type[FileSystemEvent]] = [DirMovedEvent]
_FAR = b" far"

# For what no event reports, such as a directory far up that is made again.
CHECK_EVERY = 10.0
# Files that have other names are watched by themselves, as far as there are no more than this.
_FILES_MAX = 64


class _Armed(Struct, frozen=True):
    identity: bytes
    watch: ObservedWatch


class DirectoryWatcher:
    """Calls `wake` soon after a pod file in `path` changed, or the directory itself came or went.

    That includes what its links lead through, mounts over it or its files, and writers by another name.
    `wake` runs in a thread of the watcher and must return at once. What the kernel does not report, as on a
    network file system, shows at the next resync.

    Args:
        path: the directory; it may come later, and so may the kernel's means to watch it.
        wake: see above.
        report: called when what `check` answers has changed.
    """

    def __init__(
        self, path: Path, wake: Callable[[], None], report: Callable[[str | None], None] = lambda _: None
    ) -> None:
        self._path = path.absolute()
        self._wake = wake
        self._report = report
        self._trouble: str | None = None
        self._observer = LateObserver()
        self._armed: dict[str, _Armed] = {}
        self._lock = threading.Lock()
        # Of every directory watched, the names that matter in it.
        self._names: Mapping[str, AbstractSet[str]] = {}
        self._mounted: frozenset[Path] = frozenset()
        self._rearm = WakeEvent()
        self._stopped = False
        self._thread = threading.Thread(target=self._rearm_when_told, name="watch-directory", daemon=True)
        _report_renames_at_once()

    def start(self) -> str | None:
        """Start to watch; the answer is that of `check`."""
        self._thread.start()
        return self.check()

    def check(self) -> str | None:
        """Watch again what was replaced or is watched no more, and wake then: events may have been missed.

        Returns:
            Why the directory can't be watched now, or None. It is tried again at the next check.
        """
        with self._lock:
            trouble = self._arm_missing()
            if trouble != self._trouble:
                self._trouble = trouble
                self._report(trouble)
        return trouble

    def _arm_missing(self) -> str | None:
        """Do what `check` does, with the lock held."""
        wanted = self._wanted()
        alive = self._observer.alive()
        for path, armed in list(self._armed.items()):
            if wanted.get(path) != armed.identity or armed.watch not in alive:
                self._observer.forget(armed.watch)
                del self._armed[path]
        missing = [path for path in wanted if path not in self._armed]
        try:
            for path in missing:
                self._arm(path, wanted[path])
        except OSError as error:
            return f"can't watch {path}: {error.strerror or error}"
        finally:
            if missing:
                self._wake()
        return None if str(self._path.resolve()) in wanted else f"can't watch {self._path}: it is not there"

    def stop(self) -> None:
        """Stop to watch, and wait for the threads."""
        self._stopped = True
        self._rearm.set()
        self._thread.join()
        self._observer.stop()
        self._rearm.close()

    def _rearm_when_told(self) -> None:
        while not self._stopped:
            if self._rearm.wait(CHECK_EVERY):
                self._rearm.clear()
            if self._rearm.written():
                self._wake()
            if not self._stopped:
                self.check()

    def _wanted(self) -> dict[str, bytes]:
        """Return the directories to watch, with identities: all on the way to this one and to its links."""
        target = str(self._path.resolve())
        places = PathNames()
        places.add_path(str(self._path))
        mounted = self._mounted
        # Without a descriptor to spare, what is known goes on to count.
        with suppress(OSError):
            mounted = mount_points(Path(target))
        links, others = _odd_files(target, mounted)
        places.add_files(target, links)
        self._names = places.names
        if self._rearm.watch_files(others) or mounted != self._mounted:
            self._mounted = mounted
            self._wake()
        wanted: dict[str, bytes] = {}
        # The most important first, since the kernel may not have watches for all.
        for directory in dict.fromkeys((target, str(Path(target).parent), *places.names)):
            with suppress(OSError):
                fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    kind = _FAR if self._is_far(directory) else b""
                    wanted[directory] = directory_identity(fd) + kind
                finally:
                    os.close(fd)
        return wanted

    def _is_far(self, directory: str) -> bool:
        """Return whether a directory matters only as a parent of the directories that are watched."""
        near = self._path.parent
        below = [Path(directory, name) for name in self._names.get(directory, ())]
        return bool(below) and all(one in near.parents and not one.is_symlink() for one in below)

    def _arm(self, path: str, identity: bytes) -> None:
        events = _FAR_EVENTS if identity.endswith(_FAR) else _EVENTS
        watch = self._observer.watch(_DirectoryHandler(self, path), path, events=events)
        self._armed[path] = _Armed(identity, watch)

    def on_event(self, directory: str, event: FileSystemEvent) -> None:
        """Wake if the event can matter; called by the observer, in its lock, with the directory watched."""
        target = str(self._path.resolve())
        paths = [os.fsdecode(path) for path in (event.src_path, event.dest_path) if path]
        names = self._names.get(directory, ())
        if any(path == directory or Path(path).name in names for path in paths):
            # Not check() itself: it asks the observer for its lock while it holds ours.
            self._rearm.set()
            self._wake()
        elif directory == target and any(is_pod_file_name(Path(path).name) for path in paths):
            if any(_is_odd(path) for path in paths):
                self._rearm.set()
            self._wake()


def _odd_files(directory: str, mounted: frozenset[Path]) -> tuple[list[str], list[WatchedFile]]:
    """Return the names of pod files that are links, and the files that can be written by other names."""
    links: list[str] = []
    others: list[WatchedFile] = []
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if not is_pod_file_name(entry.name):
                continue
            if entry.is_symlink():
                links.append(entry.name)
            elif len(others) < _FILES_MAX and (
                _is_odd(entry.path) or (mounted and Path(entry.path) in mounted)
            ):
                status = Path(entry.path).stat()
                others.append((entry.path, status.st_dev, status.st_ino))
    return sorted(links), others


def _is_odd(path: str) -> bool:
    """Return whether a file can change without an event in its directory."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1)


class _DirectoryHandler(FileSystemEventHandler):
    def __init__(self, watcher: DirectoryWatcher, directory: str) -> None:
        self._watcher = watcher
        self._directory = directory

    def dispatch(self, event: FileSystemEvent) -> None:
        """Pass on every event."""
        self._watcher.on_event(self._directory, event)


def _report_renames_at_once() -> None:
    """Stop watchdog from holding back a file moved out, and all events behind it, for half a second.

    It waits to pair the two ends of a rename; we don't need to know where a file went. The class that waits
    has another name in watchdog 6 than in 7; where neither is found, all that is lost is that half second.
    """
    for module, name in (
        ("watchdog.observers.inotify_move_event_grouper", "InotifyMoveEventGrouper"),
        ("watchdog.observers.inotify_buffer", "InotifyBuffer"),
    ):
        with suppress(ModuleNotFoundError, KeyError):
            vars(importlib.import_module(module))[name].delay = 0.0


# No "opened": our own reading makes those.
_REF_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
]


class RefWatcher:
    """Calls `wake` when HEAD, packed-refs or a file below refs/ of a bare repository changes.

    `wake` runs in a thread of the watcher and must return at once.
    """

    def __init__(self, path: Path, wake: Callable[[], None]) -> None:
        self._path = path
        self._handler = _RefHandler(wake)
        self._observer = LateObserver()
        self._watches: dict[str, tuple[int, ObservedWatch]] = {}
        self._lock = threading.Lock()

    def start(self) -> str | None:
        """Start to watch; the answer is that of `check`."""
        return self.check()

    def check(self) -> str | None:
        """Watch what is not watched (any more); return why a part of it cannot be, or None."""
        with self._lock:
            alive = self._observer.alive()
            complaint = None
            for path, recursive in ((self._path, False), (self._path / "refs", True)):
                complaint = self._watch(str(path), recursive, alive) or complaint
            return complaint

    def stop(self) -> None:
        """Stop to watch, and wait for the threads."""
        self._observer.stop()

    def _watch(self, path: str, recursive: bool, alive: frozenset[ObservedWatch]) -> str | None:
        known = self._watches.get(path)
        try:
            inode = Path(path).stat().st_ino
            if known is not None and known[0] == inode and known[1] in alive:
                return None
            if known is not None:
                del self._watches[path]
                self._observer.forget(known[1])
            watch = self._observer.watch(self._handler, path, events=_REF_EVENTS, recursive=recursive)
            self._watches[path] = (inode, watch)
        except OSError as error:
            return f"can't watch {path}: {error.strerror or error}"
        return None


class _RefHandler(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def dispatch(self, event: FileSystemEvent) -> None:
        """Wake, unless only a lock came or went: the rename over the ref follows it."""
        path = os.fsdecode(event.dest_path or event.src_path)
        name = Path(path).name
        if not name.endswith(".lock") and (name in ("HEAD", "packed-refs") or "/refs/" in path):
            self._wake()
