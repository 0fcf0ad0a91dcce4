"""Who fetches what: one place that stalls keeps nobody waiting who does not need it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tank_agent.errors import Retry
from tank_agent.image import pull as pull_module
from tank_agent.image.jobs import Job, Jobs, Lanes, lane_of
from tank_agent.image.manifest import Descriptor
from tank_agent.image.pull import ImagePull
from tank_agent.image.store.layers import LayerRecord, Layers
from tank_agent.settings.image import ImageSettings
from tank_agent.spec.reference import parse_reference

DEADLINE = 10.0
DIFF_ID = "sha256:" + "1" * 64


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_lane_that_stalls_keeps_no_other_waiting() -> None:
    lanes, go_on, done = Lanes("test", each=2, most=64), threading.Event(), []
    for _ in range(20):
        lanes.submit("stalled", lambda: go_on.wait(DEADLINE))
    for number in range(5):
        lanes.submit("fine", lambda number=number: done.append(number))
    until(lambda: len(done) == 5)
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
    until(lambda: len(done) == 60)
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


class Content:
    """A place whose layers come at once, or never."""

    local = False

    def close(self) -> None:
        pass


class Fetcher:
    """Brings a layer from a place that answers."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.from_: list[str] = []
        self.go_on = threading.Event()

    def fetch(self, task: Any, job: Job) -> None:
        self.from_.append(task.where)
        job.state = "downloading"
        while task.where.startswith("stalled.lan") and not self.go_on.wait(0.01):
            job.check()
        self.layers.commit(self.layers.stage(), record())


def record() -> LayerRecord:
    return LayerRecord(diff_id=DIFF_ID, size=1, entries=1, implicit=(), opaque_root=False)


def pull_of(reference: str, cancelled: Callable[[], bool] = lambda: False) -> ImagePull:
    return ImagePull(
        parse_reference(reference),
        cast(Any, Content()),
        ImageSettings(),
        progress=lambda _: None,
        cancelled=cancelled,
    )


def resolved() -> Any:
    class One:
        class manifest:
            layers = (Descriptor(media_type="x", digest="sha256:" + "2" * 64, size=10),)

        class configuration:
            diff_ids = (DIFF_ID,)

    return One()


def layers_in(root: Path) -> Layers:
    for name in ("layers", "staging", "trash"):
        (root / name).mkdir(exist_ok=True)
    return Layers(root)


def test_who_shares_a_layer_with_a_registry_that_stalls_fetches_it_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "_PATIENCE", 0.1)
    layers, jobs = layers_in(tmp_path), Jobs(3)
    fetcher, given_up = Fetcher(layers), threading.Event()
    ends: list[BaseException | None] = []

    def first() -> None:
        try:
            with pull_of("stalled.lan/a", given_up.is_set) as pull:
                pull.fetch(resolved(), layers, jobs, cast(Any, fetcher))
        except Retry as error:
            ends.append(error)
        else:
            ends.append(None)

    thread = threading.Thread(target=first)
    thread.start()
    until(lambda: fetcher.from_)
    with pull_of("fine.lan/b") as pull:
        pull.fetch(resolved(), layers, jobs, cast(Any, fetcher))
    assert layers.record(DIFF_ID) is not None
    assert fetcher.from_ == ["stalled.lan/a:latest", "fine.lan/b:latest"]
    # Who waits for the registry that stalls has it now, too.
    thread.join(DEADLINE)
    assert ends == [None]
    given_up.set()
    jobs.close()


def test_a_layer_that_is_there_is_not_replaced_under_who_may_use_it(tmp_path: Path) -> None:
    layers = layers_in(tmp_path)
    layers.commit(layers.stage(), record())
    inode = layers.directory(DIFF_ID).stat().st_ino
    layers.commit(layers.stage(), record())
    assert layers.directory(DIFF_ID).stat().st_ino == inode
    assert list((tmp_path / "trash").iterdir()) == list((tmp_path / "staging").iterdir()) == []
