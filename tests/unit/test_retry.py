"""The back-off rule: what a delay is, how it grows, and that many do not retry at one moment."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.retry import Failure, Pace, retry_after, spread


def test_delays_double_up_to_the_cap() -> None:
    pace = Pace(base=0.5, cap=10.0)
    assert [pace.delay(n) for n in (0, 1, 2, 4, 5, 1000)] == [0.5, 1.0, 2.0, 8.0, 10.0, 10.0]


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1), st.integers(0, 10_000), st.text())
def test_jitter_shortens_a_delay_by_its_part_at_most(
    base: float, cap: float, jitter: float, failures: int, name: str
) -> None:
    pace = Pace(base=base, cap=cap, jitter=jitter)
    whole = pace.delay(failures)
    assert whole * (1 - jitter) <= pace.delay(failures, spread(name)) <= whole <= cap


def test_failures_in_a_row_wait_longer_and_keep_the_last_error() -> None:
    pace = Pace(base=1.0, cap=30.0)
    first = Failure().again("no cable", pace, now=100.0)
    second = first.again("no address", pace, now=101.0)
    assert (first.error, first.count, first.retry_at) == ("no cable", 1, 101.0)
    assert (second.error, second.count, second.retry_at) == ("no address", 2, 103.0)


def test_a_thousand_pods_that_fail_together_are_not_retried_together() -> None:
    pace = Pace(base=10.0, cap=10.0)
    delays = sorted(pace.delay(0, spread(f"pod-{number}")) for number in range(1000))
    assert delays[0] < 8.1
    assert delays[-1] > 9.9
    most = max(sum(start <= delay < start + 0.1 for delay in delays) for start in delays)
    assert most < 100


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("99999999", 86_400.0),
        (formatdate(1_030.0, usegmt=True), 30.0),
        (formatdate(970.0, usegmt=True), 0.0),
        *((nonsense, None) for nonsense in ("", "nonsense", "-5", "²", "9" * 400, "Mon, 99 Foo 2026")),
    ],
)
def test_a_server_asks_for_a_wait_by_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after(header, 1_000.0, 86_400.0) == seconds
