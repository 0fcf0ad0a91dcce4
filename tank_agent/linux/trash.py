"""Directory trees that are gone at once, and whose files are deleted beside the work."""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
from pathlib import Path

import structlog

from tank_agent.linux.trees import remove_tree

_log = structlog.get_logger()
_STOP_DEADLINE = 5.0
# The end of a file's name that says why the tree beside it is still there.
REASON = ".why"


class Trash:
    """Deletes trees in a thread of its own, since a container may have written millions of files.

    What cannot be deleted stays, and the reason in a file beside it, for `tank doctor`; the next agent tries
    again. So it does with what a killed one left.

    Args:
        directory: on the file system of what is thrown away; nobody else uses it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._waiting: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._directory.chmod(0o700)
        # What resisted comes last.
        reasons = {path.stem for path in self._directory.glob(f"*{REASON}")}
        left = [path for path in self._directory.iterdir() if path.suffix != REASON]
        for path in sorted(left, key=lambda path: path.name in reasons):
            self._waiting.put(path)
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
            reason = path.with_suffix(REASON)
            try:
                remove_tree(path)
                reason.unlink(missing_ok=True)
            except Exception as error:
                # Whatever it is: what was thrown away after it is to be deleted all the same.
                _log.warning("cannot delete what a container left", path=str(path), error=str(error))
                with contextlib.suppress(OSError):
                    reason.write_text(str(error) or type(error).__name__, errors="replace")
