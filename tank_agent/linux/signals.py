"""Wait for signals without missing one (signal(7)).

Python runs handlers between bytecodes, so one that arrives just before the main thread begins to block would
be seen only when something else wakes it. A descriptor that the C handler writes to has no such gap. Blocking
the signals for sigwait(3) would do too, but children inherit the mask, and containers would start with it.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Collection
from types import TracebackType
from typing import Self


class Signals:
    """Catches some signals from now on; to be made in the main thread, and closed there.

    Args:
        numbers: the signals.
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
        while True:
            if not poller.poll(None if timeout is None else timeout * 1000):
                return None
            for number in os.read(self._reader, 1):
                if number in self._numbers:
                    return number

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_wakeup)
        os.close(self._reader)
        os.close(self._writer)
