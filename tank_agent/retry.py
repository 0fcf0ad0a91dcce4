"""The back-off rule, a failure that is retried by it, and limits of how often callers may try something.

Time and chance are arguments.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

# Of so many callers a limit knows how often they tried.
_CALLERS = 1024


class Pace(Struct, kw_only=True):
    """`delay = min(base · 2ⁿ, cap)`, n being the failures in a row before this one; in seconds.

    Args:
        base: the delay after the first failure.
        cap: the longest delay.
        jitter: the part of a delay, from 0 to 1, by which it may be shortened, so that what failed at one
            moment is not retried at one moment.
    """

    base: float
    cap: float
    jitter: float = 0.2

    def delay(self, failures: int, chance: float = 0.0) -> float:
        """Return the delay after the n-th failure in a row, counted from 0.

        `chance`, from 0 to 1, is how much of the jitter is taken: `spread` of a name, or a random number.
        """
        # 2**64 seconds is beyond every cap; the bound keeps the power small.
        return min(self.base * 2.0 ** min(failures, 64), self.cap) * (1.0 - self.jitter * chance)


class Failure(Struct, frozen=True, kw_only=True):
    """Something that failed `count` times in a row, last with `error`; `Failure()` has never failed.

    `retry_at` is a time of the caller's clock.
    """

    error: str = ""
    count: int = 0
    retry_at: float = 0.0

    def again(self, error: str, pace: Pace, now: float, chance: float = 0.0) -> Self:
        """Return this failure after one more."""
        retry_at = now + pace.delay(self.count, chance)
        return replace(self, error=error, count=self.count + 1, retry_at=retry_at)


def spread(name: str) -> float:
    """Return a number in [0, 1) that depends on the name only, and is spread evenly over names."""
    return zlib.crc32(name.encode()) / 2**32


def retry_after(header: str, now: float, most: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, from 0 to `most`; None if it is none.

    RFC 9110, section 10.2.3. `now` is the time of day, as of `time.time`.
    """
    # It is loaded with the first header: this module is part of every command.
    from email.utils import parsedate_to_datetime

    text = header.strip()
    try:
        if text.isascii() and text.isdigit() and len(text) < 10:
            seconds = float(text)
        else:
            seconds = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return min(max(seconds, 0.0), most)


class RateLimit:
    """A token bucket per caller: `burst` at once, then `rate` a second, for the 1,024 latest callers."""

    def __init__(
        self, *, burst: float = 20, rate: float = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, caller: str) -> bool:
        """Take a token of a caller; False if there is none."""
        with self._lock:
            now = self._clock()
            tokens = self._tokens(caller, now)
            allowed = tokens >= 1
            self._buckets.pop(caller, None)
            self._buckets[caller] = (tokens - 1 if allowed else tokens, now)
            while len(self._buckets) > _CALLERS:
                self._buckets.popitem(last=False)
        return allowed

    def is_used_up(self, caller: str) -> bool:
        """Return whether `allows` would return False; takes nothing."""
        with self._lock:
            return self._tokens(caller, self._clock()) < 1

    def _tokens(self, caller: str, now: float) -> float:
        tokens, at = self._buckets.get(caller, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._rate)
