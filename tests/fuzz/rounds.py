"""Count rounds and time, and tell how to repeat the round that failed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

# No input of the fuzzers is so large that a machine under load needs this long for it.
SLOWEST_ROUND = 10.0


def repeat(
    seed: int,
    seconds: float | None,
    rounds: int | None,
    once: Callable[[random.Random], None],
    *,
    slowest: float = SLOWEST_ROUND,
) -> None:
    """Call `once` until the rounds or the seconds are used up; round n gets the random numbers of seed + n.

    `slowest` is how many seconds of CPU one round may take: a parser that is quadratic is a fault, too.
    """
    end = None if seconds is None else time.monotonic() + seconds
    number = 0
    while (rounds is None or number < rounds) and (end is None or time.monotonic() < end):
        before = time.process_time()
        try:
            once(random.Random(seed + number))
            taken = time.process_time() - before
            assert taken < slowest, f"the round took {taken:.1f} s of CPU"
        except BaseException as error:
            error.add_note(f"repeat this round with seed {seed + number}, one round")
            raise
        number += 1
    assert number, "not one round was run"
