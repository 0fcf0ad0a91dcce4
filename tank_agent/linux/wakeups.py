"""Wait for signals, mounts, and writers of files."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import threading
import time
from collections.abc import Collection, Iterable
from typing import Self

from tank_agent.linux.libc import call
from tank_agent.linux.paths import Ignoring

# Starting many containers makes thousands of mounts; they wake the thread once in so many seconds.
_MOUNTS_SETTLE = 0.3
# inotify(7)
_IN_CLOSE_WRITE = 0x8
_EVENTS_AT_ONCE = 64 << 10
# A file: path, device, inode.
WatchedFile = tuple[str, int, int]


def open_inotify() -> int:
    """Return a new inotify instance (inotify_init1(2)); OSError if the user has too many of them."""
    return call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)


class WakeEvent:
    """A `threading.Event` that is also set by mounts in this process's own namespace and by writers of files.

    One thread waits and watches files; any thread may set it.
    """

    def __init__(self) -> None:
        self._flag = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # It polls as an error once after each change (proc_pid_mounts(5)).
        self._mounts = self._inotify = -1
        with contextlib.suppress(OSError):
            self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._files: frozenset[WatchedFile] = frozenset()
        self._written = False

    def set(self) -> None:
        """Wake the waiting thread."""
        os.eventfd_write(self._flag, 1)

    def clear(self) -> None:
        """Unset the flag."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._flag)

    def wait(self, timeout: float) -> bool:
        """Return whether it was set, or something was mounted or written, within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        poller = select.poll()
        events = {self._flag: select.POLLIN, self._mounts: select.POLLPRI, self._inotify: select.POLLIN}
        for descriptor, event in events.items():
            if descriptor >= 0:
                poller.register(descriptor, event)
        ready = dict(poller.poll(timeout * 1000))
        if self._inotify in ready:
            os.read(self._inotify, _EVENTS_AT_ONCE)
            self._written = True
        elif self._mounts in ready and self._flag not in ready:
            poller.unregister(self._mounts)
            poller.poll(max(0.0, min(_MOUNTS_SETTLE, deadline - time.monotonic())) * 1000)
        return bool(ready)

    def watch_files(self, files: Iterable[WatchedFile]) -> bool:
        """Watch these files and no others, by whatever name they are written; return whether they changed."""
        wanted = frozenset(files)
        if wanted == self._files:
            return False
        self._drop_files()
        # Where the kernel refuses, the resync sees what changes, and the next call tries again.
        with contextlib.suppress(OSError):
            if wanted:
                self._inotify = open_inotify()
            for path, _, _ in wanted:
                call("inotify_add_watch", self._inotify, os.fsencode(path), _IN_CLOSE_WRITE)
            self._files = wanted
        return True

    def written(self) -> bool:
        """Return whether a file was written since the last call."""
        written, self._written = self._written, False
        return written

    def close(self) -> None:
        """Close the descriptors; no thread may wait any more."""
        self._drop_files()
        os.close(self._flag)
        if self._mounts >= 0:
            os.close(self._mounts)

    def _drop_files(self) -> None:
        if self._inotify >= 0:
            os.close(self._inotify)
        self._inotify, self._files = -1, frozenset()


class CaughtSignals:
    """Catches some signals until it is closed; made and closed in the main thread.

    Python runs handlers between bytecodes, so a signal just before the main thread begins to block would be
    seen only when something else wakes it. A descriptor that the C handler writes to has no such gap. Signals
    blocked for sigwait(3) have none either, but containers would inherit the mask.
    """

    def __init__(self, numbers: Collection[int]) -> None:
        self._numbers = frozenset(numbers)
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._former_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._former = {number: signal.signal(number, lambda *_: None) for number in self._numbers}

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until one of the signals has arrived, and return its number; None after `timeout` seconds."""
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        while poller.poll(None if timeout is None else timeout * 1000):
            number = os.read(self._reader, 1)[0]
            if number in self._numbers:
                return number
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_wakeup)
        os.close(self._reader)
        os.close(self._writer)


class MountWatch:
    """Reports in which processes' namespaces something was mounted or unmounted; thread-safe.

    One system call asks for all of them: after a change, /proc/PID/mountinfo polls as an error once
    (proc_pid_mounts(5)). While it is open, the namespace stays, so forget it when the process has ended.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}

    def watch(self, name: str, pid: int) -> None:
        """Begin to watch a process's namespace under a name; nothing happens if the process has ended."""
        # EINVAL: the process waits to be reaped, and has no namespaces any more.
        with Ignoring(errno.ENOENT, errno.ESRCH, errno.EINVAL):
            file = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            self.forget(name)
            with self._lock:
                self._files[name] = file
                self._epoll.register(file, select.EPOLLPRI)

    def forget(self, name: str) -> None:
        """Stop watching; nothing happens if the name is not watched."""
        with self._lock:
            if (file := self._files.pop(name, None)) is not None:
                self._epoll.unregister(file)
                os.close(file)

    def changed(self) -> frozenset[str]:
        """Return the names whose namespaces changed since the last call."""
        with self._lock:
            if not self._files:
                return frozenset()
            ready = {file for file, _ in self._epoll.poll(0, len(self._files))}
            return frozenset(name for name, file in self._files.items() if file in ready)

    def close(self) -> None:
        """Stop watching all."""
        with self._lock:
            for file in self._files.values():
                os.close(file)
            self._files.clear()
            self._epoll.close()
