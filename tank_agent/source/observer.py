"""watchdog's observer, made once the kernel has an inotify instance for it: root's programs share 128."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch


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
