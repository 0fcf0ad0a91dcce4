"""Work on volumes runs in the background, wakes its pod, can be repeated, and ends when nobody wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import tree_copy
from tank_agent.linux.clock import Clock
from tank_agent.linux.tree_walk import WalkCancelledError
from tank_agent.reconcile import snapshots as module
from tank_agent.reconcile.snapshots import Snapshots
from tank_agent.runtime.mounts.snapshots import CopyJob, SnapshotStore
from tank_agent.runtime.mounts.volumes import Volumes
from tank_agent.spec.model import Container, Pod, Volume
from tests.support.agent import wait_for

POD = Pod(
    name="db",
    containers=(Container(name="app", image="x"),),
    volumes=(Volume(name="data", snapshot=True), Volume(name="logs", snapshot="reflink")),
)
DATA: dict[str, bool] = {"data": True}


class Time(Clock):
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class World:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.live = path / "volumes" / "db" / "data"
        self.live.mkdir(parents=True)
        (self.live / "file").write_text("good")
        self.woken: list[tuple[str, str]] = []
        self.time = Time()
        self.store = SnapshotStore(path, Volumes(path, path.parent / "run"))
        self.jobs = Snapshots(self.store, self.time, lambda pod, cause: self.woken.append((pod, cause)))

    def ended(self, pod: str = "db") -> module.SnapshotJob:
        """Return the pod's job once it has ended."""

        def found() -> module.SnapshotJob | None:
            job = self.jobs.observe(pod)
            return job if job is not None and job.state != "running" else None

        return wait_for(found, "the job ends")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "agent")
    yield made
    made.jobs.close()
    wait_for(
        lambda: not [one for one in threading.enumerate() if one.name.startswith("snapshots-")], "no threads"
    )


