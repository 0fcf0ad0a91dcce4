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


class ExitWatcher:
    """Calls back once when a process has ended. Callbacks run in the watcher's thread and must be short."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="exits", daemon=True)
        self._thread.start()

    def watch(self, pidfd: int, callback: Callable[[], None]) -> None:
        """Call back when the process ends; at once if it has. The descriptor stays the caller's."""
        with self._lock:
            self._callbacks[pidfd] = callback
            self._epoll.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)

    def forget(self, pidfd: int) -> None:
        """Stop watching; to be called before the descriptor is closed."""
        with self._lock:
            if self._callbacks.pop(pidfd, None) is not None:
                self._epoll.unregister(pidfd)

    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread."""
        os.eventfd_write(self._wake, 1)
        self._thread.join(_STOP_DEADLINE)
        self._epoll.close()
        os.close(self._wake)

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._wake:
                    return
                with self._lock:
                    callback = self._callbacks.pop(fd, None)
                    if callback is not None:
                        self._epoll.unregister(fd)
                if callback is not None:
                    _call(callback)


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        # The resync finds what was missed; the thread must go on for all other processes.
        _log.exception("an end could not be dealt with")


class RunWatcher:
    """Watches started runs for their end and for changes of their mounts, and owns their descriptors.

    Args:
        wake: called with a pod's name when one of its runs has ended, or lost its monitor.
        now: Unix time.
    """

    def __init__(self, wake: Callable[[str], None], now: Callable[[], float]) -> None:
        self._wake = wake
        self._now = now
        self._exits = ExitWatcher()
        self._mounts = MountWatch()
        # Guards exit handling and closing of pidfds (event thread, resync, removal).
        self._lock = threading.RLock()

    def watch(self, run: LiveRun) -> None:
        """Begin to watch a run that was started."""
        if run.pid is not None and run.process is not None:
            try:
                self._mounts.watch(run.record.id, run.pid)
            except OSError as error:
                # Its end must be seen all the same.
                _log.warning("cannot watch a container's mounts", id=run.record.id, error=str(error))
        if run.monitor is not None:
            self._exits.watch(run.monitor, lambda: self._monitor_ended(run))
        else:
            self._without_monitor(run)

    def check(self, runs: Sequence[LiveRun]) -> frozenset[str]:
        """Handle the ends that no event reported, kill monitors that hang, and return the ids that go on."""
        with self._lock:
            ended = pidfd.which_ended(
                [fd for run in runs for fd in (run.monitor, run.process) if fd is not None]
            )
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
                    self._exits.forget(descriptor)
            run.close()
        self._mounts.forget(run.record.id)

    def alive(self) -> bool:
        """Return whether the thread that waits for ends runs."""
        return self._exits.alive()

    def close(self) -> None:
        """Stop watching."""
        self._exits.close()
        self._mounts.close()

    def _monitor_ended(self, run: LiveRun) -> None:
        """Handle the end of a monitor, which an event and the resync may report at once."""
        with self._lock:
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
                    self._exits.forget(monitor)
                    os.close(monitor)
                self._exits.watch(run.process, lambda: self._ended(run, None))
                self._wake(run.record.pod)
            else:
                self._ended(run, exit_)

    def _ended(self, run: LiveRun, exit_: Exit | None) -> None:
        run.exit = exit_ or unknown_exit(run.process, self._now())
        self._mounts.forget(run.record.id)
        self._wake(run.record.pod)


def read_exit(directory: Path, process: int | None, now: float) -> Exit | None:
    """Return how a run ended as conmon wrote it down; None if it did not.

    conmon writes 128 + n both for signal n and for that exit code; where the kernel still knows, it decides.

    Args:
        directory: the run's.
        process: a pidfd of its main process; None if it was gone before anybody held it.
        now: Unix time.
    """
    code = read_number(directory / conmon.EXIT)
    if code is None:
        return None
    status = pidfd.wait_status(process) if process is not None else None
    killed = os.WIFSIGNALED(status) if status is not None else 128 < code <= 128 + signal.SIGRTMAX
    if not killed:
        # A shell whose child was killed often ends because of it, with a code of its own.
        return Exit(at=now, code=code, oom=code != 0 and _out_of_memory_at_end(directory))
    number = os.WTERMSIG(status) if status is not None else code - 128
    return Exit(at=now, signal=number, oom=number == signal.SIGKILL and _out_of_memory_at_end(directory))


def unknown_exit(process: int | None, now: float) -> Exit:
    """Return what the kernel knows of the end of a run whose monitor was killed before."""
    status = pidfd.wait_status(process) if process is not None else None
    reason = "its monitor (conmon) was killed, so its output and exit code are lost"
    if status is None:
        return Exit(at=now, reason=reason)
    if os.WIFSIGNALED(status):
        return Exit(at=now, signal=os.WTERMSIG(status), reason=reason)
    return Exit(at=now, code=os.WEXITSTATUS(status), reason=reason)


def _out_of_memory_at_end(directory: Path) -> bool:
    """Return whether memory ran out when the run ended: conmon also writes the file when it then went on."""
    try:
        ended = (directory / conmon.EXIT).stat().st_mtime
        return (directory / conmon.OUT_OF_MEMORY).stat().st_mtime > ended - _SAME_MOMENT
    except FileNotFoundError:
        return False
