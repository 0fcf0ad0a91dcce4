"""Counts for the metrics: by pod and container, forgotten with them, and right from many threads."""

from __future__ import annotations

import threading

from tank_agent.reconcile.counters import PROBE_OUTCOMES, UPDATE_OUTCOMES, Counters, Histogram


def test_a_histogram_counts_each_value_once_and_a_bound_belongs_below() -> None:
    found = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.2, 1.0, 1.1):
        found.add(value)
    assert (found.counts, round(found.sum, 6)) == ([2, 2, 1], 2.45)


def test_probes_are_counted_by_container_and_kind_with_zeros_for_the_others() -> None:
    counters = Counters()
    counters.probe("web", "app", "http", "successful", 0.25)
    counters.probe("web", "app", "http", "failed", 0.5)
    counters.probe("web", "app", "exec", "unknown", 0.0)
    found = counters.of("web")
    assert found is not None
    http = found.probes["app", "http"]
    assert (http.ended, http.seconds) == ({"successful": 1, "failed": 1, "unknown": 0}, 0.75)
    assert found.probes["app", "exec"].ended["unknown"] == 1
    assert tuple(http.ended) == PROBE_OUTCOMES
    assert counters.of("db") is None


def test_an_update_that_never_began_has_a_verdict_and_no_duration() -> None:
    counters = Counters()
    counters.update("web", "superseded", None)
    counters.update("web", "good", 12.0)
    found = counters.of("web")
    assert found is not None
    assert found.updates == dict.fromkeys(UPDATE_OUTCOMES, 0) | {"superseded": 1, "good": 1}
    assert sum(counters.rollouts().counts) == 1


def test_what_is_gone_is_forgotten() -> None:
    counters = Counters()
    for container in ("app", "old"):
        counters.probe("web", container, "tcp", "successful", 0.1)
    counters.keep_containers("web", {"app"})
    counters.keep_containers("none", {"app"})
    found = counters.of("web")
    assert found is not None
    assert list(found.probes) == [("app", "tcp")]
    counters.forget("web")
    counters.forget("web")
    assert counters.of("web") is None


def test_an_answer_changes_no_more() -> None:
    counters = Counters()
    counters.probe("web", "app", "tcp", "successful", 0.1)
    counters.pull(good=True)
    before, pulls, turns = counters.of("web"), counters.pulls(), counters.turns()
    counters.probe("web", "app", "tcp", "successful", 0.1)
    counters.update("web", "good", 1.0)
    counters.pull(good=True)
    counters.turn(1.0)
    assert before is not None
    assert before.probes["app", "tcp"].ended["successful"] == 1
    assert before.updates["good"] == 0
    assert (pulls["successful"], sum(turns.counts)) == (1, 0)


def test_no_count_is_lost_between_threads() -> None:
    counters = Counters()

    def work() -> None:
        for _ in range(2000):
            counters.probe("web", "app", "tcp", "successful", 1.0)
            counters.turn(0.001)
            counters.failed_step()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = counters.of("web")
    assert found is not None
    assert found.probes["app", "tcp"].seconds == 8000.0
    assert (sum(counters.turns().counts), counters.failed_steps()) == (8000, 8000)
