"""Rollouts over anything that may happen: each ends in good, in the last good, or with a person asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tank_agent.errors import Stalled
from tank_agent.journal.records import Revision
from tests.unit.reconcile.simulated import DEADLINE, KINDS, NAME, World, pod

Event = tuple[Any, ...]
# As long as any rollout takes, with all that may put it off.
_LONG = 3600.0
_QUIET = 2 * 3600.0
# As long as a pod takes to end.
_STOPS = 30.0

_WORDS = st.builds(lambda kind, number: f"{kind}-{number}", st.sampled_from(KINDS), st.integers(1, 3))
_GOOD = st.integers(1, 4).map(lambda number: f"good-{number}")
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.tuples(st.just("push"), st.one_of(_WORDS, _GOOD), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5, 1.0, 3.0, 8.0, 20.0, 70.0, 600.0])),
    st.tuples(st.just("exit")),
    st.tuples(st.just("sick"), st.booleans()),
    st.tuples(st.just("agent")),
    st.tuples(st.just("kill"), st.integers(1, 40)),
    st.tuples(st.just("reboot"), st.booleans()),
    st.tuples(st.just("jump"), st.sampled_from([-86400.0, -60.0, 60.0, 86400.0])),
    st.tuples(st.just("disk"), st.booleans()),
    st.tuples(st.just("suspend")),
    st.tuples(st.just("resume")),
    st.tuples(st.just("rollback")),
    st.tuples(st.just("stop")),
    st.tuples(st.just("start")),
    st.tuples(st.just("restart"), st.sampled_from(["", "app", "side"])),
)


def play(world: World, event: Event) -> None:
    """Let something happen."""
    match event:
        case ("push", word, snapshots):
            world.push(pod(word, snapshots=snapshots))
        case ("wait", seconds):
            world.pass_time(seconds)
        case ("exit",):
            for run in world.live.values():
                if run.record.container == "app" and run.started and run.exit is None:
                    world.end(run)
            world.wake()
        case ("sick", is_sick):
            world.outside_is_sick = is_sick
            world.wake()
        case ("agent",):
            world.restart_agent()
        case ("kill", number):
            world.kill_in = number
        case ("reboot", clean):
            world.reboot(clean=clean)
        case ("jump", seconds):
            world.clock.offset += seconds
            world.wake()
        case ("disk", is_full):
            world.disk_is_full = is_full
        case ("suspend",):
            world.verb(lambda: world.journal.suspend(NAME))
        case ("resume",):
            world.verb(lambda: world.journal.resume(NAME))
        case ("stop",):
            world.verb(lambda: world.journal.stop(NAME, "root"))
        case ("start",):
            world.verb(lambda: world.journal.start(NAME, world.wish()))
        case ("restart", container):
            world.verb(lambda: world.journal.restart(NAME, container, world.wish()))
        case ("rollback",):
            world.verb(lambda: world.journal.roll_back(NAME, _former(world)))


def _former(world: World) -> Revision:
    history = world.journal.history(NAME)
    if len(history) < 2:
        raise Stalled("there is no former revision")
    return history[-2]


def settle(world: World) -> None:
    """Let all that is wrong with the world end, and wait for as long as any rollout takes."""
    world.kill_in = 0
    world.disk_is_full = world.outside_is_sick = False
    world.guarded(world.merge)
    world.wake()
    if world.status.stopped is not None:
        world.pass_time(_STOPS)
        assert not world.live, "nothing of a stopped pod runs"
        world.verb(lambda: world.journal.start(NAME, world.wish()))
    world.pass_time(_LONG)
    assert world.status.replacing == ()


def check_end(world: World) -> None:
    """Check that the pod is at the end of its way, and that everybody can see which."""
    desired, status = world.desired, world.status
    assert desired is not None
    rollout, good, seen = status.rollout, status.good, world.events()[-12:]
    word = (desired.pod.containers[0].command or ("",))[0]
    assert rollout is not None, seen
    assert (rollout.generation, status.blocked) == (desired.generation, None), seen
    assert rollout.outcome in ("good", "failed"), (rollout, seen)
    # Nothing is wrong with the world any more, so what can be well is.
    assert (rollout.outcome == "good") is word.startswith("good"), (rollout, seen)
    if rollout.outcome == "good":
        assert good is not None
        assert (good.generation, good.hash) == (desired.generation, desired.hash)
        app = [run for run in world.live.values() if run.record.container == "app"]
        assert [(world.words[run.record.id], run.exit, run.stopping) for run in app] == [(word, None, None)]
    else:
        # A person is asked: there is nothing to go back to, or the way back was not allowed.
        assert rollout.reason
        assert rollout.kind != "update" or desired.hold is not None or not desired.pod.update.rollback
    if desired.hold is not None and desired.hold.kind == "quarantined":
        # What was asked for failed here, and is remembered; it is not what runs.
        assert desired.hold.failed in {bad.generation for bad in status.bad}, seen
        assert desired.hold.declared != desired.hash, seen


def check_bounded(world: World, asked: int) -> None:
    """Check that nothing flapped: at most one way back for each revision that somebody asked for."""
    desired = world.desired
    generation = desired.generation if desired is not None else 0
    assert generation <= 2 * asked, (generation, asked, world.events()[-20:])
    count = Counter(kind for kind, _ in world.events())
    assert count["update-failed"] <= asked
    assert count["rolled-back"] <= generation


@settings(max_examples=250, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=25))
def test_a_rollout_ends_in_good_in_the_last_good_or_with_a_person_asked(events: list[Event]) -> None:
    world = World()
    world.push(pod("good-1"))
    for event in events:
        play(world, event)
    settle(world)
    # A person may have asked for the same twice; each verb and each push is at most one revision.
    asked = 1 + sum(event[0] in ("push", "resume", "rollback", "suspend") for event in events) + 1
    check_end(world)
    check_bounded(world, asked)
    before, starts = world.desired, len(world.starts)
    world.pass_time(_QUIET)
    assert world.desired == before
    status = world.status
    if status.rollout is not None and status.rollout.outcome == "good":
        assert len(world.starts) == starts, "what is good is left alone"


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["sick", "flap", "crash", "boom", "ruin", "refused"]), st.integers(1, 65))
def test_a_bad_update_goes_back_with_its_data_wherever_the_agent_is_killed(kind: str, killed: int) -> None:
    world = World()
    world.push(pod("good-1"))
    world.pass_time(100)
    before, side = world.volume, _side(world)
    world.kill_in = killed
    world.push(pod(f"{kind}-2"))
    world.pass_time(4 * DEADLINE)
    world.kill_in = 0
    world.pass_time(4 * DEADLINE)
    desired, status = world.desired, world.status
    assert desired is not None and desired.hold is not None
    assert (desired.generation, desired.hold.kind) == (3, "quarantined")
    assert status.rollout is not None
    assert (status.rollout.kind, status.rollout.outcome) == ("rollback", "good")
    assert world.volume == (*before, "good-1")
    assert _side(world) == side, "what the update does not concern goes on"
    assert [bad.attempts for bad in status.bad] == [1]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 65))
def test_a_good_update_is_good_wherever_the_agent_is_killed(killed: int) -> None:
    world = World()
    world.push(pod("good-1"))
    world.pass_time(100)
    side, before = _side(world), world.volume
    world.kill_in = killed
    world.push(pod("good-2"))
    world.pass_time(4 * DEADLINE)
    world.kill_in = 0
    world.pass_time(2 * DEADLINE)
    desired, status = world.desired, world.status
    assert desired is not None and status.rollout is not None
    assert (desired.generation, desired.hold, status.rollout.outcome) == (2, None, "good")
    assert (_side(world), world.volume) == (side, (*before, "good-2"))


@pytest.mark.parametrize("kind", ["boom", "crash", "sick", "flap"])
@pytest.mark.parametrize("reboot", [False, True])
def test_an_update_that_failed_while_its_pod_was_suspended_goes_back_when_it_is_resumed(
    kind: str, reboot: bool
) -> None:
    world = World()
    world.push(pod("good-1"))
    world.pass_time(100)
    world.push(pod(f"{kind}-2"))
    world.verb(lambda: world.journal.suspend(NAME))
    world.pass_time(2 * DEADLINE)
    assert world.status.rollout is not None
    assert (world.status.rollout.generation, world.status.rollout.outcome) == (2, "failed")
    if reboot:
        world.reboot(clean=True)
    world.verb(lambda: world.journal.resume(NAME))
    world.pass_time(4 * DEADLINE)
    desired, rollout = world.desired, world.status.rollout
    assert desired is not None and desired.hold is not None and rollout is not None
    assert (desired.generation, desired.hold.kind) == (3, "quarantined")
    assert (rollout.kind, rollout.outcome) == ("rollback", "good")
    assert [bad.generation for bad in world.status.bad] == [2]


def test_an_update_that_has_no_room_for_its_snapshot_waits_for_it_and_leaves_the_old_one_alone() -> None:
    world = World()
    world.push(pod("good-1"))
    world.pass_time(100)
    world.disk_is_full, starts = True, list(world.starts)
    world.push(pod("good-2"))
    world.pass_time(1000)
    assert world.status.blocked is not None
    assert world.starts == starts
    world.disk_is_full = False
    world.pass_time(3600)
    assert (world.status.blocked, [word for _, word in world.starts]) == (None, ["good-1", "good-2"])
    assert world.status.rollout is not None
    assert world.status.rollout.outcome == "good"


def _side(world: World) -> list[str]:
    return [run.record.id for run in world.live.values() if run.record.container == "side"]
