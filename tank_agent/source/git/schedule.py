"""When to look at the remote again."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from tank_agent.retry import Pace


class Schedule(Struct, frozen=True, kw_only=True):
    """Poll every `interval` seconds; after failures wait longer, at most `cap`; spread hosts by `jitter`.

    A failure first *shortens* the wait, so that a hiccup is over soon: 5 s, 10 s, 20 s, … up to `cap`.
    """

    interval: float
    jitter: float = 0.1
    first_retry: float = 5.0
    cap: float = 600.0

    def delay(self, failures: int, random: Callable[[], float]) -> float:
        """Return the seconds until the next look; `random` returns a number in [0, 1)."""
        base = self.interval
        if failures:
            pace = Pace(base=self.first_retry, cap=max(self.cap, self.interval))
            base = pace.delay(failures - 1)
        return base * (1 - self.jitter + 2 * self.jitter * random())
