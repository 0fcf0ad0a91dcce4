"""Pods that a person stops, starts and restarts, wherever the agent is killed: nothing is done twice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tank_agent.spec.model import RestartPolicy, Schedule, Update
from tests.unit.reconcile.simulated import DEADLINE, NAME, World, pod


def running(word: str = "good-1") -> World:
    """Return a world with a pod that is good."""
    world = World()
    world.push(pod(word))
    world.pass_time(100)
    return world


def ids(world: World) -> dict[str, str]:
    """Return the runs that go on, by container."""
    return {run.record.container: run.record.id for run in world.live.values() if run.exit is None}


def counted(world: World) -> int:
    return sum(known.restarts + known.failures for known in world.status.containers.values())


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), st.sampled_from(["", "app", "side"]))
def test_exactly_the_runs_that_were_asked_for_are_replaced_once(killed: int, container: str) -> None:
    world = running()
    before, asked = ids(world), (container,) if container else ("app", "side")
    world.journal.restart(NAME, container, world.wish())
    world.kill_in = killed
    world.wake()
    world.pass_time(60)
    after = ids(world)
    assert {name for name in before if after[name] != before[name]} == set(asked)
    starts = [message for kind, message in world.events() if kind == "started"]
    # One that was created, and not begun, as the agent was killed, is no run.
    assert len(world.starts) == 1 + ("app" in asked)
    assert len(starts) >= 2 + len(asked)
    assert counted(world) == 0
    assert world.status.replacing == ()
    rollout = world.status.rollout
    assert rollout is not None
    assert (rollout.outcome, rollout.ends) == ("good", 0)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), st.booleans())
def test_nothing_runs_while_it_is_stopped_and_all_of_it_runs_afresh_then(killed: int, clean: bool) -> None:
    world = running()
    before = ids(world)
    world.journal.stop(NAME, "root")
    world.kill_in = killed
    world.wake()
    world.pass_time(30)
    assert not world.live
    assert world.network == "absent"
    world.reboot(clean=clean)
    world.push(pod("good-2"))
    world.pass_time(3 * DEADLINE)
    assert not world.live
    assert world.status.rollout is not None
    assert world.status.rollout.generation == 1
    assert world.job is None
    world.kill_in = killed
    world.verb(lambda: world.journal.start(NAME, world.wish()))
    world.pass_time(3 * DEADLINE)
    world.kill_in = 0
    if world.status.stopped is not None:
        # The agent was killed before it had stored what the person asks for, who asks again.
        world.verb(lambda: world.journal.start(NAME, world.wish()))
    world.pass_time(3 * DEADLINE)
    assert ids(world).keys() == before.keys()
    assert not set(ids(world).values()) & set(before.values())
    assert world.desired is not None
    assert (world.desired.generation, world.status.rollout.outcome) == (2, "good")
    assert len(world.copies) <= 1
    assert counted(world) == 0


@settings(max_examples=100, deadline=None)
@given(
    st.floats(0.0, 40.0),
    st.integers(0, 60),
    st.sampled_from(["restart", "stop and start", "stop, reboot and start"]),
    st.sampled_from(["good-2", "sick-2", "crash-2"]),
)
def test_an_update_under_way_ends_as_it_would_have(at: float, killed: int, what: str, word: str) -> None:
    world = running()
    world.push(pod(word))
    world.pass_time(at)
    world.kill_in = killed
    if what == "restart":
        world.verb(lambda: world.journal.restart(NAME, "", world.wish()))
    else:
        world.verb(lambda: world.journal.stop(NAME, "root"))
        world.pass_time(20)
        if "reboot" in what:
            world.reboot(clean=False)
        world.verb(lambda: world.journal.start(NAME, world.wish()))
    world.pass_time(4 * DEADLINE)
    world.kill_in = 0
    if world.status.stopped is not None:
        # As above.
        world.verb(lambda: world.journal.start(NAME, world.wish()))
    world.pass_time(6 * DEADLINE)
    desired, rollout = world.desired, world.status.rollout
    assert desired is not None and rollout is not None
    assert rollout.outcome == "good", world.events()[-15:]
    assert desired.generation == (2 if word == "good-2" else 3)
    app = [world.words[run.record.id] for run in world.live.values() if run.record.container == "app"]
    assert app == ["good-2" if word == "good-2" else "good-1"]


def test_a_stop_and_a_start_at_once_is_a_fresh_run_of_all() -> None:
    world = running()
    before = ids(world)
    world.journal.stop(NAME, "root")
    world.journal.start(NAME, world.wish())
    world.wake()
    world.pass_time(30)
    assert not set(ids(world).values()) & set(before.values())
    assert len(world.starts) == 2


@pytest.mark.parametrize("again", [1, 2, 5])
def test_who_asks_twice_at_one_moment_gets_one_restart(again: int) -> None:
    world = running()
    for _ in range(again):
        world.journal.restart(NAME, "app", world.wish())
    world.wake()
    world.pass_time(30)
    assert len(world.starts) == 2


def test_a_container_in_its_back_off_starts_at_once() -> None:
    world = World()
    world.push(pod("boom-1"))
    world.pass_time(300)
    known: Any = world.status.containers["app"]
    assert known.failures > 5
    starts = len(world.starts)
    world.verb(lambda: world.journal.restart(NAME, "app", world.wish()))
    world.pass_time(0.05)
    assert len(world.starts) == starts + 1
    restarts = world.status.containers["app"].restarts
    assert restarts == known.restarts


def test_who_is_removed_and_comes_back_was_never_stopped() -> None:
    world = running()
    world.journal.stop(NAME, "root")
    assert world.status.stopped is not None
    from tests.unit.journal.builders import snapshot

    world.journal.merge(snapshot())
    world.merge()
    assert world.status.stopped is None
    world.wake()
    world.pass_time(30)
    assert ids(world).keys() == {"app", "side"}


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.0, 30.0),
    st.integers(0, 60),
    st.booleans(),
    st.sampled_from(["good-3", "good-1", "sick-3", "roll back"]),
)
def test_who_changes_its_mind_during_a_stop_gets_what_it_said_last(
    at: float, killed: int, restarts: bool, then: str
) -> None:
    # Between the copy of the volume and its record, too: the update to good-2 takes one.
    world = running()
    world.push(pod("good-2"))
    world.pass_time(at)
    world.kill_in = killed
    world.verb(lambda: world.journal.stop(NAME, "root"))
    world.kill_in = 0
    world.verb(lambda: world.journal.stop(NAME, "root"))
    world.pass_time(20)
    assert not world.live
    if restarts:
        world.restart_agent()
    if then == "roll back":
        first = world.journal.revision(NAME, 1)
        assert first is not None
        world.verb(lambda: world.journal.roll_back(NAME, first))
    else:
        world.push(pod(then))
    world.pass_time(20)
    assert not world.live
    world.verb(lambda: world.journal.start(NAME, world.wish()))
    world.pass_time(6 * DEADLINE)
    rollout = world.status.rollout
    assert rollout is not None
    assert rollout.outcome == "good", world.events()[-15:]
    app = [world.words[run.record.id] for run in world.live.values() if run.record.container == "app"]
    if then == "sick-3":
        # What was good last: the stop came before the verdict on good-2, or after it.
        assert app in (["good-1"], ["good-2"])
        assert "sick-3" not in world.volume
    else:
        assert app == ["good-1" if then == "roll back" else then]


@settings(max_examples=60, deadline=None)
@given(st.floats(0.0, 100.0), st.integers(0, 60), st.sampled_from(["crash-2", "sick-2", "ruin-2", "boom-2"]))
def test_a_restart_while_it_goes_back_puts_no_data_back_twice(at: float, killed: int, word: str) -> None:
    world = running()
    world.push(pod(word))
    world.pass_time(at)
    world.kill_in = killed
    world.verb(lambda: world.journal.restart(NAME, "", world.wish()))
    world.pass_time(8 * DEADLINE)
    rollout = world.status.rollout
    assert rollout is not None
    assert rollout.outcome == "good", world.events()[-15:]
    assert world.status.replacing == ()
    assert len(world.kept_aside) == 1
    assert set(world.volume) == {"good-1"}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.booleans())
def test_data_that_goes_back_with_a_rollback_waits_for_the_start_and_goes_back_once(
    killed: int, clean: bool
) -> None:
    world = running()
    world.push(pod("good-2"))
    world.pass_time(2 * DEADLINE)
    world.journal.stop(NAME, "root")
    world.wake()
    world.pass_time(20)
    # One that a person took.
    world.copies["by-hand"] = ("good-1",)
    first = world.journal.revision(NAME, 1)
    assert first is not None
    world.verb(lambda: world.journal.roll_back(NAME, first, {"data": "by-hand"}))
    world.pass_time(20)
    assert world.kept_aside == []
    world.reboot(clean=clean)
    world.pass_time(20)
    assert (world.kept_aside, world.live) == ([], {})
    world.kill_in = killed
    world.verb(lambda: world.journal.start(NAME, world.wish()))
    world.kill_in = 0
    world.verb(lambda: world.journal.start(NAME, world.wish()))
    world.pass_time(6 * DEADLINE)
    assert len(world.kept_aside) == 1
    assert set(world.volume) == {"good-1"}
    assert ids(world).keys() == {"app", "side"}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_pod_that_becomes_a_job_during_a_stop_or_none_any_more_is_that_once_it_is_started(
    restarts: bool,
) -> None:
    world = running()
    plain = replace(pod("good-1", snapshots=False), update=Update())
    job = replace(
        plain,
        schedule=Schedule(cron="0 0 1 1 *", time_zone="UTC"),
        restart=RestartPolicy.NEVER,
        update=Update(),
    )
    for spec, containers in ((job, set[str]()), (plain, {"app", "side"})):
        world.verb(lambda: world.journal.stop(NAME, "root"))
        world.pass_time(20)
        assert not world.live
        world.push(spec)
        world.pass_time(20)
        if restarts:
            world.restart_agent()
        assert not world.live
        world.verb(lambda: world.journal.start(NAME, world.wish()))
        world.pass_time(2 * DEADLINE)
        assert ids(world).keys() == containers, world.events()[-12:]
        assert world.status.stopped is None
