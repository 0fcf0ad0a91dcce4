"""Copies of volumes around an update: check, stop, take, record, start; and the way back."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.journal.records import Blocked, Exit, Hold
from tank_agent.reconcile.core.actions import (
    Block,
    CheckRoom,
    RecordCopy,
    RemoveNetwork,
    Restore,
    RollBack,
    Start,
    Stop,
    TakeSnapshot,
)
from tank_agent.reconcile.core.copies import copy_due
from tank_agent.reconcile.core.observed import ImageState, ObservedImage, Situation, SnapshotJob
from tank_agent.reconcile.core.plan import plan, simulate
from tank_agent.reconcile.core.rollout import as_before, follow
from tank_agent.runtime.run import RunState, Stopping
from tank_agent.spec.model import Container, Mount, Pod, RestartPolicy, Volume
from tests.unit.reconcile.core.builders import (
    BEGUN,
    NOW,
    container,
    good,
    known,
    pod,
    revision,
    rollout,
    run_of,
    steps,
    updating,
    wanted,
    watching,
)

DATA = (Mount(volume="data", path="/data"),)
NAMES = ("data",)
STOP_APP = Stop(run="app-1", container="app")
STOP_SIDE = Stop(run="side-1", container="side")


def spec(word: str, *more: Container, snapshot: Any = True, **changes: Any) -> Pod:
    """Return a pod whose container uses a volume that wants snapshots."""
    app = container(word=word, mounts=DATA)
    return pod(app, *more, volumes=(Volume(name="data", snapshot=snapshot),), **changes)


def update(*more: Container, old: Pod | None = None, **changes: Any) -> Situation:
    """Return the situation before an update of such a pod begins."""
    return updating(wanted(spec("new", *more)), old or spec("old", *more), **changes)


def job(kind: Any, state: Any = "done", **changes: Any) -> SnapshotJob:
    return replace(SnapshotJob(kind=kind, generation=2, state=state), **changes)


def down(situation: Situation, **changes: Any) -> Situation:
    """Return the situation after everything has ended because it was asked to."""
    ended = {name: replace(one, instance="") for name, one in situation.status.containers.items()}
    status = replace(situation.status, containers=ended)
    return replace(situation, status=status).seeing(**{"runs": (), "network": "absent", **changes})


def test_check_stop_take_record_start() -> None:
    current = update()
    assert steps(current) == [CheckRoom(volumes=NAMES)]
    # Nothing is stopped before it is sure that there is room.
    assert steps(current.seeing(copying=job("check", "running"))) == []
    checked = current.seeing(copying=job("check"))
    assert steps(checked) == [STOP_APP]
    leaving = checked.seeing(runs=(run_of(wanted(spec("old"), 1), stopping=Stopping(deadline=BEGUN + 5)),))
    assert steps(leaving) == []
    gone = down(checked)
    assert steps(gone) == [TakeSnapshot(volumes=NAMES)]
    assert steps(gone.seeing(copying=job("take", "running"))) == []
    taken = gone.seeing(copying=job("take", ids={"data": "2"}))
    assert steps(taken) == [RecordCopy(volumes=NAMES)]
    after = RecordCopy(volumes=NAMES).expected(taken)
    assert after.status.good is not None
    assert after.status.good.snapshots == {"data": "2"}
    assert copy_due(after) is None
    words = [step.describe() for step in simulate(current)]
    order = ["stop container app", "take a snapshot of volume data", "start container app"]
    assert [word for word in words if word in order] == order


def test_only_those_that_write_to_the_volume_are_stopped_for_it() -> None:
    side = container("side", "same")
    current = update(side)
    assert steps(current.seeing(copying=job("check"))) == [STOP_APP]
    # One that mounts it, too, is stopped and started again, though the update does not concern it.
    reader = container("side", "same", mounts=DATA)
    assert set(steps(update(reader).seeing(copying=job("check")))) == {STOP_APP, STOP_SIDE}


def test_nothing_else_of_the_update_is_stopped_before_there_is_room() -> None:
    current = updating(wanted(spec("new", container("side", "new"))), spec("old", container("side", "old")))
    assert steps(current) == [CheckRoom(volumes=NAMES)]
    assert set(steps(current.seeing(copying=job("check")))) == {STOP_APP, STOP_SIDE}


@pytest.mark.parametrize("kind", ["check", "take"])
def test_no_room_puts_the_update_off_and_the_old_one_goes_on(kind: str) -> None:
    failed = job(kind, "failed", error="no space left", retry_at=BEGUN + 10)
    current = update(copying=failed)
    assert steps(current) == [Block(reason="no space left")]
    blocked = Blocked(generation=2, error="no space left", retry_at=NOW.wall + 30)
    before = revision(spec("old"))
    status = replace(down(current).status, blocked=blocked)
    assert current.desired is not None
    waiting = replace(
        down(current, copying=None),
        status=status,
        blocked=blocked,
        desired=as_before(current.desired, before, status),
    )
    words = [step.describe() for step in simulate(waiting)]
    assert words == ["make the network namespace", "start container app"]
    assert Start(container="app").expected(waiting).status.rollout == status.rollout, "nothing begins"
    started = waiting.seeing(runs=(run_of(wanted(spec("old"), 1)),), network="used")
    assert [step for step in steps(started) if not isinstance(step, Start)] == []
    assert plan(started).look_again == 30.0


def test_it_is_tried_again_when_the_time_has_come() -> None:
    blocked = Blocked(generation=2, error="no space left", retry_at=NOW.wall - 1)
    assert steps(update(blocked=None)) == [CheckRoom(volumes=NAMES)]
    status = replace(update().status, blocked=blocked)
    taken = replace(update(copying=job("take", ids={"data": "2"})), status=status)
    after = RecordCopy(volumes=NAMES).expected(down(taken, copying=job("take", ids={"data": "2"})))
    assert after.status.blocked is None


@pytest.mark.parametrize(
    "why",
    [
        "first",
        "way back",
        "snapshot = false",
        "never",
        "nothing replaced",
        "it has one",
        "begun",
        "nothing ran",
        "decided",
    ],
)
def test_no_snapshot_is_taken_where_none_is_needed(why: str) -> None:
    current = update()
    found = current.status.rollout
    assert found is not None
    status = current.status
    match why:
        case "first":
            status = replace(status, good=None, rollout=replace(found, kind="first"))
        case "way back":
            status = replace(status, rollout=replace(found, kind="rollback"))
        case "it has one":
            status = replace(status, good=good(spec("old"), snapshots={"data": "1"}))
        case "begun":
            # A reboot in the wait: the volume has the data of the update by now.
            status = replace(status, rollout=replace(found, steps=("stop app", "start app")))
        case "nothing ran":
            status = replace(status, rollout=replace(found, replaced=0))
        case "decided":
            status = replace(status, rollout=replace(found, outcome="failed"))
        case "snapshot = false":
            current = replace(current, desired=wanted(spec("new", snapshot=False)))
        case "never":
            current = replace(current, desired=wanted(spec("new", restart=RestartPolicy.NEVER)))
        case "nothing replaced":
            current = updating(wanted(spec("old", after=("db",))), spec("old"))
            status = current.status
    assert copy_due(replace(current, status=status)) is None


def test_the_snapshot_of_the_last_good_is_kept_when_an_unverified_update_is_replaced() -> None:
    saved = good(spec("old"), snapshots={"data": "2"})
    third = wanted(spec("third"), generation=3)
    current = watching(third, good=saved, former=revision(spec("new"), 2), runs=())
    followed = follow(current)
    assert followed is not None
    after = replace(current, status=replace(current.status, rollout=followed), former=None)
    assert after.status.good == saved
    assert copy_due(after) is None
    # Of data that nobody knows to be good, none is taken, and it is what is gone back to.
    bad = replace(after, status=replace(after.status, rollout=replace(followed, begun=BEGUN, ends=3)))
    assert [type(step) for step in steps(bad)] == [RollBack]


HOLD = Hold(kind="quarantined", since=0.0, generation=1, declared="bad", failed=2)


def back(**changes: Any) -> Situation:
    """Return the way back from generation 2, whose data must be put back before it begins."""
    found = rollout(generation=3, kind="rollback", begun=None, replaced=2, restore={"data": "2"})
    desired = wanted(spec("old"), generation=3, hold=HOLD)
    run = run_of(wanted(spec("new")))
    status = {"app": known(wanted(spec("new")))}
    given = {"rollout": found, "runs": (run,), "containers": status, "good": good(snapshots={"data": "2"})}
    return watching(desired, **{**given, **changes})


def test_data_is_put_back_between_the_stop_and_the_start() -> None:
    current = back()
    assert steps(current) == [STOP_APP]
    gone = down(current)
    assert steps(gone) == [Restore(volumes=NAMES)]
    restoring = job("put-back", "running", generation=3)
    assert steps(gone.seeing(copying=restoring)) == []
    restored = gone.seeing(copying=replace(restoring, state="done"))
    assert steps(restored) == [RecordCopy(volumes=NAMES)]
    after = RecordCopy(volumes=NAMES).expected(restored)
    assert after.status.good is not None
    assert after.status.rollout is not None
    assert (after.status.good.snapshots, after.status.rollout.restore) == ({}, {})
    assert copy_due(after) is None
    order = ["stop container app", "put the snapshot of volume data back", "start container app"]
    assert [word for word in (s.describe() for s in simulate(current)) if word in order] == order


def test_the_good_revision_never_starts_with_the_data_of_the_failed_one() -> None:
    failed = job("put-back", "failed", generation=3, error="disk", retry_at=BEGUN + 7)
    current = down(back(), copying=failed)
    assert (plan(current).actions, plan(current).look_again) == ((), 7.0)
    assert steps(current.seeing(copying=replace(failed, retry_at=BEGUN))) == [Restore(volumes=NAMES)]
    # Nor is an update blocked by that: there is nothing to go on with.
    assert not [step for step in steps(current) if isinstance(step, Block)]


def test_a_new_agent_repeats_a_copy_whose_end_nobody_recorded() -> None:
    assert steps(down(back(), copying=None)) == [Restore(volumes=NAMES)]
    assert steps(down(update(), copying=None)) == [CheckRoom(volumes=NAMES)]


@pytest.mark.parametrize(
    "stale", [job("take", generation=1), job("put-back"), job("check", "failed", generation=1, error="x")]
)
def test_the_copy_of_another_generation_is_none_of_this_one(stale: SnapshotJob) -> None:
    assert steps(update(copying=stale)) == [CheckRoom(volumes=NAMES)]
    assert steps(down(back(), copying=replace(stale, generation=2))) == [Restore(volumes=NAMES)]


def test_data_that_a_person_wants_back_waits_for_the_snapshot_of_what_is_good() -> None:
    """`tank rollback --with-data`: the update is one that may fail, too."""
    asked = rollout(begun=None, restore={"data": "0"})
    current = update(rollout=asked)
    words = [step.describe() for step in simulate(current)]
    order = [
        "stop container app",
        "take a snapshot of volume data",
        "put the snapshot of volume data back",
        "start container app",
    ]
    assert [word for word in words if word in order] == order


def test_a_volume_is_not_copied_while_an_image_is_missing() -> None:
    image = container(mounts=DATA, rootfs=None, image="registry.lan/app:2")
    new = wanted(pod(image, volumes=(Volume(name="data", snapshot=True),)))
    pulling = ObservedImage(state=ImageState.PULLING)
    current = updating(new, spec("old"), images={"app": pulling}, copying=job("check"))
    assert steps(current) == []
    ready = current.seeing(images={"app": ObservedImage(state=ImageState.READY)})
    assert steps(ready) == [STOP_APP]


def test_a_container_that_ends_while_its_volume_is_copied_is_not_started() -> None:
    current = update(copying=job("check"))
    run = run_of(wanted(spec("old"), 1), state=RunState.EXITED, exit=Exit(at=NOW.wall, code=3))
    ended = current.seeing(runs=(run,))
    assert not [step for step in steps(ended) if isinstance(step, Start | TakeSnapshot)]
    copying = down(current, copying=job("take", "running"), network="used")
    assert [step for step in steps(copying) if not isinstance(step, RemoveNetwork)] == []


@pytest.mark.parametrize(("how", "expected"), [(True, True), ("reflink", "reflink")])
def test_a_volume_says_how_it_is_copied(how: Any, expected: Any) -> None:
    copy = copy_due(updating(wanted(spec("new", snapshot=how)), spec("old", snapshot=how)))
    assert copy is not None
    assert copy.how == {"data": expected}
    assert copy.users == {"app"}
