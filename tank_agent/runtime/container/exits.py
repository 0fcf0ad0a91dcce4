"""One thread that waits for the ends of all processes that the agent cares about, by their pidfds."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

import structlog

_log = structlog.get_logger()
_STOP_DEADLINE = 5.0


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
        # The resync finds what was missed; the ends of all others are still to be seen.
        _log.exception("an end could not be dealt with")
