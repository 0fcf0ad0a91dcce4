"""The ends of runs, noticed by the pidfds of their processes, and read from what conmon wrote."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from tank_agent.journal.records import Exit
from tank_agent.linux import pidfd
from tank_agent.linux.wakeups import MountWatch
from tank_agent.runtime.container import conmon
from tank_agent.runtime.run import LiveRun, RunState, read_number

_log = structlog.get_logger()
_STOP_DEADLINE = 5.0
# How long a monitor may outlive its container before it counts as hanging, in seconds.
_MONITOR_LINGERS = 5.0
# conmon writes the exit file and the out-of-memory file within moments, in seconds.
_SAME_MOMENT = 2.0


class RunWatcher:
    """Watches started runs for their end and for changes of their mounts, and owns their descriptors.

    Args:
        wake: called with a pod's name when one of its runs has ended, or lost its monitor; must be short.
        now: Unix time.
    """

    def __init__(self, wake: Callable[[str], None], now: Callable[[], float]) -> None:
        self._wake = wake
        self._now = now
        self._mounts = MountWatch()
        # Guards exit handling and closing of pidfds (event thread, resync, removal).
        self._lock = threading.RLock()
        self._runs: dict[int, LiveRun] = {}
        self._epoll = select.epoll()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="exits", daemon=True)
        self._thread.start()

    def watch(self, run: LiveRun) -> None:
        """Begin to watch a run that was started."""
        if run.pid is not None and run.process is not None:
            try:
                self._mounts.watch(run.record.id, run.pid)
            except OSError as error:
                # Its end must be seen in any case.
                _log.warning("cannot watch a container's mounts", id=run.record.id, error=str(error))
        if run.monitor is not None:
            self._register(run.monitor, run)
        else:
            self._without_monitor(run)

    def check(self, runs: Sequence[LiveRun]) -> frozenset[str]:
        """Handle the ends that no event reported, kill monitors that hang, and return the ids that go on."""
        with self._lock:
            watched = [fd for run in runs for fd in (run.monitor, run.process) if fd is not None]
            ended = pidfd.which_ended(watched)
            going_on = set()
            for run in runs:
                if run.state is not RunState.RUNNING or run.process is None or run.monitor is None:
                    continue
                if run.monitor in ended:
                    self._monitor_ended(run)
                elif run.process in ended:
                    # The monitor follows within milliseconds, unless it hangs.
                    run.ended_at = run.ended_at or time.monotonic()
                    if run.ended_at + _MONITOR_LINGERS < time.monotonic():
                        pidfd.send_signal(run.monitor, signal.SIGKILL)
                else:
                    going_on.add(run.record.id)
            return frozenset(going_on)

    def changed_mounts(self) -> frozenset[str]:
        """Return the ids of runs whose mounts changed since the last call."""
        return self._mounts.changed()

    def process_of(self, run: LiveRun) -> int | None:
        """Return a duplicate of a run's pidfd, which another thread cannot close; None if it has none."""
        with self._lock:
            return os.dup(run.process) if run.process is not None else None

    def forget(self, run: LiveRun) -> None:
        """Stop watching a run and close its descriptors."""
        with self._lock:
            for descriptor in (run.monitor, run.process):
                if descriptor is not None:
                    self._unregister(descriptor)
            run.close()
        self._mounts.forget(run.record.id)

    def alive(self) -> bool:
        """Return whether the thread that waits for ends runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop watching."""
        os.eventfd_write(self._stop, 1)
        self._thread.join(_STOP_DEADLINE)
        self._epoll.close()
        os.close(self._stop)
        self._mounts.close()

    def _register(self, descriptor: int, run: LiveRun) -> None:
        with self._lock:
            self._runs[descriptor] = run
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)

    def _unregister(self, descriptor: int) -> LiveRun | None:
        run = self._runs.pop(descriptor, None)
        if run is not None:
            self._epoll.unregister(descriptor)
        return run

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._stop:
                    return
                try:
                    with self._lock:
                        run = self._unregister(descriptor)
                        if run is not None and descriptor == run.monitor:
                            self._monitor_ended(run)
                        elif run is not None:
                            self._ended(run, None)
                except Exception:
                    # The resync finds what was missed; the thread must go on for the other processes.
                    _log.exception("an end could not be dealt with")

    def _monitor_ended(self, run: LiveRun) -> None:
        """Handle the end of a monitor, which an event and the resync may report at once."""
        if run.monitor is not None and run.exit is None:
            self._without_monitor(run)

    def _without_monitor(self, run: LiveRun) -> None:
        """Find out whether the container ended, or only its monitor."""
        with self._lock:
            exit_ = read_exit(run.directory, run.process, self._now())
            if exit_ is None and run.process is not None and not pidfd.ended(run.process):
                run.lost = True
                monitor, run.monitor = run.monitor, None
                if monitor is not None:
                    self._unregister(monitor)
                    os.close(monitor)
                self._register(run.process, run)
                self._wake(run.record.pod)
            else:
                self._ended(run, exit_)

    def _ended(self, run: LiveRun, exit_: Exit | None) -> None:
        run.exit = exit_ or unknown_exit(run.process, self._now())
        self._mounts.forget(run.record.id)
        self._wake(run.record.pod)


def read_exit(directory: Path, process: int | None, now: float) -> Exit | None:
    """Return how a run ended as conmon wrote it down in its directory; None if it did not.

    `process` is a pidfd of its main process, None if it ended before one was opened; `now` is Unix time.
    """
    code = read_number(directory / conmon.EXIT)
    if code is None:
        return None
    number = killed_by(code, process)
    if number is None:
        # A shell whose child was killed often ends because of it, with a code of its own.
        return Exit(at=now, code=code, oom=code != 0 and _out_of_memory_at_end(directory))
    return Exit(at=now, signal=number, oom=number == signal.SIGKILL and _out_of_memory_at_end(directory))


def killed_by(code: int, process: int | None) -> int | None:
    """Return the signal that ended a process, held by a pidfd; None if it ended by itself.

    conmon and crun write 128 + n both for signal n and for that exit code; the kernel decides if it knows.
    """
    status = pidfd.wait_status(process) if process is not None else None
    if status is not None:
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return code - 128 if 128 < code <= 128 + signal.SIGRTMAX else None


def unknown_exit(process: int | None, now: float) -> Exit:
    """Return what the kernel knows of the end of a run whose monitor was killed before."""
    reason = "its monitor (conmon) was killed, so its output and exit code are lost"
    status = pidfd.wait_status(process) if process is not None else None
    if status is None:
        return Exit(at=now, reason=reason)
    if os.WIFSIGNALED(status):
        return Exit(at=now, signal=os.WTERMSIG(status), reason=reason)
    return Exit(at=now, code=os.WEXITSTATUS(status), reason=reason)


def _out_of_memory_at_end(directory: Path) -> bool:
    """Return whether memory ran out at the run's end; conmon writes the file also if the run then went on."""
    try:
        ended = (directory / conmon.EXIT).stat().st_mtime
        return (directory / conmon.OUT_OF_MEMORY).stat().st_mtime > ended - _SAME_MOMENT
    except FileNotFoundError:
        return False
