"""An event that callers set, and that mounts and writers of single files set, too."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterable

from tank_agent.linux.libc import call

# Starting many containers makes thousands of mounts; they ring once in so many seconds.
_MOUNTS_SETTLE = 0.3
# inotify(7)
_IN_CLOSE_WRITE = 0x8
_EVENTS_AT_ONCE = 64 << 10
# Which file it is: path, device, inode.
File = tuple[str, int, int]


class Bell:
    """As `threading.Event`; mounts in this process's own namespace and writers of files set it, too.

    One thread waits and watches files; any thread may set it.
    """

    def __init__(self) -> None:
        self._flag = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # It polls as an error once after each change (proc_pid_mounts(5)).
        self._mounts = -1
        with contextlib.suppress(OSError):
            self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._inotify = -1
        self._files: frozenset[File] = frozenset()
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
        poller.register(self._flag, select.POLLIN)
        if self._mounts >= 0:
            poller.register(self._mounts, select.POLLPRI)
        if self._inotify >= 0:
            poller.register(self._inotify, select.POLLIN)
        ready = dict(poller.poll(timeout * 1000))
        if self._inotify in ready:
            os.read(self._inotify, _EVENTS_AT_ONCE)
            self._written = True
        elif self._mounts in ready and self._flag not in ready:
            poller.unregister(self._mounts)
            poller.poll(max(0.0, min(_MOUNTS_SETTLE, deadline - time.monotonic())) * 1000)
        return bool(ready)

    def watch_files(self, files: Iterable[File]) -> bool:
        """Watch these files and no others, whatever name they are written by; return if that is a change."""
        wanted = frozenset(files)
        if wanted == self._files:
            return False
        self._drop_files()
        # Where the kernel refuses, the resync sees what changes, and the next call tries again.
        with contextlib.suppress(OSError):
            if wanted:
                self._inotify = call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
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
