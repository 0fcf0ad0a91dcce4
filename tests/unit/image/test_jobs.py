"""Work in the background: one place that stalls keeps nobody waiting who does not need it."""

from __future__ import annotations

import threading
import time

import pytest

from tank_agent.image.jobs import Job, Jobs, Lanes, lane_of
from tests.support.agent import wait_for

DEADLINE = 60.0


def test_a_lane_that_stalls_keeps_no_other_waiting() -> None:
    lanes, go_on, done = Lanes("test", each=2, most=64), threading.Event(), []
    for _ in range(20):
        lanes.submit("stalled", lambda: go_on.wait(DEADLINE))
    for number in range(5):
        lanes.submit("fine", lambda number=number: done.append(number))
    wait_for(lambda: len(done) == 5, "work of the lane that is fine")
    go_on.set()
    lanes.close()


def test_a_lane_has_so_many_at_once_and_all_lanes_have_a_bound() -> None:
    lanes, lock = Lanes("test", each=2, most=5), threading.Lock()
    now: dict[str, int] = {}
    most: dict[str, int] = {"all": 0}
    done: list[str] = []

    def work(lane: str) -> None:
        with lock:
            now[lane] = now.get(lane, 0) + 1
            most[lane] = max(most.get(lane, 0), now[lane])
            most["all"] = max(most["all"], sum(now.values()))
        time.sleep(0.002)
        with lock:
            now[lane] -= 1
            done.append(lane)

    for number in range(60):
        lane = f"lane-{number % 6}"
        lanes.submit(lane, lambda lane=lane: work(lane))
    wait_for(lambda: len(done) == 60, "all the work")
    assert most.pop("all") <= 5
    assert set(most.values()) <= {1, 2}
    lanes.close()


def test_work_that_fails_ends_no_lane_and_what_has_not_begun_is_dropped() -> None:
    lanes, begun, go_on, done = Lanes("test", each=1, most=1), threading.Event(), threading.Event(), []
    lanes.submit("a", lambda: 1 // 0)
    lanes.submit("a", lambda: (begun.set(), go_on.wait(DEADLINE)))
    lanes.submit("a", lambda: done.append("dropped"))
    assert begun.wait(DEADLINE)
    threading.Timer(0.05, go_on.set).start()
    lanes.close()
    lanes.submit("a", lambda: done.append("late"))
    assert done == []


@pytest.mark.parametrize(
    ("reference", "lane"),
    [
        ("nginx", "docker.io"),
        ("ghcr.io/a/b:1", "ghcr.io"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000"),
        ("oci:/srv/layout:tag", "/srv/layout"),
        ("oci-archive:/srv/a.tar", "/srv/a.tar"),
        ("???", ""),
    ],
)
def test_a_lane_is_what_is_waited_for(reference: str, lane: str) -> None:
    assert lane_of(reference) == lane


def test_layers_of_a_registry_that_stalls_keep_no_other_from_being_fetched() -> None:
    jobs, go_on = Jobs(3), threading.Event()

    def stall(job: Job) -> None:
        while not go_on.wait(0.01):
            job.check()

    given_up = threading.Event()
    for number in range(5):
        jobs.submit(f"stalled-{number}", "stalled.lan", given_up.is_set, stall)
    share = jobs.submit("fine", "fine.lan", lambda: False, lambda _: None)
    assert share.job.future.result(DEADLINE) is None
    given_up.set()
    jobs.close()
