"""conmon's control FIFO (`ctl` in the bundle): terminal sizes and the reopening of the log (conmon(8)).

conmon 2.1.6 handles only the first of two lines that it reads together, so there is one way to write there,
and it leaves time between any two lines to one container.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

_FIFO = "ctl"
_GAP = 0.05
_REOPEN_LOG = b"2 0 0\n"


class Control:
    """Writes control lines to any container's conmon, from any thread, without blocking."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: dict[Path, float] = {}

    def resize(self, directory: Path, rows: int, columns: int) -> float:
        """Set the terminal's size; see `_write`."""
        return self._write(directory, b"1 %d %d\n" % (rows, columns))

    def reopen_log(self, directory: Path) -> float:
        """Make conmon open its log file by name again; see `_write`."""
        return self._write(directory, _REOPEN_LOG)

    def forget(self, directory: Path) -> None:
        """Forget a container that is gone."""
        with self._lock:
            self._written.pop(directory, None)

    def _write(self, directory: Path, line: bytes) -> float:
        """Write a line and return 0; or write nothing, and return after how many seconds to try again.

        A conmon that is gone takes no lines: that is no error, since its end is noticed elsewhere.
        """
        with self._lock:
            now = time.monotonic()
            left = self._written.get(directory, 0.0) + _GAP - now
            if left > 0:
                return left
            try:
                fifo = os.open(directory / _FIFO, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                return 0.0
            try:
                os.write(fifo, line)
            except BlockingIOError:
                return _GAP
            except BrokenPipeError:
                return 0.0
            finally:
                os.close(fifo)
            self._written[directory] = now
            return 0.0
