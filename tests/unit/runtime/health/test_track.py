"""The rules of health, with times that are given."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tank_agent.journal.records import Health
from tank_agent.runtime.health.probe import Probe
from tank_agent.runtime.health.track import (
    Track,
    after_failure,
    after_success,
    after_trouble,
    begin,
    delay,
    with_another_probe,
)


def probe(**changes: Any) -> Probe:
    fields: dict[str, Any] = {
        "tcp": 80,
        "interval": 10.0,
        "timeout": 5.0,
        "retries": 3,
        "start_period": 60.0,
        "start_interval": 1.0,
        "on_failure": "restart",
    }
    return Probe(**fields | changes)


def failed(track: Track, now: float, used: Probe | None = None, message: str = "no") -> Track:
    return after_failure(track, used or probe(), message, alive_since=0.0, now=now, wall=1000.0 + now)


def succeeded(track: Track, now: float) -> Track:
    return after_success(track, now, 1000.0 + now)


def test_one_success_ends_the_start() -> None:
    track = begin(None, 1000.0)
    assert track.health == Health(state="starting", since=1000.0)
    after = succeeded(track, 2.0)
    assert after.health == Health(state="healthy", since=1002.0)
    assert (after.steady_since, after.differs(track)) == (2.0, True)
    again = succeeded(after, 12.0)
    assert again is after


def test_failures_of_the_start_period_do_not_count_but_are_shown() -> None:
    track = begin(None, 1000.0)
    for now in range(1, 60):
        track = failed(track, float(now))
    assert track.health == Health(state="starting", since=1000.0, message="no", failing=0)
    for now, state in ((60.0, "starting"), (70.0, "starting"), (80.0, "unhealthy")):
        track = failed(track, now)
        assert track.health.state == state
    assert (track.health.since, track.health.failing, track.confirmed) == (1080.0, 3, True)


def test_the_first_success_ends_the_start_period() -> None:
    track = succeeded(begin(None, 1000.0), 1.0)
    for now in (10.0, 20.0, 30.0):
        track = failed(track, now)
    assert track.health.state == "unhealthy"


def test_close_probes_find_good_news_sooner_but_bad_news_not() -> None:
    track = succeeded(begin(None, 1000.0), 1.0)
    states = []
    for now in range(2, 24):
        track = failed(track, float(now))
        states.append(track.health.state)
    # At 2, 11 and 20: an interval apart, as timers go.
    assert states.index("unhealthy") == 18
    assert succeeded(track, 24.0).health.state == "healthy"


def test_one_failure_ends_the_steady_time_and_one_success_begins_it_anew() -> None:
    healthy = succeeded(begin(None, 1000.0), 2.0)
    once = failed(healthy, 12.0)
    assert (once.health.state, once.health.failing, once.health.message) == ("healthy", 1, "no")
    assert (once.steady_since, once.differs(healthy)) == (None, True)
    again = succeeded(once, 22.0)
    assert again.health == Health(state="healthy", since=1002.0)
    assert (again.steady_since, again.differs(once)) == (22.0, True)


def test_failures_must_be_in_a_row() -> None:
    track = succeeded(begin(None, 1000.0), 1.0)
    for turn in range(10):
        track = failed(failed(track, 10.0 + 30 * turn), 20.0 + 30 * turn)
        assert track.health.state == "healthy"
        track = succeeded(track, 30.0 + 30 * turn)


def test_an_unhealthy_run_recovers_by_one_success() -> None:
    track = succeeded(begin(None, 1000.0), 1.0)
    for now in (10.0, 20.0, 30.0, 40.0):
        track = failed(track, now)
    assert (track.health.failing, track.health.since) == (4, 1030.0)
    track = succeeded(track, 50.0)
    assert track.health == Health(state="healthy", since=1050.0)
    assert (track.confirmed, track.steady_since) == (False, 50.0)


def test_what_an_earlier_agent_knew_is_shown_until_a_probe_says_otherwise() -> None:
    known = Health(state="healthy", since=7.0)
    track = begin(known, 1000.0)
    assert (track.health, track.steady_since) == (known, None)
    assert succeeded(track, 5.0).health == known
    # It has been up before: the start period is over, whatever this agent saw.
    for now in (5.0, 15.0, 25.0):
        track = failed(track, now)
    assert (track.health.state, track.health.since) == ("unhealthy", 1025.0)


def test_one_probe_must_confirm_what_an_earlier_agent_knew_before_a_restart() -> None:
    known = Health(state="unhealthy", since=7.0, message="old", failing=3)
    track = begin(known, 1000.0)
    assert (track.health, track.confirmed) == (known, False)
    confirmed = failed(track, 5.0)
    assert (confirmed.health.since, confirmed.confirmed, confirmed.differs(track)) == (7.0, True, True)
    assert succeeded(track, 5.0).health == Health(state="healthy", since=1005.0)


def test_an_unfinished_start_goes_on_with_the_next_agent() -> None:
    track = begin(Health(state="starting", since=7.0), 1000.0)
    assert failed(track, 30.0).health == Health(state="starting", since=7.0, message="no")


def test_another_probe_begins_to_count_anew_and_leaves_what_is_shown() -> None:
    track = succeeded(begin(None, 1000.0), 1.0)
    for now in (10.0, 20.0, 30.0):
        track = failed(track, now)
    changed = with_another_probe(track)
    assert (changed.health.state, changed.health.failing, changed.confirmed) == ("unhealthy", 0, False)
    once = failed(changed, 40.0)
    assert (once.health.state, once.health.failing, once.confirmed) == ("unhealthy", 1, False)
    assert succeeded(changed, 40.0).health.state == "healthy"


def test_errors_of_ours_change_nothing_but_their_count() -> None:
    healthy = succeeded(begin(None, 1000.0), 1.0)
    track = after_trouble(after_trouble(healthy))
    assert (track.health, track.steady_since, track.troubles) == (healthy.health, 1.0, 2)
    assert not track.differs(healthy)
    assert succeeded(track, 9.0).troubles == 0
    assert failed(track, 9.0).troubles == 0


def test_the_time_to_the_next_probe() -> None:
    starting, healthy = begin(None, 0.0), succeeded(begin(None, 0.0), 1.0)

    def after(track: Track, now: float, *, hurry: bool = False, **changes: Any) -> float:
        return delay(track, probe(**changes), alive_since=0.0, now=now, hurry=hurry)

    assert after(starting, 5.0) == 1.0
    assert after(starting, 500.0) == 1.0
    assert after(healthy, 5.0) == 10.0
    assert after(healthy, 5.0, hurry=True) == 1.0
    # A start interval that is longer than the interval, or than the start period, delays nothing.
    assert after(starting, 5.0, start_interval=20.0) == 10.0
    assert after(healthy, 5.0, hurry=True, start_interval=20.0) == 10.0
    assert after(starting, 0.0, start_interval=8.0, start_period=3.0) == 3.0
    assert after(starting, 59.95) == 1.0
    assert after(starting, 0.0, start_period=0.0) == 1.0


@given(st.lists(st.tuples(st.sampled_from("gbo"), st.floats(0.01, 100.0)), max_size=60), st.integers(1, 5))
def test_any_history_keeps_the_rules(history: list[tuple[str, float]], retries: int) -> None:
    used = probe(retries=retries)
    track, now, row = begin(None, 1000.0), 0.0, 0
    for kind, pause in history:
        now += pause
        if kind == "g":
            track, row = succeeded(track, now), 0
        elif kind == "b":
            track, row = failed(track, now, used), row + 1
        else:
            track = after_trouble(track)
        health = track.health
        assert health.failing <= row
        assert (health.state == "unhealthy") == (health.failing >= retries)
        assert track.confirmed == (health.state == "unhealthy")
        assert track.steady_since is None or (health.state == "healthy" and health.failing == 0)
        assert kind != "g" or track.steady_since is not None