class Gate:
    """Holds up every file that is copied until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        real = tree_copy._Copy.visit

        def visit(copy: tree_copy._Copy, level: object, name: str) -> None:
            self.reached.set()
            assert self.open.wait(20)
            real(copy, level, name)  # type: ignore[arg-type]

        monkeypatch.setattr(tree_copy._Copy, "visit", visit)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def test_an_update_from_check_to_what_is_kept(world: World) -> None:
    jobs = world.jobs
    assert jobs.observe("db") is None
    jobs.check("db", 8, DATA)
    assert (world.ended().kind, world.ended().state, world.ended().generation) == ("check", "done", 8)
    jobs.take("db", 8, DATA)
    taken = world.ended()
    assert (taken.kind, taken.state, taken.ids) == ("take", "done", {"data": "8"})
    assert jobs.progress("db")[0] == 4
    jobs.finished("db")
    assert jobs.observe("db") is None
    (world.live / "file").write_text("ruined")
    jobs.put_back("db", 9, {"data": "8"}, failed=8)
    assert (world.ended().kind, world.ended().state) == ("put-back", "done")
    assert (world.live / "file").read_text() == "good"
    assert (world.live.parent / "data.failed-8" / "file").read_text() == "ruined"
    jobs.finished("db")
    assert not list(world.live.parent.glob(".*"))
    wait_for(lambda: len(world.woken) == 3, "each end wakes the pod")
    assert set(world.woken) == {("db", module.CHECKED), ("db", module.SNAPSHOT_DONE)}


def test_no_thread_without_work(world: World) -> None:
    assert not [one for one in threading.enumerate() if one.name.startswith("snapshot")]
    world.jobs.finished("db")
    world.jobs.forget("db")
    assert world.jobs.cost(POD, ()) is None
    assert not (world.path / "snapshots").exists()


def test_what_runs_or_is_done_is_not_begun_again(world: World, gate: Gate) -> None:
    world.jobs.take("db", 8, DATA)
    assert gate.reached.wait(20)
    running = world.jobs.observe("db")
    for _ in range(3):
        world.jobs.take("db", 8, DATA)
    assert world.jobs.observe("db") is running
    world.jobs.finished("db")
    assert world.jobs.observe("db") is running
    gate.open.set()
    done = world.ended()
    world.jobs.take("db", 8, DATA)
    assert world.jobs.observe("db") == done


def test_what_failed_is_tried_again_at_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/x")

    with monkeypatch.context() as patch:
        patch.setattr("tank_agent.runtime.mounts.snapshots.copy_tree", fails)
        world.jobs.take("db", 8, DATA)
        failed = world.ended()
        assert "No space left on device" in failed.error
        assert world.time.now < failed.retry_at <= world.time.now + 10
        world.jobs.take("db", 8, DATA)
        assert world.jobs.observe("db") == failed
        world.time.now = failed.retry_at
        world.jobs.take("db", 8, DATA)
        wait_for(lambda: world.ended() != failed, "it failed again")
        again = world.ended()
        assert again.retry_at - world.time.now > failed.retry_at - 1000
    world.time.now = again.retry_at
    world.jobs.take("db", 8, DATA)
    wait_for(lambda: world.ended().state == "done", "there is room now")


def test_a_check_says_what_speaks_against_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tank_agent.runtime.mounts.snapshots.shares_blocks", lambda *_: False)
    world.jobs.check("db", 8, {"data": "reflink"})
    assert 'snapshot = "reflink" needs a file system' in world.ended().error


def test_a_bug_is_an_error_of_the_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.store, "take", lambda *_: 1 / 0)
    world.jobs.take("db", 8, DATA)
    assert "ZeroDivisionError" in world.ended().error
    assert world.woken[-1] == ("db", module.SNAPSHOT_FAILED)


def test_another_generation_cancels_the_copy_of_the_former(world: World, gate: Gate) -> None:
    world.jobs.take("db", 8, DATA)
    assert gate.reached.wait(20)
    world.jobs.take("db", 9, DATA)
    gate.open.set()
    assert world.ended().ids == {"data": "9"}
    assert [one.id for one in world.store.all()] == ["9"]


def test_a_pod_that_is_gone_is_not_copied(world: World, gate: Gate) -> None:
    (world.live / "other").touch()
    world.jobs.take("db", 8, DATA)
    assert gate.reached.wait(20)
    world.jobs.forget("db")
    gate.open.set()
    assert world.jobs.observe("db") is None
    world.jobs.by_hand("db", lambda _: None, lambda: False)
    assert not world.store.all()


def test_the_end_of_the_agent_ends_a_copy_and_the_next_one_removes_it(world: World, gate: Gate) -> None:
    (world.live / "other").touch()
    world.jobs.take("db", 8, DATA)
    assert gate.reached.wait(20)
    closing = threading.Thread(target=world.jobs.close)
    closing.start()
    gate.open.set()
    closing.join(20)
    assert [path.name for path in (world.path / "snapshots/db/data").iterdir()] == ["8.part"]
    world.jobs.take("db", 8, DATA)
    with pytest.raises(Retry, match="being stopped"):
        world.jobs.by_hand("db", lambda _: None, lambda: False)
    store = SnapshotStore(world.path, Volumes(world.path, world.path.parent / "run"))
    assert not store.all()
    wait_for(lambda: not list((world.path / "snapshots/db/data").iterdir()), "it is removed")


def test_work_by_hand_waits_for_its_turn_and_ends_with_its_caller(world: World, gate: Gate) -> None:
    world.jobs.take("db", 8, DATA)
    assert gate.reached.wait(20)
    left, results = threading.Event(), []

    def work(job: CopyJob) -> str:
        if job.cancelled:
            raise WalkCancelledError("nobody waits")
        return "done"

    def ask(ended: Callable[[], bool]) -> None:
        try:
            results.append(world.jobs.by_hand("db", work, ended))
        except WalkCancelledError:
            results.append("cancelled")

    asking = [threading.Thread(target=ask, args=(one,)) for one in (left.is_set, lambda: False)]
    for thread in asking:
        thread.start()
    left.set()
    # It looks for its caller every half second.
    wait_for(lambda: gate.reached.is_set() and not results, "nothing is done yet")
    asking[0].join(1.2)
    gate.open.set()
    for thread in asking:
        thread.join(20)
    assert sorted(results) in (["cancelled", "done"], ["done", "done"])

    def fails(_: CopyJob) -> None:
        raise Stalled("no")

    with pytest.raises(Stalled, match="no"):
        world.jobs.by_hand("db", fails, lambda: False)


def test_old_ones_are_removed_in_the_background(world: World) -> None:
    for generation in (1, 2, 3, 4):
        world.jobs.take("db", generation, DATA)
        world.ended()
    world.jobs.keep_newest = 1
    world.jobs.keep("db", ["2"])
    wait_for(lambda: [one.id for one in world.store.all()] == ["4", "2"], "the others are removed")


def test_the_sentence_for_a_plan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = world.jobs.cost(POD, ["data", "logs"])
    assert sentence is not None and "of volume data" in sentence
    monkeypatch.setattr(module, "_PLAN", 0.0)
    assert "not known in time" in str(world.jobs.cost(POD, ["data"])) or "unknown" in str(
        world.jobs.cost(POD, ["data"])
    )
