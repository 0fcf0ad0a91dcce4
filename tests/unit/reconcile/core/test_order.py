"""What waits for what: init containers, `after`, readiness, and the reverse order of ends."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.journal.records import ContainerStatus, DesiredPod, Exit
from tank_agent.reconcile.core.actions import MakeNetwork, RecordExit, Start, Stop
from tank_agent.reconcile.core.observed import Probed, Run, Situation
from tank_agent.reconcile.core.order import (
    READY_AFTER,
    is_current,
    is_over,
    last_first,
    missing,
    unready,
    unready_pod,
    waits_for,
)
from tank_agent.reconcile.core.phase import Phase, view_pod
from tank_agent.reconcile.core.plan import plan, simulate
from tank_agent.reconcile.core.rollout import judge
from tank_agent.runtime.run import RunState, Stopping
from tank_agent.spec.model import Pod, RestartPolicy
from tests.unit.reconcile.core.builders import (
    BEGUN,
    CHECK,
    NOW,
    container,
    good,
    known,
    pod,
    probed,
    rollout,
    run_of,
    steps,
    updating,
    wanted,
    watching,
)

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
DONE = Exit(at=NOW.wall, code=0)


def prepared(**changes: Any) -> Pod:
    """Return a pod with two init containers before two others, the last of which starts after the first."""
    return pod(
        container("first", init=True),
        container("second", init=True),
        container("db", health=CHECK),
        container("app", after=("db",)),
        **changes,
    )


def starting(spec: Pod, **containers: ContainerStatus) -> Situation:
    """Return a pod whose containers are all down, with what is known of some."""
    desired = wanted(spec)
    return watching(desired, runs=(), containers=containers, rollout=rollout(outcome="good"), network="fresh")


def done(desired: DesiredPod, name: str, **changes: Any) -> ContainerStatus:
    """Return that an init container ended well in this boot."""
    return known(desired, name, **{"instance": "", "exit": DONE, "ended_boot": "this", **changes})


def seeing(situation: Situation, *runs: Run) -> Situation:
    return situation.seeing(runs=runs)


def test_init_containers_run_one_after_the_other_and_then_the_rest() -> None:
    spec, desired = prepared(), wanted(prepared())
    assert steps(starting(spec)) == [Start(container="first")]
    one = starting(spec, first=done(desired, "first"))
    assert steps(one) == [Start(container="second")]
    both = starting(spec, first=done(desired, "first"), second=done(desired, "second"))
    assert steps(both) == [Start(container="db")]
    assert [step.container for step in simulate(starting(spec)) if isinstance(step, Start)] == [
        "first",
        "second",
        "db",
        "app",
    ]


def test_an_init_container_that_runs_or_failed_keeps_the_rest_waiting() -> None:
    spec, desired = prepared(), wanted(prepared())
    running = seeing(starting(spec, first=known(desired, "first")), run_of(desired, "first"))
    assert (plan(running).actions, unready_pod(running)) == ((), "running")
    failed = known(
        desired, "first", instance="", exit=Exit(at=NOW.wall, code=1), retry_at=NOW.wall + 7, failures=1
    )
    again = starting(spec, first=failed).seeing(network="absent")
    assert (plan(again).actions, plan(again).look_again) == ((), 7.0)
    later = replace(again, now=replace(NOW, wall=NOW.wall + 8))
    assert steps(later) == [MakeNetwork()]


def test_an_init_container_runs_once_for_a_spec_an_image_and_a_boot() -> None:
    desired = wanted(prepared())
    init = desired.pod.containers[0]
    ended = done(desired, "first", digest=A)
    assert is_over(init, ended, desired, "this")
    assert not is_over(init, ended, desired, "another boot")
    assert is_over(init, ended, replace(desired, images={"first": A}), "this")
    assert not is_over(init, ended, replace(desired, images={"first": B}), "this")
    # From before digests were known.
    assert is_over(init, replace(ended, digest=""), replace(desired, images={"first": B}), "this")


@pytest.mark.parametrize("policy", RestartPolicy)
def test_a_finished_container_starts_again_for_another_image_only(policy: RestartPolicy) -> None:
    desired = wanted(pod(restart=policy))
    (spec,) = desired.pod.containers
    ended = known(desired, instance="", exit=DONE, digest=A)
    over = policy is not RestartPolicy.ALWAYS
    assert is_over(spec, ended, desired, "this") is over
    assert is_over(spec, ended, desired, "another boot") is over
    assert not is_over(spec, ended, replace(desired, images={"app": B}), "this")


def test_new_images_of_a_pod_run_its_init_container_before_the_new_program() -> None:
    """One image for both, whose tag has moved: the spec, and so every hash, is the same."""
    spec = pod(container("migrate", init=True), container())
    before = wanted(spec, generation=1, images={"migrate": A, "app": A})
    after = wanted(spec, images={"migrate": B, "app": B})
    current = updating(
        after,
        spec,
        runs=(run_of(before, digest=A),),
        containers={"app": known(before, digest=A), "migrate": done(before, "migrate", digest=A)},
    )
    words = [step.describe() for step in simulate(current)]
    order = ("stop container app", "start container migrate", "start container app")
    assert [word for word in words if word in order] == list(order)


def test_after_a_reboot_nothing_is_prepared_for_what_is_over() -> None:
    spec = prepared(restart=RestartPolicy.ON_FAILURE)
    desired = wanted(spec)
    over = {name: known(desired, name, instance="", exit=DONE, ended_boot="old") for name in ("db", "app")}
    init = {name: done(desired, name, ended_boot="old") for name in ("first", "second")}
    rebooted = starting(spec, **over, **init)
    assert missing(desired, rebooted.status, (), "this") == ()
    assert unready_pod(rebooted) == ""
    view = view_pod(rebooted)
    assert {one.phase for one in view.containers} == {Phase.COMPLETED}
    assert view.phase is Phase.COMPLETED
    undecided = replace(rebooted, status=replace(rebooted.status, rollout=rollout()))
    assert judge(undecided).outcome == "good"


def test_what_runs_is_well_though_nothing_is_known_of_its_init_container() -> None:
    spec = pod(container("migrate", init=True), container())
    desired = wanted(spec)
    current = watching(desired, runs=(run_of(desired),), containers={"app": known(desired)}, after=20.0)
    assert steps(current)[0].describe().startswith("record that the generation is good")
    assert unready_pod(current) == ""
    assert view_pod(current).phase is Phase.RUNNING


def test_a_changed_init_container_stops_the_others_before_it_runs() -> None:
    old = pod(container("migrate", "old", init=True), container())
    new = wanted(pod(container("migrate", "new", init=True), container()))
    current = updating(
        new,
        old,
        runs=(run_of(wanted(old, 1)),),
        containers={"app": known(wanted(old, 1)), "migrate": done(wanted(old, 1), "migrate")},
    )
    assert steps(current) == [Stop(run="app-1", container="app")]
    leaving = current.seeing(runs=(run_of(wanted(old, 1), stopping=Stopping(deadline=BEGUN + 9)),))
    assert (plan(leaving).actions, plan(leaving).look_again) == ((), 9.0)
    assert "container app: stopping" in list(waits_for(new.pod.containers[0], leaving))


def test_an_init_container_of_a_job_that_failed_ends_the_pod() -> None:
    spec = prepared(restart=RestartPolicy.NEVER)
    desired = wanted(spec)
    failed = known(desired, "first", instance="", exit=Exit(at=NOW.wall, code=1), ended_boot="this")
    current = starting(spec, first=failed)
    assert missing(desired, current.status, (), "this") == ()
    assert [type(step).__name__ for step in steps(current)] == ["RemoveNetwork"]
    assert view_pod(current).phase is Phase.FAILED
    assert view_pod(current).settled
    undecided = replace(current, status=replace(current.status, rollout=rollout()))
    assert judge(undecided).outcome == "failed"


READY: list[tuple[Probed | None, float, str]] = [
    (None, READY_AFTER, ""),
    (None, READY_AFTER - 0.1, "starting"),
    (probed("healthy", BEGUN), 0.0, ""),
    (probed("starting"), 100.0, "starting"),
    (probed("unhealthy"), 100.0, "unhealthy"),
]


@pytest.mark.parametrize(("health", "after", "word"), READY)
def test_ready_is_healthy_or_has_run_for_a_second(health: Probed | None, after: float, word: str) -> None:
    desired = wanted()
    current = watching(desired, runs=(run_of(desired, probed=health),), after=after)
    assert unready(desired.pod.containers[0], current) == word
    assert unready_pod(current) == word


def test_what_is_down_is_not_ready_unless_it_ended_as_it_should() -> None:
    desired = wanted(pod(restart=RestartPolicy.ON_FAILURE))
    for exit_, word in ((None, "not running"), (Exit(at=0.0, code=1), "not running"), (DONE, "")):
        status = {"app": known(desired, instance="", exit=exit_)}
        assert unready_pod(watching(desired, runs=(), containers=status)) == word
    stopping = watching(desired, runs=(run_of(desired, stopping=Stopping(deadline=1.0)),))
    assert unready_pod(stopping) == "not running"
    assert unready_pod(replace(stopping, desired=None)) == "leaving"


def test_a_container_starts_after_what_it_needs_is_ready_and_looks_again_in_time() -> None:
    spec = pod(container("db"), container("app", after=("db",)))
    desired = wanted(spec)
    current = watching(
        desired, runs=(run_of(desired, "db"),), containers={"db": known(desired, "db")}, after=0.4
    )
    planned = plan(replace(current, status=replace(current.status, rollout=rollout(outcome="good"))))
    assert (planned.actions, planned.look_again) == ((), READY_AFTER)
    assert view_pod(current).waits == ("app waits for container db: starting",)
    ready = replace(current, now=replace(NOW, monotonic=BEGUN + 1))
    assert steps(ready) == [Start(container="app")]
    # What already runs is never stopped for it.
    sick = run_of(desired, "db", probed=probed("unhealthy"))
    both = watching(desired, runs=(sick, run_of(desired)), after=1.0)
    assert [step for step in steps(both) if isinstance(step, Stop)] == []


def test_a_pod_waits_for_pods_only_before_its_start() -> None:
    waiting = starting(pod(after=("db",))).seeing(awaited={"db": "starting"}, network="absent")
    assert (plan(waiting).actions, plan(waiting).look_again) == ((), READY_AFTER)
    assert view_pod(waiting).waits == ("waits for pod db: starting",)
    # There is nothing to look at again by the clock: the other pod's change wakes it.
    absent = waiting.seeing(awaited={"db": "there is no such pod"})
    assert (plan(absent).actions, plan(absent).look_again) == ((), None)
    assert steps(waiting.seeing(awaited={}, network="fresh")) == [Start(container="app")]
    # A plan shows what happens once they are ready.
    assert Start(container="app") in simulate(waiting)


def runs_after(**after: tuple[str, ...]) -> list[Run]:
    return [
        Run(id=f"{name}-1", container=name, hash="h", state=RunState.RUNNING, after=others)
        for name, others in after.items()
    ]


@pytest.mark.parametrize(
    ("after", "first"),
    [
        ({"a": (), "b": ("a",), "c": ("b",)}, {"c-1"}),
        ({"a": (), "b": ("a",), "c": ("a",)}, {"b-1", "c-1"}),
        ({"a": (), "b": ()}, {"a-1", "b-1"}),
        ({"a": ("gone",)}, {"a-1"}),
        # Of specs from before and after a change: there is no order in a circle.
        ({"a": ("b",), "b": ("a",)}, {"a-1", "b-1"}),
        ({"a": ("a",)}, {"a-1"}),
    ],
)
def test_the_last_that_started_is_the_first_to_end(after: Any, first: set[str]) -> None:
    assert last_first(runs_after(**after)) == first


def test_a_pod_that_is_deleted_ends_in_the_reverse_order() -> None:
    spec = pod(container("db"), container("app", after=("db",)))
    desired = wanted(spec)
    db, app = run_of(desired, "db"), run_of(desired, "app", after=("db",))
    gone = replace(watching(desired, runs=(db, app)), desired=None)
    assert steps(gone) == [Stop(run="app-1", container="app")]
    ending = gone.seeing(runs=(db, replace(app, stopping=Stopping(deadline=BEGUN + 5))))
    assert (plan(ending).actions, plan(ending).look_again) == ((), 5.0)
    assert steps(gone.seeing(runs=(db,))) == [Stop(run="db-1", container="db")]


def test_a_pod_that_others_need_ends_after_them() -> None:
    held = replace(watching(), desired=None, held_by=("web",))
    assert (plan(held).actions, plan(held).look_again) == ((), None)
    assert steps(replace(held, held_by=())) == [Stop(run="app-1", container="app")]
    # What has ended is recorded all the same.
    ended = run_of(wanted(), state=RunState.EXITED, exit=DONE, stopping=Stopping(deadline=0.0))
    assert [type(step) for step in steps(held.seeing(runs=(ended,)))] == [RecordExit]


def test_a_run_is_current_by_its_spec_and_by_the_digest_that_it_must_run() -> None:
    desired = wanted()
    run = run_of(desired, digest=A)
    assert is_current(run, desired)
    assert is_current(run, replace(desired, images={"app": A}))
    assert not is_current(run, replace(desired, images={"app": B}))
    # The pin of another container, or none at all, restarts nothing.
    assert is_current(run, replace(desired, images={"other": B}))
    assert not is_current(replace(run, hash="other"), desired)
    assert not is_current(replace(run, container="gone"), desired)


def test_an_update_whose_only_change_is_after_restarts_nothing() -> None:
    changed = wanted(pod(after=("db",)))
    current = updating(changed, pod(), rollout=rollout(generation=1, outcome="good"), good=good(pod()))
    assert [step for step in simulate(current) if isinstance(step, Stop | Start)] == []
