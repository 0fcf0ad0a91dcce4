"""The thread that follows a repository: looks when it is woken, and every so often anyway."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from tank_agent.source.git.schedule import Schedule
from tank_agent.source.git.status import GitStatus


class Followed(Protocol):
    """What the worker drives; GitSource is one."""

    def sync(self) -> GitStatus: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102


class GitWorker:
    """Runs `sync` in a thread of its own.

    Args:
        before: called before each look, such as `RefWatcher.check`.
        on_bug: told of an exception that nobody foresaw; the thread goes on.
        random: returns a number in [0, 1).
        wait: waits on the event for at most so many seconds; tests steer time with it.
    """

    def __init__(
        self,
        source: Followed,
        schedule: Schedule,
        *,
        before: Callable[[], object] = lambda: None,
        on_bug: Callable[[Exception], object] = lambda _: None,
        random: Callable[[], float] = random.random,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._source = source
        self._schedule = schedule
        self._before = before
        self._on_bug = on_bug
        self._random = random
        self._wait = wait
        self._wake = threading.Event()
        self._stopped = False
        self._finished = threading.Condition()
        # Looks that were begun and ended: a look that began before a wake may have missed what it was about.
        self._begun = 0
        self._ended = 0
        self._thread = threading.Thread(target=self._run, name="git", daemon=True)

    def start(self) -> None:
        """Start to follow; the first look is at once."""
        self._thread.start()

    def wake(self) -> None:
        """Look soon; returns at once, from any thread."""
        self._wake.set()

    def sync(self, timeout: float) -> bool:
        """Look now, and wait up to `timeout` seconds until a look that began after this call has ended."""
        with self._finished:
            wanted = self._begun + 1
        self.wake()
        deadline = time.monotonic() + timeout
        with self._finished:
            while self._ended < wanted and not self._stopped:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._finished.wait(left)
            return self._ended >= wanted

    def stop(self) -> None:
        """End a look that runs, and the thread."""
        self._stopped = True
        self._source.stop()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._finished:
            self._finished.notify_all()

    def _look(self) -> bool:
        try:
            self._before()
            return self._source.sync().fetched.error is None
        except Exception as error:
            self._on_bug(error)
            return False

    def _run(self) -> None:
        failures = 0
        while not self._stopped:
            self._wake.clear()
            with self._finished:
                self._begun += 1
            failures = 0 if self._look() else failures + 1
            with self._finished:
                self._ended = self._begun
                self._finished.notify_all()
            if not self._stopped:
                self._wait(self._wake, self._schedule.delay(failures, self._random))
