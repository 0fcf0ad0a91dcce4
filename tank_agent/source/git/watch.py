"""Wakes the agent when a ref of a repository on this machine changes: a push is seen in milliseconds.

Events are hints. What they miss, the next poll finds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import ObservedWatch

from tank_agent.source.observer import LateObserver

# No "opened": our own reading makes those.
_EVENTS: list[type[FileSystemEvent]] = [FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent]


class RefWatcher:
    """Calls `wake` when HEAD, packed-refs or a file below refs/ of a bare repository changes.

    `wake` runs in a thread of the watcher and must return at once.
    """

    def __init__(self, path: Path, wake: Callable[[], None]) -> None:
        self._path = path
        self._handler = _Handler(wake)
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
            watch = self._observer.watch(self._handler, path, events=_EVENTS, recursive=recursive)
            self._watches[path] = (inode, watch)
        except OSError as error:
            return f"can't watch {path}: {error.strerror or error}"
        return None


class _Handler(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def dispatch(self, event: FileSystemEvent) -> None:
        """Wake, unless only a lock came or went: the rename over the ref follows it."""
        path = os.fsdecode(event.dest_path or event.src_path)
        name = Path(path).name
        if not name.endswith(".lock") and (name in ("HEAD", "packed-refs") or "/refs/" in path):
            self._wake()
