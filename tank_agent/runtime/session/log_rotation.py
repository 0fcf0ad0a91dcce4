"""Rotation of the logs of running containers by size, with no line lost.

The file is renamed while conmon goes on writing to it; then conmon opens it by name again. After a crash the
second step may be missing, so it is repeated where no file has the log's name.
"""

from __future__ import annotations

import threading
from pathlib import Path

import structlog

from tank_agent.errors import shortage
from tank_agent.linux.fault import point
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.run import LiveRun
from tank_agent.runtime.session.log_reader import log_files

_log = structlog.get_logger()
_EVERY = 1.0
_STOP_DEADLINE = 5.0


class Rotation:
    """Checks the logs of all running containers every second, in a thread of its own.

    Args:
        max_size: bytes above which a file is rotated.
        max_files: how many files of a container are kept, the current one included.
    """

    def __init__(self, containers: Containers, *, max_size: int, max_files: int) -> None:
        self._containers = containers
        self._max_size = max_size
        self._max_files = max_files
        self._trimmed: dict[Path, int] = {}
        self._errors: dict[Path, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-rotation", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join(_STOP_DEADLINE)

    def set_limits(self, *, max_size: int, max_files: int) -> None:
        """Change the limits, from the next check on."""
        self._max_size, self._max_files = max_size, max_files

    def check(self) -> None:
        """Rotate logs that are too large, and finish rotations that were interrupted."""
        limit = self._max_files
        trimmed: dict[Path, int] = {}
        errors: dict[Path, str] = {}
        for pod in self._containers.pods():
            for run in self._containers.runs(pod):
                log = self._containers.log(pod, run.record.container, run.record.job_run)
                try:
                    # Once for each limit: a lower one counts for logs that no longer grow, too.
                    if self._trimmed.get(log) != limit:
                        trim(log, limit)
                    trimmed[log] = limit
                    # A run that is being made has not opened its log yet.
                    if run.started and run.monitor is not None:
                        self._check_run(run, log)
                except OSError as error:
                    # Such as a file that cannot be removed; the others are still checked.
                    errors[log] = text = str(shortage(error) or error)
                    if self._errors.get(log) != text:
                        name = run.record.container
                        _log.error("cannot rotate a log", pod=pod, container=name, error=text)
        self._trimmed, self._errors = trimmed, errors

    def _check_run(self, run: LiveRun, log: Path) -> None:
        try:
            too_large = log.stat(follow_symlinks=False).st_size > self._max_size
        except FileNotFoundError:
            pass
        else:
            if not too_large:
                return
            rotate(log, self._max_files)
        control = self._containers.control
        while (wait := control.reopen_log(run.directory)) > 0 and not self._ended.wait(wait):
            pass

    def _run(self) -> None:
        while not self._ended.wait(_EVERY):
            try:
                self.check()
            except Exception:
                # Such as a full or broken disk, which may be mended by the next check.
                _log.exception("cannot rotate logs")


def rotate(log: Path, max_files: int) -> None:
    """Rename a log's files so that its own name is free, and remove the oldest."""
    trim(log, max_files - 1)
    if max_files == 1:
        log.unlink()
        return
    for number in range(max_files - 2, 0, -1):
        path = log.with_name(f"{log.name}.{number}")
        if path.exists():
            path.rename(log.with_name(f"{log.name}.{number + 1}"))
            point("logs:shifted")
    log.rename(log.with_name(f"{log.name}.1"))
    point("logs:renamed")


def trim(log: Path, max_files: int) -> None:
    """Remove the oldest of a log's files, so that `max_files` are left, the newest included."""
    for path, _ in log_files(log):
        if path != log and int(path.suffix.removeprefix(".")) >= max_files:
            path.unlink(missing_ok=True)
