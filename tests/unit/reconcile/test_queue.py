"""The work queue: one worker a pod, the newest wish wins, delays by a clock that the test moves."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from tank_agent.reconcile.queue import Rank, WorkQueue
from tests.support.counting import assert_linear, operations

DEADLINE = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_many_wishes_are_one_piece_of_work() -> None:
    queue = WorkQueue(Clock())
    for pod in ("a", "b", "a", "a"):
        queue.add(pod)
    assert [queue.take(), queue.take()] == ["a", "b"]
    queue.done("a")
    queue.done("b")
    assert queue.idle()


def test_a_wish_during_the_work_is_done_after_it() -> None:
    queue = WorkQueue(Clock())
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert queue.take() == "b"
    assert not queue.idle()
    queue.done("a")
    assert queue.take() == "a"


def test_delayed_wishes_keep_the_earliest_time() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add_after("a", 10)
    queue.add_after("a", 50)
    queue.add_after("b", 5)
    assert queue.idle()
    clock.now += 5
    assert queue.take() == "b"
    clock.now += 5
    assert queue.take() == "a"
    for pod in ("a", "b"):
        queue.done(pod)
    clock.now += 1000
    assert queue.idle()


def test_a_wish_for_now_makes_the_delayed_one_superfluous() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add_after("a", 10)
    queue.add("a")
    assert queue.take() == "a"
    queue.done("a")
    clock.now += 10
    assert queue.idle()


def test_a_delay_that_is_over_during_the_work_is_kept() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add("a")
    assert queue.take() == "a"
    queue.add_after("a", 1)
    clock.now += 2
    assert not queue.idle()
    queue.done("a")
    assert queue.take() == "a"


def test_closing_ends_every_worker() -> None:
    queue = WorkQueue(Clock())
    taken: list[str | None] = []
    threads = [threading.Thread(target=lambda: taken.append(queue.take())) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.close()
    for thread in threads:
        thread.join(DEADLINE)
    assert taken == [None, None, None]


def test_no_pod_is_worked_on_by_two_at_once() -> None:
    import time

    queue = WorkQueue(time.monotonic)
    at_work: Counter[str] = Counter()
    done: Counter[str] = Counter()
    wrong: list[str] = []
    lock = threading.Lock()

    def work() -> None:
        while (pod := queue.take()) is not None:
            with lock:
                at_work[pod] += 1
                if at_work[pod] > 1:
                    wrong.append(pod)
            done[pod] += 1
            with lock:
                at_work[pod] -= 1
            queue.done(pod)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(3000):
        queue.add(f"pod-{number % 7}")
        if number % 100 == 0:
            queue.add_after(f"pod-{number % 7}", 0.001)
    end = time.monotonic() + DEADLINE
    while not queue.idle() and time.monotonic() < end:
        time.sleep(0.005)
    queue.close()
    for thread in threads:
        thread.join(DEADLINE)
    assert wrong == []
    assert set(done) == {f"pod-{number}" for number in range(7)}


def test_what_ended_is_dealt_with_before_more_is_begun() -> None:
    """As five thousand one-shot jobs at once: each is brought to its end soon after it began."""
    queue = WorkQueue(Clock())
    for number in range(100):
        queue.add(f"job-{number}")
    began: list[str] = []
    ended: list[str] = []
    while (pod := None if queue.idle() else queue.take()) is not None:
        queue.done(pod)
        if pod in began:
            ended.append(pod)
        else:
            began.append(pod)
            queue.add(pod, Rank.ENDED)
        # At most as many are in the air as turns pass until the first of the others is served.
        assert len(began) - len(ended) <= len(began) // 3 + 2
    assert sorted(began) == sorted(ended)
    assert ended.index("job-0") < 5


def test_a_flood_of_what_is_only_looked_at_again_keeps_no_change_waiting() -> None:
    queue = WorkQueue(Clock())
    for number in range(1000):
        queue.add(f"failed-{number}", Rank.AGAIN)
    queue.add("new")
    assert queue.take() == "new"
    # Nor do changes keep what waits for ever.
    for number in range(100):
        queue.add(f"new-{number}")
    taken = [queue.take() for _ in range(100)]
    assert sum(str(pod).startswith("failed") for pod in taken) == 25


def test_the_most_urgent_of_several_wishes_counts() -> None:
    queue = WorkQueue(Clock())
    for pod in ("a", "b", "c"):
        queue.add(pod, Rank.AGAIN)
    queue.add("c", Rank.CHANGED)
    queue.add("c", Rank.AGAIN)
    assert queue.take() == "c"
    queue.add("c", Rank.AGAIN)
    queue.add("c", Rank.ENDED)
    queue.done("c")
    assert [queue.take(), queue.take(), queue.take()] == ["c", "a", "b"]


def test_thousands_of_delayed_wishes_cost_no_turn_anything() -> None:
    def measure(pods: int) -> int:
        clock = Clock()
        queue = WorkQueue(clock)
        names = [f"pod-{number}" for number in range(pods)]

        def do() -> None:
            for name in names:
                queue.add_after(name, 300)
            for name in names:
                queue.add(name)
                assert queue.take() == name
                queue.add_after(name, 300)
                queue.done(name)

        return operations(do)

    assert_linear(measure)


def test_superfluous_delays_are_not_kept() -> None:
    queue = WorkQueue(Clock())
    for _ in range(1000):
        queue.add_after("a", 3600)
        queue.add("a")
        assert queue.take() == "a"
        queue.done("a")
    queue.add_after("a", 3600)
    assert len(queue._heap) < 100


@pytest.mark.parametrize("waits", list(Rank))
def test_pods_that_are_never_at_rest_starve_no_rank(waits: Rank) -> None:
    queue = WorkQueue(Clock())
    busy = {f"{rank.name}-{number}": rank for rank in Rank for number in range(3)}
    for pod, rank in busy.items():
        queue.add(pod, rank)
    queue.add("waits", waits)
    for _ in range(100):
        pod = queue.take()
        assert pod is not None
        if pod == "waits":
            return
        queue.add(pod, busy[pod])
        queue.done(pod)
    pytest.fail(f"a wish of the rank {waits.name} waits for ever")
