"""Directory trees that are gone at once, and whose files are deleted beside the work."""

from __future__ import annotations

import queue
import secrets
import shutil
import threading
from pathlib import Path

import structlog

_log = structlog.get_logger()
_STOP_DEADLINE = 5.0


class Trash:
    """Deletes trees in a thread of its own, since a container may have written millions of files.

    What cannot be deleted stays, is told once, and is tried again by the next agent. So is what a killed one
    left.

    Args:
        directory: on the file system of what is thrown away; nobody else uses it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._waiting: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        for left in list(self._directory.iterdir()):
            self._waiting.put(left)
        self._thread = threading.Thread(target=self._run, name="trash", daemon=True)
        self._thread.start()

    def throw(self, path: Path) -> None:
        """Take a tree away; nothing if it is not there.

        Raises:
            OSError: it cannot be moved.
        """
        target = self._directory / secrets.token_hex(8)
        try:
            path.rename(target)
        except FileNotFoundError:
            return
        self._waiting.put(target)

    def close(self) -> None:
        """End the thread after what it is at, or leave it to the end of the process if that takes long."""
        self._waiting.put(None)
        self._thread.join(_STOP_DEADLINE)

    def _run(self) -> None:
        while (path := self._waiting.get()) is not None:
            try:
                shutil.rmtree(path)
            except OSError as error:
                _log.warning("cannot delete what a container left", path=str(path), error=str(error))
