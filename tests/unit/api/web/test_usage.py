"""The last hour of usage: its arithmetic with injected times, its gaps, and its bounds."""

from __future__ import annotations

from tank_agent.api.web.usage import INTERVAL, POINTS, UsageHistory
from tank_agent.runtime.limits.measure import Sample


def sample(cpu: float, memory: int = 1 << 20, *, name: str = "app", run: str = "r1") -> Sample:
    return Sample(pod="web", container=name, run=run, cpu=cpu, memory=memory)


def test_cpu_is_the_part_of_a_core_between_two_samples() -> None:
    history = UsageHistory()
    for number, cpu in enumerate((1.0, 16.0, 76.0)):
        history.add([sample(cpu)], 1000.0 + INTERVAL * number)
    assert history.all() == {"web/app": {"cpu": [None, 50.0, 200.0], "memory": [1 << 20] * 3}}
    assert history.newest() == {"web/app": (200.0, 1 << 20)}


def test_a_new_run_counts_from_its_own_first_sample() -> None:
    history = UsageHistory()
    for number, (run, cpu) in enumerate((("r1", 50.0), ("r2", 60.0), ("r2", 63.0))):
        history.add([sample(cpu, run=run)], INTERVAL * number)
    assert history.all()["web/app"]["cpu"] == [None, None, 10.0]


def test_a_container_that_did_not_run_has_a_gap() -> None:
    history = UsageHistory()
    for number, found in enumerate(([sample(1)], [], [sample(2)], [sample(5)])):
        history.add(found, INTERVAL * number)
    assert history.all()["web/app"] == {
        "cpu": [None, None, None, 10.0],
        "memory": [1 << 20, None, 1 << 20, 1 << 20],
    }
    history.add([], INTERVAL * 4)
    assert history.newest() == {}


def test_all_series_end_together_and_none_begins_before_its_first_point() -> None:
    history = UsageHistory()
    history.add([sample(0)], 0.0)
    history.add([sample(0), sample(0, name="late")], INTERVAL)
    found = history.all()
    assert [len(found[name]["memory"]) for name in ("web/app", "web/late")] == [2, 1]


def test_it_keeps_an_hour() -> None:
    history = UsageHistory()
    for number in range(POINTS + 30):
        history.add([sample(3.0 * number, number)], INTERVAL * number)
    found = history.all()["web/app"]
    assert found["memory"] == list(range(30, POINTS + 30))
    assert found["cpu"] == [10.0] * POINTS


def test_what_has_been_gone_for_an_hour_is_forgotten() -> None:
    history = UsageHistory()
    history.add([sample(1), sample(1, name="gone")], 0.0)
    for number in range(1, POINTS):
        history.add([sample(1)], INTERVAL * number)
        assert "web/gone" in history.all()
    history.add([sample(1)], INTERVAL * POINTS)
    assert history.all().keys() == {"web/app"}


def test_an_agent_that_was_frozen_has_gaps_for_the_time() -> None:
    history = UsageHistory()
    history.add([sample(0.0)], 0.0)
    history.add([sample(12.0)], 4 * INTERVAL)
    assert history.all()["web/app"] == {
        "cpu": [None, None, None, None, 10.0],
        "memory": [1 << 20, None, None, None, 1 << 20],
    }
    history.add([sample(13.0)], 1000 * INTERVAL)
    found = history.all()["web/app"]
    # Of the hour before, nothing is known.
    assert found["memory"] == [1 << 20]


def test_it_is_bounded() -> None:
    history = UsageHistory(most=3)
    history.add([sample(0, name=f"c{number}") for number in range(10)], 0.0)
    assert len(history.all()) == 3


def test_time_that_stands_still_divides_by_nothing() -> None:
    history = UsageHistory()
    history.add([sample(0)], 5.0)
    history.add([sample(1)], 5.0)
    assert history.all()["web/app"]["cpu"] == [None, None]
