"""The decision table of updates (1.6 of the design), as far as pure functions decide: one test a row.

| event, in | test |
|---|---|
| new generation, good | `test_new_generation_while_good` |
| first generation ever | `test_first_generation_ever` |
| all healthy unbroken for min_healthy | `test_healthy_unbroken_for_min_healthy_is_good` |
| probe fails once, unhealthy | `test_a_failed_probe_begins_the_proof_anew_and_fails_nothing` |
| container ends | `test_a_container_ends`, `test_a_job_that_ends_with_0_is_good_at_once` |
| deadline passes | `test_deadline_passes` |
| failed, target exists | `test_failed_with_a_target_goes_back`; journal/test_transitions.py |
| failed, rollback = false | `test_failed_without_rollback_stays` |
| watch-back healthy, fails | `test_watch_back_healthy`, `test_watch_back_fails` |
| new revision in pull | `test_new_revision_while_pulling` |
| new revision in the watch | `test_new_revision_in_the_watch` |
| new revision, the same text, the good text, quarantined | journal/test_transitions.py |
| the good text again in the watch | `test_the_good_text_again_in_the_watch` |
| bad text anew, apply, resume | journal/test_transitions.py |
| pull fails | `test_pull_fails`, and those of what runs until an update can begin |
| start fails, host resource missing | ../test_updates.py |
| snapshot fails | test_copies.py |
| agent restarts | `test_agent_restarts_in_the_watch`; in a copy: test_copies.py |
| reboot in the watch | `test_reboot_in_the_watch`, `test_three_power_cuts_in_the_watch_fail` |
| reboot quarantined | `test_reboot_while_quarantined_starts_what_was_good` |
| clock jumps | `test_clock_jumps` |
| `tank rollback` in the watch | `test_tank_rollback_in_the_watch` |
| suspended while waiting | `test_suspended_in_the_watch` |
| unhealthy without an update | `test_unhealthy_without_an_update` |
| flapping in the wait | `test_flapping_in_the_watch` |
| image tag moved, pull = missing | `test_image_tag_moved` |
| update keys edited in the wait | `test_update_keys_edited_in_the_watch` |
| drain | `test_drain_in_the_watch` |

The rows of `tank rollback` to a bad one and of a removed pod are in tests/integration/test_update_table.py.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.journal.records import Bad, Blocked, DesiredPod, Exit, Hold, Rollout
from tank_agent.reconcile.core import rollout as core
from tank_agent.reconcile.core.actions import (
    Begin,
    ChangeLive,
    Decide,
    Follow,
    MakeNetwork,
    Pull,
    RecordExit,
    RollBack,
    Start,
    Stop,
)
from tank_agent.reconcile.core.observed import (
    ImageState,
    ObservedImage,
    PendingChange,
    Situation,
    SnapshotJob,
    Upcoming,
)
from tank_agent.reconcile.core.plan import is_upcoming, plan, simulate
from tank_agent.reconcile.core.restart import after_exit, after_stop
from tank_agent.runtime.run import RunState
from tank_agent.spec.model import Limits, Mount, Network, RestartPolicy, Update, Volume
from tests.unit.reconcile.core.builders import (
    BACKOFF,
    BEGUN,
    CHECK,
    NOW,
    OLD,
    UPDATE,
    container,
    good,
    known,
    pod,
    probed,
    revision,
    rollout,
    run_of,
    steps,
    updating,
    wanted,
    watching,
)

READY, PULLING = ObservedImage(state=ImageState.READY), ObservedImage(state=ImageState.PULLING)
IMAGE = "registry.lan/app:2"
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
GOOD = Decide(outcome="good", reason="it is healthy")


def with_check(word: str = "new") -> DesiredPod:
    return wanted(pod(container(word=word, health=CHECK)))


def health(desired: DesiredPod, *given: Any) -> dict[str, object]:
    """Return that the container runs with a health by its probe."""
    found = probed(*given)
    status = known(desired, health=found.health)
    return {"runs": (run_of(desired, probed=found),), "containers": {"app": status}}


def test_new_generation_while_good() -> None:
    new = wanted(pod(container(rootfs=None, image=IMAGE)))
    start = updating(new, rollout=rollout(generation=1, outcome="good"), former=revision())
    assert steps(start) == [Follow(generation=2)]
    current = Follow(generation=2).expected(start)
    found = current.status.rollout
    assert found is not None
    assert (found.kind, found.generation, found.replaced, found.begun) == ("update", 2, 1, None)
    # The old run goes on until the image is there.
    assert steps(current) == [Pull(reference=IMAGE, containers=("app",))]
    current = current.seeing(images={"app": PULLING})
    assert steps(current) == []
    current = current.seeing(images={"app": READY})
    assert steps(current) == [Stop(run="app-1", container="app")]
    words = [type(step) for step in simulate(current)]
    assert words.index(Stop) < words.index(Start)
    assert words.count(Start) == 1
    assert Begin not in words, "the first start begins the wait"


def test_first_generation_ever() -> None:
    start = updating(rollout=None, good=None, containers={}, runs=(), network="absent")
    assert steps(start) == [MakeNetwork()]
    begun = Start(container="app").expected(MakeNetwork().expected(start))
    found = begun.status.rollout
    assert found is not None
    assert (found.kind, found.begun, found.generation) == ("first", BEGUN, 2)
    # There is nothing to go back to, and the restart policy goes on as ever.
    first = watching(rollout=rollout(kind="first", ends=3), good=None, after=1.0)
    failed = Decide(outcome="failed", reason="its containers ended too often")
    assert steps(first) == [failed]
    assert core.pace(first) is BACKOFF
    after = failed.expected(first)
    ended = replace(known(wanted()), instance="", exit=Exit(at=NOW.wall, code=3))
    down = replace(after, status=replace(after.status, containers={"app": ended})).seeing(
        runs=(), network="fresh"
    )
    assert steps(down) == [Start(container="app")]


def test_a_pod_from_before_there_were_rollouts_begins_its_first_one_and_is_not_touched() -> None:
    start = watching(wanted(generation=7), rollout=None, good=None)
    assert steps(start) == [Begin(generation=7)]
    begun = Begin(generation=7).expected(start)
    assert (plan(begun).actions, plan(begun).look_again) == ((), 10.0)
    later = replace(begun, now=replace(NOW, monotonic=BEGUN + 10))
    assert steps(later) == [GOOD]
    assert steps(GOOD.expected(later)) == []


@pytest.mark.parametrize("check", [False, True])
def test_healthy_unbroken_for_min_healthy_is_good(check: bool) -> None:
    desired = with_check() if check else wanted()
    healthy = health(desired, "healthy", BEGUN + 3) if check else {}
    at = 13.0 if check else 10.0
    before = watching(desired, after=at - 0.5, **healthy)
    assert (plan(before).actions, plan(before).look_again) == ((), 0.5)
    now = watching(desired, after=at, **healthy)
    assert steps(now) == [GOOD]
    after = GOOD.expected(now)
    assert after.status.good is not None
    assert (after.status.good.generation, after.status.good.hash) == (2, desired.hash)
    assert (plan(after).actions, plan(after).look_again) == ((), None)


def test_a_failed_probe_begins_the_proof_anew_and_fails_nothing() -> None:
    desired = with_check()
    failing = watching(desired, after=12.0, **health(desired, "healthy", None))
    assert steps(failing) == []
    again = watching(desired, after=14.0, **health(desired, "healthy", BEGUN + 13))
    assert (plan(again).actions, plan(again).look_again) == ((), 9.0)
    # Unhealthy: still no failure of the update, but an end of the container, which counts.
    bad = replace(probed("unhealthy", None, "connection refused"), restart=True)
    sick = watching(desired, after=14.0, runs=(run_of(desired, probed=bad),))
    (_, stop) = steps(sick)
    assert stop == Stop(run="app-1", container="app", unhealthy="unhealthy: connection refused")
    ended = stop.expected(sick)
    (record,) = steps(ended)
    assert isinstance(record, RecordExit)
    assert (record.stopped, record.exit.unhealthy) == (False, True)
    after = record.expected(ended).status
    assert after.rollout is not None
    assert after.rollout.ends == 1


def ended(times: int, exit_: Exit, **changes: object) -> Situation:
    """Return the watch after the container ended so many times."""
    desired = wanted()
    status = after_exit(known(desired, started_at=NOW.wall - 1), exit_, BACKOFF)
    return watching(
        desired,
        runs=(),
        containers={"app": replace(status, failures=times)},
        rollout=rollout(ends=times),
        **changes,
    )


def test_a_container_ends() -> None:
    oom = Exit(at=NOW.wall, signal=9, oom=True)
    assert not [step for step in steps(ended(2, oom)) if isinstance(step, RollBack | Decide)]
    assert steps(ended(3, oom)) == [RollBack(reason="container app ended by signal 9, out of memory")]
    # Its next start is soon, so that a hopeless update fails within seconds.
    assert core.pace(ended(1, oom)).delay(0) <= 1.2
    assert core.pace(ended(1, oom, good=None)) is BACKOFF


def test_the_last_probe_is_part_of_why_an_update_failed() -> None:
    status = replace(
        known(wanted(), instance=""),
        exit=Exit(at=NOW.wall, code=0, unhealthy=True, reason="unhealthy: no route"),
        health=probed("unhealthy", None, "no route").health,
    )
    failed = watching(runs=(), containers={"app": status}, rollout=rollout(ends=3))
    reason = "container app ended with exit code 0: unhealthy: no route (last probe: no route)"
    assert steps(failed) == [RollBack(reason=reason)]


@pytest.mark.parametrize(("code", "outcome"), [(0, "good"), (1, "failed")])
def test_a_job_that_ends_with_0_is_good_at_once(code: int, outcome: str) -> None:
    desired = wanted(pod(restart=RestartPolicy.NEVER))
    status = known(desired, instance="", exit=Exit(at=NOW.wall, code=code))
    (decided,) = steps(watching(desired, runs=(), containers={"app": status}, after=0.1))
    assert isinstance(decided, Decide), "never back to a former job"
    assert decided.outcome == outcome


def test_one_that_ended_as_it_should_is_no_reason_to_wait_for_the_others_less() -> None:
    spec = pod(container(), container("once"), restart=RestartPolicy.ON_FAILURE)
    desired = wanted(spec)
    over = known(desired, "once", instance="", exit=Exit(at=NOW.wall, code=0))
    found = {"runs": (run_of(desired),), "containers": {"app": known(desired), "once": over}}
    assert steps(watching(desired, after=9.0, **found)) == []
    assert steps(watching(desired, after=10.0, **found)) == [GOOD]


def test_deadline_passes() -> None:
    desired = with_check()
    starting = health(desired, "starting", None, "connection refused")
    before = watching(desired, after=59.0, **starting)
    assert plan(before).look_again == 1.0
    reason = "it did not become healthy within 1m: container app is starting: connection refused"
    assert steps(watching(desired, after=60.0, **starting)) == [RollBack(reason=reason)]


def test_a_network_that_cannot_be_made_right_fails_an_update_of_it() -> None:
    change = PendingChange(reason="x", error="no such uplink", retry_at=1e9)
    assert steps(watching(after=30.0, network_change=change)) == []
    reason = "it did not become healthy within 1m: no such uplink"
    assert steps(watching(after=60.0, network_change=change)) == [RollBack(reason=reason)]


def test_failed_with_a_target_goes_back() -> None:
    failed = watching(rollout=rollout(ends=3))
    (back,) = steps(failed)
    assert isinstance(back, RollBack)
    assert core.has_target(failed)


@pytest.mark.parametrize("why", ["rollback", "never", "no good one"])
def test_failed_without_rollback_stays(why: str) -> None:
    spec = pod(restart=RestartPolicy.NEVER) if why == "never" else pod()
    spec = replace(spec, update=replace(UPDATE, rollback=False)) if why == "rollback" else spec
    failed = watching(wanted(spec), rollout=rollout(ends=3), good=None if why == "no good one" else good())
    (decided,) = steps(failed)
    assert isinstance(decided, Decide)
    after = decided.expected(failed)
    # It goes on, and is good once it proves healthy.
    assert [step for step in steps(after) if isinstance(step, Stop | RollBack)] == []
    later = replace(after, now=replace(NOW, monotonic=BEGUN + 99))
    assert steps(later) == [GOOD]


def test_nothing_is_undone_where_it_would_be_done_again() -> None:
    """The good revision again, as `tank rollback` makes it, that fails now: it is not what was bad."""
    spec = pod(container(rootfs=None, image=IMAGE))
    was, again = good(spec, images={"app": A}), wanted(spec, images={"app": A})
    failed = watching(again, rollout=rollout(ends=3), good=was)
    (decided,) = steps(failed)
    assert isinstance(decided, Decide)
    assert core.pace(failed) is BACKOFF
    # Another digest is another update, of the same spec.
    moved = watching(replace(again, images={"app": B}), rollout=rollout(ends=3), good=was)
    assert [type(step) for step in steps(moved)] == [RollBack]


def back(**changes: object) -> Situation:
    """Return the watch of the way back: generation 3 is generation 1 again."""
    hold = Hold(kind="quarantined", since=0.0, generation=1, declared="bad", failed=2)
    found = {"generation": 3, "kind": "rollback", "replaced": 2}
    ends = changes.pop("ends", 0)
    return watching(wanted(OLD, generation=3, hold=hold), rollout=rollout(**found, ends=ends), **changes)


def test_watch_back_healthy() -> None:
    assert steps(back(after=9.0)) == []
    now = back(after=10.0)
    assert steps(now) == [GOOD]
    after = GOOD.expected(now)
    assert after.desired is not None
    assert after.desired.hold is not None
    assert steps(after) == []


def test_watch_back_fails() -> None:
    failed = back(ends=3)
    (decided,) = steps(failed)
    assert isinstance(decided, Decide)
    assert decided.outcome == "failed"
    assert not core.has_target(failed)
    # The pace is that of the configuration: a person is asked for.
    assert core.pace(failed) is BACKOFF
    assert steps(decided.expected(failed)) == []


def test_new_revision_while_pulling() -> None:
    third = wanted(pod(container(word="third")), generation=3)
    second = revision(pod(), 2)
    current = updating(third, former=second)
    assert steps(current) == [Follow(generation=3)]
    found = Follow(generation=3).expected(current).status.rollout
    assert found is not None
    # What runs, and what it goes back to, is still the first.
    assert (found.kind, found.replaced, found.restore) == ("update", 1, {})


def test_new_revision_in_the_watch() -> None:
    third = wanted(pod(container(word="third")), generation=3)
    saved = good(snapshots={"data": "1"})
    current = watching(third, rollout=rollout(steps=("start app",)), good=saved, former=revision(pod(), 2))
    assert steps(current) == [Follow(generation=3)]
    after = Follow(generation=3).expected(current)
    found = after.status.rollout
    assert found is not None
    assert (found.kind, found.replaced, found.restore, found.steps) == ("update", 2, {}, ())
    assert after.status.good == saved
    assert core.has_target(after)


def test_the_good_text_again_in_the_watch() -> None:
    third = wanted(OLD, generation=3)
    saved = good(snapshots={"data": "1"})
    current = watching(third, good=saved, former=revision(pod(), 2))
    found = core.follow(current)
    assert found is not None
    assert (found.kind, found.restore, found.replaced) == ("rollback", {"data": "1"}, 2)
    # Before anything of the update began, there is nothing to put back.
    found = core.follow(replace(current, status=replace(current.status, rollout=rollout(begun=None))))
    assert found is not None
    assert (found.kind, found.restore, found.replaced) == ("update", {}, 1)


def test_another_digest_in_the_watch_of_one_is_an_update() -> None:
    """The spec is that of the good revision; its images are not."""
    was = good(pod(), images={"app": A}, snapshots={"data": "1"})
    third = wanted(generation=3, images={"app": B})
    former = revision(pod(), 2, images={"app": "sha256:" + "c" * 64})
    found = core.follow(watching(third, good=was, former=former))
    assert found is not None
    assert (found.kind, found.restore) == ("update", {})
    found = core.follow(watching(replace(third, images={"app": A}), good=was, former=former))
    assert found is not None
    assert (found.kind, found.restore) == ("rollback", {"data": "1"})


def test_pull_fails() -> None:
    new = wanted(pod(container(rootfs=None, image=IMAGE)))
    failed = ObservedImage(state=ImageState.FAILED, error="no such tag", retry_at=BEGUN + 1e6)
    # However long it takes: neither a deadline nor a quarantine.
    current = updating(new, images={"app": failed}, after=100_000.0)
    assert (plan(current).actions, core.judge(current).outcome) == ((), None)


def test_an_update_touches_nothing_before_all_of_its_images_are_there() -> None:
    """Else the pull of the second image would count as time in which the update is not healthy."""
    old = pod(container(word="old"), container("b", word="old"))
    new = wanted(
        pod(container(rootfs=None, image=IMAGE), container("b", rootfs=None, image="registry.lan/b:2"))
    )
    current = updating(new, old, images={"app": READY, "b": PULLING})
    assert steps(current) == []
    current = current.seeing(images={"app": READY, "b": READY})
    assert [type(step) for step in steps(current)] == [Stop, Stop]


def test_the_pull_of_another_container_is_no_time_in_which_a_first_generation_fails() -> None:
    new = wanted(pod(container(), container("b", rootfs=None, image=IMAGE)))
    found = {"runs": (run_of(new),), "containers": {"app": known(new)}, "good": None}
    first = rollout(kind="first", steps=("start app",))
    slow = watching(new, **found, rollout=first, images={"b": PULLING}, after=100.0)
    assert steps(slow) == [Begin(generation=2)]
    slow = Begin(generation=2).expected(slow)
    assert steps(slow) == []
    ready = slow.seeing(images={"b": READY})
    assert steps(ready) == [Start(container="b")]
    after = Start(container="b").expected(ready)
    assert core.judge(after).outcome is None


def test_agent_restarts_in_the_watch() -> None:
    desired = with_check()
    at = BEGUN + 50
    # The adopted run is looked at anew, so the proof begins anew, with time enough for it.
    adopted = watching(desired, after=59.0, agent_since=at, **health(desired, "starting", None))
    assert steps(replace(adopted, now=replace(NOW, monotonic=BEGUN + 61))) == []
    (failed,) = steps(replace(adopted, now=replace(NOW, monotonic=at + 40)))
    assert isinstance(failed, RollBack)
    # Its own deadline, if that is later.
    for since in (BEGUN - 1, BEGUN + 1):
        assert core.judge(replace(adopted, agent_since=since)).look_again == BEGUN + 60


@pytest.mark.parametrize(("clean", "boots"), [(False, 1), (True, 0)])
def test_reboot_in_the_watch(clean: bool, boots: int) -> None:
    before = rollout(boot_id="former", begun=90_000.0, clean=clean, steps=("start app",), ends=1)
    current = watching(rollout=before, runs=(), network="absent")
    assert steps(current) == [Follow(generation=2)]
    found = Follow(generation=2).expected(current).status.rollout
    assert found is not None
    assert (found.boots, found.begun, found.boot_id, found.clean) == (boots, None, "this", False)
    # The next start begins a full wait.
    begun = core.begin(current, found)
    assert (begun.begun, begun.steps) == (BEGUN, ("start app",))


def test_drain_in_the_watch() -> None:
    test_reboot_in_the_watch(True, 0)


def test_three_power_cuts_in_the_watch_fail() -> None:
    cut = rollout(begun=None, boots=3)
    (failed,) = steps(watching(rollout=cut, runs=(), network="absent"))
    assert failed == RollBack(reason="the machine went down 3 times within the update's wait")
    assert not [
        step
        for step in steps(watching(rollout=replace(cut, boots=2), runs=(), network="absent"))
        if isinstance(step, RollBack)
    ]


@pytest.mark.parametrize("begun", [None, 90_000.0])
def test_what_failed_before_a_reboot_is_good_once_it_proves_healthy(begun: float | None) -> None:
    """The monotonic time of another boot means nothing in this one."""
    failed = rollout(kind="first", begun=begun, boots=3, boot_id="former", outcome="failed")
    assert steps(watching(rollout=failed, good=None, after=9.0)) == []
    assert steps(watching(rollout=failed, good=None, after=10.0)) == [GOOD]


def test_reboot_while_quarantined_starts_what_was_good() -> None:
    spec = pod(container(rootfs=None, image=IMAGE))
    hold = Hold(kind="quarantined", since=0.0, generation=1, declared="bad", failed=2)
    held = wanted(spec, generation=3, hold=hold, images={"app": A})
    decided = rollout(generation=3, kind="rollback", outcome="good", boot_id="former")
    current = watching(
        held, rollout=decided, good=good(spec, 3, images={"app": A}), runs=(), network="absent"
    )
    assert core.follow(current) is None
    assert core.pin_of(current, "app") == A


def test_clock_jumps() -> None:
    desired = with_check()
    for wall in (NOW.wall - 86_400, NOW.wall + 86_400):
        healthy = watching(desired, after=9.0, **health(desired, "healthy", BEGUN))
        assert steps(replace(healthy, now=replace(healthy.now, wall=wall))) == []
        sick = watching(desired, after=59.0, **health(desired, "starting", None))
        assert steps(replace(sick, now=replace(sick.now, wall=wall))) == []


def test_a_blocked_update_is_tried_again_though_the_clock_was_set_back() -> None:
    status = updating(blocked=Blocked(generation=2, error="no room", retry_at=NOW.wall + 3600)).status
    assert core.blocked_now(wanted(), status, NOW.wall) is not None
    assert core.blocked_now(wanted(), status, NOW.wall + 3600) is None
    assert core.blocked_now(wanted(), status, NOW.wall - 86_400) is None
    assert core.blocked_now(wanted(generation=3), status, NOW.wall) is None


@pytest.mark.parametrize("hold", [None, Hold(kind="pinned", since=0.0, generation=1, declared="x")])
def test_tank_rollback_in_the_watch(hold: Hold | None) -> None:
    """Data is put back only where a person asked for it, whoever owns the pod."""
    third = wanted(OLD, generation=3, hold=hold)
    saved, by_hand = good(snapshots={"data": "1"}), rollout(outcome="superseded")
    current = watching(third, good=saved, former=revision(pod(), 2), rollout=by_hand)
    found = core.follow(current)
    assert found is not None
    assert (found.kind, found.restore, found.outcome, found.replaced) == ("update", {}, None, 2)
    # With data: also where what runs is what is wanted already.
    asked = replace(by_hand, restore={"data": "0"})
    for superseded in (asked, replace(asked, outcome="good")):
        found = core.follow(watching(wanted(generation=3), former=revision(pod(), 2), rollout=superseded))
        assert found is not None
        assert (found.restore, found.begun, found.outcome) == ({"data": "0"}, None, None)


def test_suspended_in_the_watch() -> None:
    suspended = wanted(hold=Hold(kind="suspended", since=0.0))
    (decided,) = steps(watching(suspended, rollout=rollout(ends=3)))
    assert isinstance(decided, Decide)
    assert decided.outcome == "failed"
    assert steps(watching(suspended, after=10.0)) == [GOOD]


def test_unhealthy_without_an_update() -> None:
    desired = with_check()
    bad = replace(probed("unhealthy", None, "refused"), restart=True)
    settled = {"rollout": rollout(outcome="good"), "good": good(desired.pod, 2), "after": 1e6}
    found = steps(watching(desired, runs=(run_of(desired, probed=bad),), **settled))
    assert [type(step) for step in found if isinstance(step, Stop | RollBack | Decide)] == [Stop]


def test_flapping_in_the_watch() -> None:
    desired = with_check()
    for after in (9.0, 20.0, 40.0, 59.0):
        now = watching(desired, after=after, **health(desired, "healthy", BEGUN + after - 5))
        assert steps(now) == []
    late = watching(desired, after=60.0, **health(desired, "healthy", BEGUN + 55))
    reason = "it did not become healthy within 1m: it was not healthy for long enough without a break"
    assert steps(late) == [RollBack(reason=reason)]


def test_image_tag_moved() -> None:
    spec = pod(container(rootfs=None, image=IMAGE))
    was = good(spec, 2, images={"app": A})
    down = watching(wanted(spec), rollout=rollout(outcome="good"), good=was, runs=(), after=1e6)
    assert core.pin_of(down, "app") == A
    # Another generation, or pull = "always", means what its reference says.
    assert core.pin_of(watching(wanted(spec), good=replace(was, generation=1)), "app") == ""
    always = wanted(pod(container(rootfs=None, image=IMAGE, pull="always")))
    assert core.pin_of(watching(always, good=was), "app") == ""


def test_update_keys_edited_in_the_watch() -> None:
    edited = wanted(pod(update=Update(min_healthy=3.0, deadline=20.0)), generation=3)
    begun = rollout(steps=("start app",), ends=1)
    current = watching(edited, rollout=begun, former=revision(pod(), 2), after=4.0)
    assert steps(current) == [Follow(generation=3)]
    after = Follow(generation=3).expected(current)
    assert after.status.rollout == replace(begun, generation=3)
    assert steps(after) == [GOOD]


def test_a_change_that_concerns_no_container_keeps_what_was_decided() -> None:
    edited = wanted(pod(update=Update()), generation=3)
    decided = rollout(outcome="failed", reason="x")
    current = watching(edited, rollout=decided, former=revision(pod(), 2))
    assert core.follow(current) == replace(decided, generation=3)


def limited(memory: int, generation: int = 2) -> DesiredPod:
    return wanted(pod(container(limits=Limits(memory=memory))), generation=generation)


def test_an_update_of_limits_is_good_only_after_it_showed_its_health_with_them() -> None:
    before, after = limited(1 << 20, 1), limited(1 << 24)
    run = run_of(before, alive_since=0.0)
    status = {"app": known(before)}
    current = watching(after, runs=(run,), containers=status, rollout=rollout(begun=None), after=1e5)
    assert steps(current) == [Begin(generation=2)]
    current = Begin(generation=2).expected(current)
    (change,) = steps(current)
    assert isinstance(change, ChangeLive)
    current = change.expected(current)
    assert (plan(current).actions, plan(current).look_again) == ((), 10.0)
    later = replace(current, now=replace(NOW, monotonic=current.now.monotonic + 10))
    assert steps(later) == [GOOD]


def test_a_pod_that_only_waits_for_another_one_has_nothing_to_prove() -> None:
    changed = wanted(pod(after=("db",)), generation=3)
    good_one = watching(changed, rollout=rollout(outcome="good"), former=revision(pod(), 2))
    followed = core.follow(good_one)
    assert followed is not None
    assert (followed.outcome, followed.generation) == ("good", 3)


def test_the_way_back_from_a_change_that_restarts_nothing_still_puts_data_back() -> None:
    """Its containers run as the good revision has them, but on the data of a later one."""
    hold = Hold(kind="quarantined", since=0.0, generation=1, declared="bad", failed=2)
    restoring = rollout(generation=3, kind="rollback", begun=None, restore={"data": "1"})
    found = simulate(back_with_data(hold, restoring))
    names = [step.describe() for step in found if not isinstance(step, Follow | Begin)]
    assert "put the snapshot of volume data back" in names
    assert names.index("stop container app") < names.index("put the snapshot of volume data back")
    assert names.index("put the snapshot of volume data back") < names.index("start container app")


def back_with_data(hold: Hold, restoring: Rollout) -> Situation:
    app = container(word="old", mounts=(Mount(volume="data", path="/data"),))
    spec = pod(app, volumes=(Volume(name="data", snapshot=True),))
    desired = wanted(spec, generation=3, hold=hold)
    return watching(desired, rollout=restoring, good=good(spec, snapshots={"data": "1"}))


def test_verdicts_have_the_digests_of_what_ran() -> None:
    """Else a rollback to a revision that was only pulled would start the image of the one before."""
    spec = pod(container(rootfs=None, image=IMAGE), container("b", rootfs=None, image="b:1"))
    desired, old = (
        wanted(spec),
        wanted(pod(container(word="old"), container("b", rootfs=None, image="b:1")), 1),
    )
    # Only b ran as the update has it: the status of app is of the generation before.
    status = {"app": known(old, digest=A), "b": known(desired, "b", digest=B)}
    assert core.images_of(watching(desired, containers=status)) == {"b": B}
    # Nor is the digest from before one that the generation demands.
    pinned = replace(desired, images={"b": A})
    assert core.images_of(watching(pinned, containers=status)) == {"b": A}


def test_what_waits_has_a_time_at_which_it_is_looked_at_again() -> None:
    """An update whose wait nothing wakes would stay undecided until the next resync."""
    desired = with_check()
    for situation in (
        watching(after=1.0),
        watching(desired, after=1.0, **health(desired, "starting", None)),
        watching(runs=(), after=1.0, containers={"app": known(wanted(), instance="", retry_at=NOW.wall + 5)}),
        back(after=1.0),
    ):
        planned = plan(situation)
        assert planned.look_again is not None
        assert 0 < planned.look_again <= 60.0


def test_a_network_only_update_is_watched() -> None:
    changed = wanted(pod(network=Network(dns=("10.0.0.1",))))
    before = updating(changed, pod(), network_change=PendingChange(reason="dns"))
    assert [step for step in simulate(before) if isinstance(step, Stop | Start)] == []
    assert steps(before) == [Begin(generation=2)]


def test_no_verdict_is_due_for_what_is_decided_or_has_not_begun() -> None:
    for found in (None, rollout(outcome="good"), rollout(begun=None), rollout(generation=1)):
        assert core.judge(watching(rollout=found, after=1e6)).outcome is None
    gone = replace(watching(after=1e6), desired=None)
    assert core.judge(gone).outcome is None
    assert core.judge(watching(after=1.0)).look_again < math.inf


def test_a_stop_that_the_loop_asked_for_is_no_end() -> None:
    desired = wanted()
    status = after_stop(known(desired))
    now = watching(desired, runs=(), containers={"app": status}, network="used", after=1.0)
    assert now.status.rollout is not None
    assert now.status.rollout.ends == 0
    run = run_of(desired, state=RunState.EXITED, exit=Exit(at=NOW.wall, code=0))
    again = watching(desired, runs=(run,), after=1.0)
    record = RecordExit(run="app-1", container="app", exit=Exit(at=NOW.wall, code=0), stopped=True)
    after = record.expected(again).status.rollout
    assert after is not None
    assert after.ends == 0


def test_containers_that_a_pod_lost_must_be_gone_before_it_is_good() -> None:
    desired, former = wanted(), wanted(pod(container(), container("gone")), generation=1)
    left = run_of(former, "gone")
    assert core.judge(watching(desired, runs=(run_of(desired), left), after=1e3)).outcome == "failed"
    assert core.judge(watching(desired, runs=(run_of(desired),), after=20.0)).outcome == "good"


# --- what runs until an update can begin -----------------------------------------------------------------


def pulled(image: ObservedImage = PULLING, **changes: Any) -> Situation:
    """Return an update whose image is not there, as the loop sees it after a reboot: nothing runs."""
    new = wanted(pod(container(rootfs=None, image=IMAGE)))
    ended = known(wanted(OLD, 1), instance="", boot_id="")
    found = {"runs": (), "containers": {"app": ended}, "network": "absent", **changes}
    update = updating(new, **found).seeing(images={"app": image})
    assert core.goes_on_before(update)
    upcoming = Upcoming(desired=new, images=update.observed.images)
    before = core.as_before(new, revision(), update.status)
    return replace(update, desired=before, upcoming=upcoming).seeing(images={})


@pytest.mark.parametrize(
    "image",
    [PULLING, ObservedImage(state=ImageState.FAILED, error="no route", retry_at=NOW.monotonic + 5)],
)
def test_what_ran_before_starts_again_while_an_update_is_pulled(image: ObservedImage) -> None:
    current = pulled(image)
    assert steps(current) == [MakeNetwork()]
    current = current.seeing(network="fresh")
    assert steps(current) == [Start(container="app")]
    current = Start(container="app").expected(current)
    assert steps(current) == []
    (run,) = current.observed.runs
    assert run.hash == run_of(wanted(OLD, 1)).hash
    # It is no part of the update, whose wait begins with its own first start.
    assert core.after_start(current, current.status.rollout) == current.status.rollout
    assert core.after_end(current, current.status.rollout) == current.status.rollout


def test_the_pulls_of_an_update_go_on_beside_what_ran_before() -> None:
    pull = Pull(reference=IMAGE, containers=("app",), upcoming=True)
    current = pulled(ObservedImage(state=ImageState.ABSENT))
    assert steps(current) == [MakeNetwork(), pull]
    failed = ObservedImage(state=ImageState.FAILED, error="no route", retry_at=NOW.monotonic + 5)
    waiting = pulled(failed, runs=(run_of(wanted(OLD, 1)),), network="used")
    assert plan(waiting).look_again == 5
    later = replace(waiting, now=replace(NOW, monotonic=NOW.monotonic + 5))
    assert steps(later) == [pull]
    assert pull.expected(later).of_update.observed.images == {"app": READY}


@pytest.mark.parametrize("image", [PULLING, ObservedImage(state=ImageState.ABSENT)])
def test_the_plan_shows_the_update_that_waits(image: ObservedImage) -> None:
    current = pulled(image, runs=(run_of(wanted(OLD, 1)),), network="used")
    words = [step.describe() for step in simulate(current)]
    assert words[0] == f"pull image {IMAGE}"
    assert words.index("stop container app") < words.index("start container app")


def test_images_that_are_there_begin_the_update() -> None:
    current = pulled(READY, runs=(run_of(wanted(OLD, 1)),), network="used")
    assert not is_upcoming(current.of_update)
    assert is_upcoming(pulled().of_update)
    assert steps(current.of_update) == [Stop(run="app-1", container="app")]


@pytest.mark.parametrize(
    ("changes", "goes_on"),
    [
        ({}, True),
        ({"replaced": 0}, False),
        ({"begun": BEGUN}, False),
        ({"outcome": "good"}, False),
        # The third power cut in its wait is a verdict.
        ({"boots": 3}, False),
        # Volumes get other data, or have it already.
        ({"restore": {"data": "1"}}, False),
        ({"steps": ("restore data",)}, False),
        ({"steps": ("stop app", "start app")}, False),
        ({"steps": ("snapshot data",)}, True),
    ],
)
def test_what_ran_before_goes_on_only_with_its_own_data(changes: dict[str, Any], goes_on: bool) -> None:
    found = rollout(**{"begun": None, **changes})
    current = updating(rollout=found, good=good(snapshots={"data": "2"}))
    assert core.goes_on_before(current) is goes_on


def test_without_snapshots_it_goes_on_also_after_the_update_had_begun() -> None:
    assert core.goes_on_before(updating(rollout=rollout(begun=None, steps=("start app",))))


def test_a_copy_of_its_volumes_keeps_what_ran_before_from_starting() -> None:
    job = SnapshotJob(kind="take", generation=2, state="done")
    assert not core.goes_on_before(updating(copying=job))
    assert core.goes_on_before(updating(copying=replace(job, kind="check")))


def test_a_revision_that_takes_the_machine_down_is_not_started_again() -> None:
    bad = Bad(hash="h", generation=1, revision="r", at=0.0, reason="the machine went down 3 times within it")
    status = updating(bad=(bad,)).status
    assert not core.may_run_again(revision(), status)
    assert core.may_run_again(revision(generation=2), status)
    assert core.may_run_again(revision(), updating(bad=(replace(bad, reason="it is sick"),)).status)


def test_a_snapshot_is_dropped_as_what_it_is_of_runs_again() -> None:
    taken = good(snapshots={"data": "2"})
    status = updating(rollout=rollout(begun=None, steps=("stop app", "snapshot data")), good=taken).status
    assert core.without_old_copies(status).good == good()
    # One that an earlier update took is of what was good before that.
    status = updating(rollout=rollout(begun=None), good=taken).status
    assert core.without_old_copies(status) == status


def test_a_generation_whose_data_is_back_is_what_ran_though_it_did_not_start() -> None:
    back = rollout(generation=3, kind="rollback", begun=None, replaced=2, steps=("restore data",))
    found = core.follow(updating(wanted(generation=4), rollout=back))
    assert found is not None
    assert found.replaced == 3
    found = core.follow(updating(wanted(generation=4), rollout=replace(back, steps=())))
    assert found is not None
    assert found.replaced == 2
