"""The pace of restarts, with times that are given: a machine on which all crash at once stays bounded."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from tank_agent.journal.records import ContainerStatus, Exit
from tank_agent.reconcile.core.restart import (
    Backoff,
    after_exit,
    after_replacement,
    after_start,
    after_stop,
    waits_until,
)

PODS, CRASHED_AT, MINUTE = 40, 1000.0, 60.0


def starts_after_a_crash(backoff: Backoff, seconds: float, *, ran: float = 0.0) -> list[float]:
    """Return when a container starts again within some seconds after it crashed, if each run takes `ran`."""
    known = after_start(ContainerStatus(hash="h"), "run-0", "this", CRASHED_AT - 3600.0)
    now, starts = CRASHED_AT, list[float]()
    while True:
        known = after_exit(known, Exit(at=now, code=1), backoff)
        until = waits_until(known, now, backoff)
        assert until is not None
        if until > CRASHED_AT + seconds:
            return starts
        assert waits_until(known, until, backoff) is None
        known = after_start(known, f"run-{len(starts) + 1}", "this", until)
        starts.append(until)
        now = until + ran


@pytest.mark.parametrize("ran", [0.0, 0.01, 1.0])
def test_pods_that_all_crash_at_once_have_few_starts_in_their_first_minute(ran: float) -> None:
    starts = [at for _ in range(PODS) for at in starts_after_a_crash(Backoff(), MINUTE, ran=ran)]
    # After 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 seconds, if they crash at once.
    assert len(starts) <= 6 * PODS
    # Each starts once in any second, and most of that is over after ten.
    by_second = Counter(int(at - CRASHED_AT) for at in starts)
    assert max(by_second.values()) <= PODS
    assert sum(count for second, count in by_second.items() if second >= 10) <= 3 * PODS


def test_the_first_start_comes_after_half_a_second_and_the_delays_double_to_the_cap() -> None:
    backoff = Backoff()
    starts = starts_after_a_crash(backoff, 4 * 3600.0)
    assert starts[0] == CRASHED_AT + 0.5
    delays = [after - before for before, after in itertools.pairwise(starts)]
    assert delays[:9] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]
    assert set(delays[9:]) == {backoff.cap}


def test_a_run_that_was_stable_ends_the_row() -> None:
    backoff = Backoff()
    known = ContainerStatus(hash="h", failures=9, started_at=CRASHED_AT)
    for ran, failures in ((backoff.stable_after - 1, 10), (backoff.stable_after, 1)):
        assert after_exit(known, Exit(at=CRASHED_AT + ran, code=1), backoff).failures == failures


def test_what_a_person_replaces_or_we_stop_has_no_delay() -> None:
    backoff = Backoff()
    crashed = after_exit(ContainerStatus(hash="h", failures=9), Exit(at=CRASHED_AT, code=1), backoff)
    assert waits_until(crashed, CRASHED_AT, backoff) is not None
    assert waits_until(after_stop(crashed), CRASHED_AT, backoff) is None
    replaced = after_replacement(crashed)
    assert (waits_until(replaced, CRASHED_AT, backoff), replaced.failures, replaced.exit) == (None, 0, None)
    # Its next start is none that is counted.
    assert after_start(replaced, "run-1", "this", CRASHED_AT).restarts == crashed.restarts


def test_a_time_beyond_any_delay_is_of_a_clock_that_was_set_back() -> None:
    known, backoff = ContainerStatus(hash="h", retry_at=CRASHED_AT + 301.0), Backoff()
    assert waits_until(known, CRASHED_AT, backoff) is None
    assert waits_until(known, CRASHED_AT + 1.0, backoff) == CRASHED_AT + 301.0
