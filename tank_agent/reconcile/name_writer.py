"""The thread that writes the names of pods anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

# Seconds in which changes are gathered.
_PAUSE = 0.1
_log = structlog.get_logger()


class NameWriter:
    """Writes the names of pods anew in a thread, once for all changes that come close together.

    The thread begins with the first change, so that pods without names cost none.

    Args:
        version: returns another number whenever names are others.
        write: writes them.
    """

    def __init__(self, version: Callable[[], int], write: Callable[[], None]) -> None:
        self._version, self._write = version, write
        self._written = version()
        self._stale, self._closing = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def look(self) -> bool:
        """Have names written soon if any has changed, and return whether that is so."""
        if self._version() == self._written:
            return False
        self._stale.set()
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="names", daemon=True)
                self._thread.start()
        return True

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._closing.set()
        self._stale.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        pause = _PAUSE
        while True:
            self._stale.wait()
            self._closing.wait(pause)
            self._stale.clear()
            # After that, since who closes sets this one first: nobody would end the next wait.
            if self._closing.is_set():
                return
            # Before, so that a change meanwhile is written the next time.
            version = self._version()
            if version == self._written:
                continue
            began = time.monotonic()
            try:
                self._write()
            except Exception:
                _log.exception("writing the names of pods failed by a bug")
            self._written = version
            # Each of a thousand pods that come writes the files of all: that may take a tenth of the time.
            pause = max(_PAUSE, 9 * (time.monotonic() - began))
