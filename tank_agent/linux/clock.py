"""The machine's clocks, as an object that tests replace, and the written form of a time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import overload

_LAST_MOMENT = 253402300799.0


class Clock:
    """The machine's clocks."""

    def wall(self) -> float:
        """Return Unix time in seconds; it may be set forwards and backwards."""
        return time.time()

    def monotonic(self) -> float:
        """Return CLOCK_MONOTONIC in seconds: it never goes back, and all processes of a boot share it."""
        return time.monotonic()


def boot_id() -> str:
    """Return the random name of this boot (random(4), /proc/sys/kernel/random/boot_id)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@overload
def rfc3339(moment: float) -> str: ...
@overload
def rfc3339(moment: float | None) -> str | None: ...


def rfc3339(moment: float | None) -> str | None:
    """Return Unix time as RFC 3339 in UTC, to the millisecond; None stays None.

    A whole second has no fraction, since many times are known to the second only.
    """
    if moment is None:
        return None
    # A commit may claim any date; the form ends with the year 9999.
    seconds, thousandths = divmod(round(max(0.0, min(moment, _LAST_MOMENT)) * 1000), 1000)
    fraction = f".{thousandths:03}" if thousandths else ""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}{fraction}Z"
