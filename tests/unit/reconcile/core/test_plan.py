"""The plan converges from anything that can be observed, starts nothing twice, and rests when all is well."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tank_agent.image.config import PullProgress
from tank_agent.journal.records import ContainerStatus, DesiredPod, Exit, PodStatus
from tank_agent.reconcile.core.actions import (
    Action,
    ChangeLive,
    ConvergeNetwork,
    Forget,
    Kill,
    MakeNetwork,
    MountAgain,
    Pull,
    RecordExit,
    RecordLost,
    RecordOutOfMemory,
    RemoveNetwork,
    RemoveRun,
    Start,
    Stop,
)
from tank_agent.reconcile.core.hashes import container_hash, network_hash, settings_hash
from tank_agent.reconcile.core.observed import (
    ImageState,
    Moment,
    Observed,
    ObservedImage,
    PendingChange,
    Run,
    Situation,
)
from tank_agent.reconcile.core.phase import Phase, view_pod
from tank_agent.reconcile.core.plan import missing, plan
from tank_agent.reconcile.core.restart import (
    Backoff,
    after_exit,
    after_failed_start,
    after_start,
    stays_down,
    waits_until,
)
from tank_agent.retry import Failure
from tank_agent.runtime.run import ChangeFailure, RunState, Stopping, Unmounted
from tank_agent.spec.model import Container, Limits, Network, Pod, RestartPolicy, content_hash

NOW = Moment(wall=1_000_000.0, monotonic=500.0, boot_id="this")
BACKOFF = Backoff(base=10, cap=300, stable_after=600)
NAMES = ("a", "b", "c")
IMAGE = "oci:/image"


def desired_pod(
    names: tuple[str, ...] = ("a",),
    *,
    restart: RestartPolicy = RestartPolicy.ALWAYS,
    image: str | None = None,
    mode: str = "none",
    word: str = "x",
) -> DesiredPod:
    rootfs = None if image else "/root"
    containers = tuple(Container(name=n, image=image, rootfs=rootfs, command=(word,)) for n in names)
    network = msgspec.convert({"mode": mode}, Network)
    pod = Pod(name="pod", containers=containers, restart=restart, network=network)
    return DesiredPod(
        name="pod", pod=pod, owner="api", revision="r", generation=1, hash=content_hash(pod), changed_at=0.0
    )


def with_dns(desired: DesiredPod, server: str) -> DesiredPod:
    return replace(desired, pod=replace(desired.pod, network=replace(desired.pod.network, dns=(server,))))


def situation(
    desired: DesiredPod | None = None,
    *,
    status: PodStatus | None = None,
    runs: tuple[Run, ...] = (),
    network: str = "absent",
    images: dict[str, ObservedImage] | None = None,
    now: Moment = NOW,
) -> Situation:
    observed = Observed(runs=runs, network=network, images=images or {})  # type: ignore[arg-type]
    return Situation(
        desired=desired, status=status or PodStatus(), observed=observed, now=now, backoff=BACKOFF
    )


def run_of(desired: DesiredPod, name: str = "a", **changes: object) -> Run:
    container = next(c for c in desired.pod.containers if c.name == name)
    run = Run(
        id=f"{name}-1", container=name, hash=container_hash(desired.pod, container), state=RunState.RUNNING
    )
    return replace(run, **changes)


def status_of(run: Run, **changes: object) -> PodStatus:
    known = ContainerStatus(hash=run.hash, instance=run.id, boot_id="this", started_at=NOW.wall - 5)
    return PodStatus(containers={run.container: replace(known, **changes)})


def kinds(actions: tuple[Action, ...]) -> list[type[Action]]:
    return [type(action) for action in actions]


@st.composite
def runs(draw: st.DrawFn, hashes: list[str]) -> tuple[Run, ...]:
    found = []
    for index in range(draw(st.integers(0, 5))):
        state = draw(st.sampled_from(RunState))
        stopping = draw(st.sampled_from([None, Stopping(deadline=400.0), Stopping(deadline=600.0)]))
        exit_ = Exit(at=NOW.wall, code=draw(st.sampled_from([0, 3]))) if state is RunState.EXITED else None
        retry = draw(st.sampled_from([0.0, NOW.monotonic + 20]))
        found.append(
            Run(
                id=f"run-{index}",
                container=draw(st.sampled_from((*NAMES, "stranger"))),
                hash=draw(st.sampled_from(hashes)),
                state=state,
                pid=index + 10,
                stopping=stopping,
                exit=exit_,
                unmounted=draw(st.sampled_from([None, Unmounted(paths=("/data",), retry_at=retry)])),
            )
        )
    return tuple(found)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    names = tuple(draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)))
    desired: DesiredPod | None = desired_pod(
        names,
        restart=draw(st.sampled_from(RestartPolicy)),
        image=draw(st.sampled_from([None, IMAGE])),
        mode=draw(st.sampled_from(["none", "host"])),
    )
    assert desired is not None
    hashes = [container_hash(desired.pod, c) for c in desired.pod.containers] + ["outdated"]
    observed_runs = draw(runs(hashes))
    exits = st.sampled_from([None, Exit(at=NOW.wall - 9, code=0), Exit(at=NOW.wall - 9, signal=9)])
    remembered = {
        name: ContainerStatus(
            hash=draw(st.sampled_from(hashes)),
            restarts=draw(st.integers(0, 9)),
            failures=draw(st.integers(0, 9)),
            instance=draw(st.sampled_from(["", "vanished", *(run.id for run in observed_runs)])),
            boot_id=draw(st.sampled_from(["this", "former"])),
            started_at=draw(st.sampled_from([None, NOW.wall - 5])),
            retry_at=draw(st.sampled_from([None, NOW.wall - 1, NOW.wall + 20, NOW.wall + 1e9])),
            exit=draw(exits),
        )
        for name in draw(st.lists(st.sampled_from((*NAMES, "stranger")), max_size=3, unique=True))
    }
    image = draw(st.sampled_from([None, *ImageState]))
    retry = draw(st.sampled_from([None, NOW.monotonic - 1, NOW.monotonic + 20]))
    observed_image = None if image is None else ObservedImage(state=image, retry_at=retry, error="no")
    images = dict.fromkeys(NAMES, observed_image) if observed_image is not None else {}
    change = draw(st.sampled_from([None, PendingChange(reason="drift", error="no", retry_at=retry or 0.0)]))
    if draw(st.booleans()):
        desired = None
    found = situation(
        desired,
        status=PodStatus(containers=remembered),
        runs=observed_runs,
        network=draw(st.sampled_from(["absent", "fresh", "used"])),
        images=images,
    )
    return replace(found, observed=replace(found.observed, network_change=change))


def live(runs_: tuple[Run, ...]) -> Counter[str]:
    return Counter(run.container for run in runs_ if run.state in (RunState.RUNNING, RunState.ORPHANED))


def settle(start: Situation) -> Situation:
    """Play until the plan rests, and let time pass while it waits."""
    current = start
    for _ in range(60):
        planned = plan(current)
        started: set[str] = set()
        for action in planned.actions:
            if isinstance(action, Start):
                # Never a second copy: nothing of it may be alive, nor be started twice in one pass.
                assert action.container not in live(current.observed.runs)
                assert action.container not in started
                started.add(action.container)
            current = action.expected(current)
        if planned.actions:
            continue
        if planned.look_again is None:
            return current
        assert planned.look_again >= 0
        later = planned.look_again + 0.001
        moment = replace(NOW, wall=current.now.wall + later, monotonic=current.now.monotonic + later)
        current = replace(current, now=moment)
    raise AssertionError(f"does not come to rest: {[a.describe() for a in plan(current).actions]}")


@settings(max_examples=1500, deadline=None)
@given(situations())
def test_converges_from_anything_in_a_bounded_number_of_steps(start: Situation) -> None:
    if any(image.state is ImageState.PULLING for image in start.observed.images.values()):
        images = dict.fromkeys(NAMES, ObservedImage(state=ImageState.READY))
        start = replace(start, observed=replace(start.observed, images=images))
    end = settle(start)
    if end.desired is None:
        assert not end.remembered
        assert end.observed.runs == ()
        assert end.observed.network == "absent"
        return
    for container in end.desired.pod.containers:
        alive = [run for run in end.observed.runs if run.container == container.name]
        hash_ = container_hash(end.desired.pod, container)
        known = end.status.containers.get(container.name)
        over = known is not None and known.hash == hash_ and stays_down(known.exit, end.desired.pod.restart)
        if over and not alive:
            continue
        assert [(run.state, run.hash, run.stopping) for run in alive] == [(RunState.RUNNING, hash_, None)]
    assert not [run for run in end.observed.runs if run.container == "stranger"]
    # Converged means: the same plan again, now or after a restart of the agent, does nothing.
    assert plan(end).actions == ()


def observed_by_the_loop(current: Situation, store: dict[str, ObservedImage]) -> Situation:
    """Look as the reconciler does: only at the images of what is missing, and at the store as it is."""
    if current.desired is None:
        return replace(current, observed=replace(current.observed, images={}))
    absent = ObservedImage(state=ImageState.ABSENT)
    images = {
        container.name: store.get(container.name, absent)
        for container in missing(current.desired.pod, current.status, current.observed.runs)
        if container.image is not None
    }
    return replace(current, observed=replace(current.observed, images=images))


@settings(max_examples=400, deadline=None)
@given(situations())
def test_the_loop_rests_after_a_few_plans_though_no_time_passes(start: Situation) -> None:
    store = dict(start.observed.images)
    current = start
    for _ in range(12):
        current = observed_by_the_loop(current, store)
        planned = plan(current)
        if not planned.actions:
            # A wait of nothing would be a loop, too.
            assert planned.look_again is None or planned.look_again > 0
            return
        for action in planned.actions:
            if isinstance(action, Pull):
                store |= dict.fromkeys(action.containers, ObservedImage(state=ImageState.READY))
            if isinstance(action, Kill):
                # The kernel takes its time: the run is still there, and is looked at again later.
                killed = Stopping(deadline=current.now.monotonic + 5, killed=True)
                runs_ = [
                    replace(r, stopping=killed) if r.id == action.run else r for r in current.observed.runs
                ]
                current = replace(current, observed=replace(current.observed, runs=tuple(runs_)))
            else:
                current = action.expected(current)
            if isinstance(action, Forget):
                return
    raise AssertionError(f"does not come to rest: {[a.describe() for a in plan(current).actions]}")


def test_the_image_of_a_container_that_is_stopping_is_looked_at() -> None:
    desired = desired_pod(image=IMAGE)
    run = run_of(desired, stopping=Stopping(deadline=NOW.monotonic + 7))
    assert missing(desired.pod, status_of(run), (run,)) == desired.pod.containers
    assert missing(desired.pod, status_of(run), (run_of(desired),)) == ()
    over = desired_pod(image=IMAGE, restart=RestartPolicy.NEVER)
    status = status_of(run_of(over), instance="", exit=Exit(at=NOW.wall, code=0))
    assert missing(over.pod, status, ()) == ()


@settings(max_examples=500, deadline=None)
@given(situations())
def test_every_situation_has_a_phase(start: Situation) -> None:
    view = view_pod(start)
    assert isinstance(view.phase, Phase)
    wanted = {c.name for c in start.desired.pod.containers} if start.desired else None
    assert wanted is None or {c.name for c in view.containers} == wanted


def test_from_nothing_to_running() -> None:
    current = situation(desired_pod())
    assert plan(current).actions == (MakeNetwork(),)
    current = MakeNetwork().expected(current)
    assert plan(current).actions == (Start(container="a"),)
    current = Start(container="a").expected(current)
    assert plan(current) == plan(current)
    assert plan(current).actions == ()
    assert view_pod(current).phase is Phase.RUNNING


def test_the_new_image_is_there_before_the_old_container_is_stopped() -> None:
    old, new = desired_pod(), desired_pod(image=IMAGE)
    run = run_of(old)
    current = situation(new, runs=(run,), status=status_of(run), network="used")
    assert plan(current).actions == (Pull(reference=IMAGE, containers=("a",)),)
    pulling = replace(current.observed, images={"a": ObservedImage(state=ImageState.PULLING)})
    assert plan(replace(current, observed=pulling)).actions == ()
    ready = replace(current.observed, images={"a": ObservedImage(state=ImageState.READY)})
    assert kinds(plan(replace(current, observed=ready)).actions) == [Stop]


def test_a_failed_pull_leaves_the_old_container_running_and_is_tried_again() -> None:
    run = run_of(desired_pod())
    failed = ObservedImage(state=ImageState.FAILED, error="no route", retry_at=NOW.monotonic + 20)
    current = situation(
        desired_pod(image=IMAGE), runs=(run,), status=status_of(run), network="used", images={"a": failed}
    )
    planned = plan(current)
    assert (planned.actions, planned.look_again) == ((), 20.0)
    assert "no route" in (view_pod(current).error or "")


def test_an_edit_back_within_the_grace_waits_for_the_end_and_starts_again() -> None:
    desired = desired_pod()
    run = run_of(desired, stopping=Stopping(deadline=NOW.monotonic + 7))
    current = situation(desired, runs=(run,), status=status_of(run), network="used")
    assert plan(current) == plan(current)
    assert (plan(current).actions, plan(current).look_again) == ((), 7.0)
    ended = replace(run, state=RunState.EXITED, exit=Exit(at=NOW.wall, signal=15))
    end = settle(replace(current, observed=replace(current.observed, runs=(ended,))))
    assert [r.state for r in end.observed.runs] == [RunState.RUNNING]
    assert end.status.containers["a"].failures == 0


def test_a_pod_is_forgotten_once() -> None:
    end = settle(situation(None, network="used"))
    assert not end.remembered
    assert plan(end).actions == ()


def test_grace_then_kill() -> None:
    run = run_of(desired_pod(word="old"), stopping=Stopping(deadline=NOW.monotonic - 0.1))
    assert kinds(plan(situation(desired_pod(), runs=(run,), network="used")).actions) == [Kill]


def test_a_lost_monitor_is_replaced() -> None:
    desired = desired_pod()
    run = run_of(desired, state=RunState.ORPHANED)
    assert kinds(plan(situation(desired, runs=(run,), status=status_of(run), network="used")).actions) == [
        Kill
    ]


def test_an_exit_is_recorded_once_then_removed_with_the_network() -> None:
    desired = desired_pod()
    exit_ = Exit(at=NOW.wall, code=3)
    run = run_of(desired, state=RunState.EXITED, exit=exit_)
    current = situation(desired, runs=(run,), status=status_of(run), network="used")
    seen: list[type[Action]] = []
    for _ in range(4):
        for action in plan(current).actions:
            seen.append(type(action))
            current = action.expected(current)
    assert seen == [RecordExit, RemoveRun, RemoveNetwork]
    planned = plan(current)
    assert (planned.actions, planned.look_again) == ((), 10.0)
    assert view_pod(current).phase is Phase.BACKING_OFF


def test_a_reboot_adds_no_back_off_and_never_runs_a_never_pod_twice() -> None:
    for policy, expected in ((RestartPolicy.ALWAYS, RunState.RUNNING), (RestartPolicy.NEVER, None)):
        desired = desired_pod(restart=policy)
        status = status_of(run_of(desired), boot_id="former", failures=4)
        current = situation(desired, status=status)
        assert plan(current).actions == (RecordLost(container="a"),)
        end = settle(current)
        assert [r.state for r in end.observed.runs] == ([expected] if expected else [])
        assert end.status.containers["a"].failures == 4
        assert view_pod(end).phase is (Phase.RUNNING if expected else Phase.FAILED)


def test_what_failed_is_tried_again_when_its_network_becomes_another() -> None:
    first, second, third = (
        with_dns(desired_pod(restart=RestartPolicy.NEVER), f"10.0.0.{n}") for n in (1, 2, 3)
    )
    over = {"instance": "", "exit": Exit(at=0, code=1), "network": network_hash(first.pod)}
    status = status_of(run_of(first), **over)
    assert plan(situation(first, status=status)).actions == ()
    end = settle(situation(second, status=status))
    assert [run.state for run in end.observed.runs] == [RunState.RUNNING]
    # One whose network changes while it runs, and which then ends, is over.
    ended = tuple(replace(r, state=RunState.EXITED, exit=Exit(at=0, code=1)) for r in end.observed.runs)
    observed = replace(end.observed, runs=ended)
    assert view_pod(settle(replace(end, desired=third, observed=observed))).phase is Phase.FAILED


def test_back_off_doubles_to_its_cap_and_resets_after_a_stable_run() -> None:
    status = ContainerStatus(hash="h", started_at=0.0)
    delays = []
    now = 0.0
    for _ in range(7):
        now += 1
        status = after_exit(replace(status, started_at=now - 1), Exit(at=now, code=1), BACKOFF)
        assert status.retry_at is not None
        delays.append(status.retry_at - now)
        now = status.retry_at
    assert delays == [10, 20, 40, 80, 160, 300, 300]
    status = after_exit(replace(status, started_at=now - 600), Exit(at=now, code=1), BACKOFF)
    assert status.retry_at == now + 10


def test_a_clock_that_was_set_back_ends_the_wait() -> None:
    status = ContainerStatus(hash="h", retry_at=10_000.0)
    assert waits_until(status, 9_990.0, BACKOFF) == 10_000.0
    assert waits_until(status, 1_000.0, BACKOFF) is None


def test_policies() -> None:
    clean, failed, killed = Exit(at=0, code=0), Exit(at=0, code=3), Exit(at=0, signal=9)
    table = {
        RestartPolicy.ALWAYS: (False, False, False),
        RestartPolicy.ON_FAILURE: (True, False, False),
        RestartPolicy.NEVER: (True, True, True),
    }
    for policy, over in table.items():
        assert tuple(stays_down(exit_, policy) for exit_ in (clean, failed, killed)) == over
        assert not stays_down(None, policy)


def test_a_changed_policy_wakes_a_finished_pod() -> None:
    desired = desired_pod(restart=RestartPolicy.NEVER)
    run = run_of(desired)
    status = status_of(run, instance="", exit=Exit(at=NOW.wall - 50, code=1))
    assert plan(situation(desired, status=status)).actions == ()
    again = desired_pod(restart=RestartPolicy.ALWAYS)
    assert plan(situation(again, status=status)).actions == (MakeNetwork(),)


def test_a_network_that_drifted_is_converged_and_never_costs_a_container() -> None:
    desired = desired_pod()
    run = run_of(desired)
    current = situation(desired, runs=(run,), status=status_of(run), network="used")
    drifted = replace(current.observed, network_change=PendingChange(reason="eth0 is away"))
    assert plan(replace(current, observed=drifted)).actions == (ConvergeNetwork(reason="eth0 is away"),)
    failed = PendingChange(reason="eth0 is away", error="no cable", retry_at=NOW.monotonic + 4)
    current = replace(current, observed=replace(current.observed, network_change=failed))
    assert (plan(current).actions, plan(current).look_again) == ((), 4.0)
    view = view_pod(current)
    assert (view.phase, view.error, view.next_retry) == (Phase.DEGRADED, "no cable", NOW.wall + 4)


def limited(memory: int | None) -> DesiredPod:
    desired = desired_pod()
    (container,) = desired.pod.containers
    pod = replace(desired.pod, containers=(replace(container, limits=Limits(memory=memory)),))
    return replace(desired, pod=pod)


def test_a_limit_is_changed_live_and_a_refusal_is_waited_for() -> None:
    old, new = limited(1 << 25), limited(1 << 26)
    run = run_of(old, settings=settings_hash(old.pod.containers[0]))
    current = situation(new, runs=(run,), status=status_of(run), network="used")
    (action,) = plan(current).actions
    assert isinstance(action, ChangeLive)
    assert plan(situation(old, runs=(run,), status=status_of(run), network="used")).actions == ()
    failure = ChangeFailure(
        settings=settings_hash(new.pod.containers[0]), error="busy", count=1, retry_at=NOW.monotonic + 3
    )
    refused = replace(run, failure=failure)
    current = situation(new, runs=(refused,), status=status_of(run), network="used")
    assert (plan(current).actions, plan(current).look_again) == ((), 3.0)
    assert (view_pod(current).phase, view_pod(current).error) == (Phase.DEGRADED, "busy")
    # The edit is taken back: nothing differs, and nothing is wrong any more.
    current = situation(old, runs=(refused,), status=status_of(run), network="used")
    assert (plan(current).actions, view_pod(current).phase) == ((), Phase.RUNNING)


def test_a_lost_limit_and_a_child_out_of_memory_are_seen_to() -> None:
    desired = limited(1 << 25)
    run = run_of(desired, drift="the limit of memory is max", out_of_memory=True)
    current = situation(desired, runs=(run,), status=status_of(run), network="used")
    assert kinds(plan(current).actions) == [RecordOutOfMemory, ChangeLive]
    assert plan(settle(current)).actions == ()


def test_a_lost_mount_comes_back_under_the_container_and_a_refusal_is_waited_for() -> None:
    desired = desired_pod()
    run = run_of(desired, unmounted=Unmounted(paths=("/data", "/etc/hosts")))
    current = situation(desired, runs=(run,), status=status_of(run), network="used")
    assert plan(current).actions == (MountAgain(run="a-1", container="a", paths="/data, /etc/hosts"),)
    assert plan(settle(current)).actions == ()
    failed = Unmounted(paths=("/data",), error="no such path", count=1, retry_at=NOW.monotonic + 2)
    refused = replace(run, unmounted=failed)
    current = situation(desired, runs=(refused,), status=status_of(run), network="used")
    assert (plan(current).actions, plan(current).look_again) == ((), 2.0)
    assert (view_pod(current).phase, view_pod(current).error) == (Phase.DEGRADED, "no such path")


def test_another_limit_is_another_try() -> None:
    old, new = limited(1 << 25), limited(1 << 26)
    run = run_of(old)
    status = status_of(
        run, instance="", retry_at=NOW.wall + 200, settings=settings_hash(old.pod.containers[0])
    )
    assert plan(situation(old, status=status)).actions == ()
    assert kinds(plan(situation(new, status=status)).actions) == [MakeNetwork]


def test_nothing_starts_in_the_hosts_network_before_the_pods_own_is_gone() -> None:
    desired = desired_pod(("a", "b"), mode="host")
    old = run_of(desired, "b", hash="old", stopping=Stopping(deadline=NOW.monotonic + 7))
    current = situation(desired, runs=(old,), network="used")
    assert plan(current).actions == ()
    current = situation(desired, network="used")
    assert plan(current).actions == (RemoveNetwork(),)


def test_a_pod_with_a_running_and_a_failing_container_is_degraded() -> None:
    desired = desired_pod(("a", "b"))
    a, b = run_of(desired, "a"), run_of(desired, "b")
    known = {**status_of(a).containers, **status_of(b, instance="", retry_at=NOW.wall + 5).containers}
    current = situation(desired, runs=(a,), status=PodStatus(containers=known), network="used")
    assert view_pod(current).phase is Phase.DEGRADED
    assert plan(current).look_again == 5.0


def test_what_runs_and_the_journal_never_knew_goes_on_and_is_told() -> None:
    desired = desired_pod(("a", "b"))
    alive, over = run_of(desired), run_of(desired, "b", state=RunState.EXITED)
    kept = replace(situation(runs=(alive, over), network="used"), unclaimed=True)
    # Only what has ended goes; also one whose monitor was killed runs on.
    assert plan(kept).actions == (RemoveRun(run=over.id, container="b"),)
    orphan = replace(kept, observed=replace(kept.observed, runs=(replace(alive, state=RunState.ORPHANED),)))
    assert plan(orphan).actions == ()
    view = view_pod(orphan)
    assert (view.phase, [one.phase for one in view.containers]) == (Phase.DEGRADED, [Phase.RUNNING])
    assert "the journal does not know it" in (view.error or "")
    released = situation(runs=(alive,), network="used")
    assert plan(released).actions == (Stop(run=alive.id, container="a"),)


def test_why_a_container_did_not_start_stays_while_it_is_tried_again() -> None:
    desired = desired_pod(image=IMAGE)
    (container,) = desired.pod.containers
    hash_ = container_hash(desired.pod, container)

    def error(known: ContainerStatus, **changes: object) -> str | None:
        ready = {"a": ObservedImage(state=ImageState.READY)}
        found = {"images": ready, "network": "used", **changes}
        return view_pod(situation(desired, status=PodStatus(containers={"a": known}), **found)).error  # type: ignore[arg-type]

    failed = after_failed_start(ContainerStatus(hash=hash_), NOW.wall - 60, BACKOFF, "no route")
    refused = after_exit(ContainerStatus(hash=hash_), Exit(at=NOW.wall - 60, reason="/x not found"), BACKOFF)
    partial = run_of(desired, state=RunState.PARTIAL)
    pulling = {"a": ObservedImage(state=ImageState.PULLING)}
    for known, said in ((failed, "no route"), (refused, "container a: /x not found")):
        started = after_start(known, "a-1", "this", NOW.wall)
        assert error(known) == said
        assert error(known, images=pulling) == said
        assert error(started, runs=(partial,)) == said
        # It ran: how it ends is another matter.
        assert error(started, runs=(run_of(desired),)) is None
        ended = after_exit(started, Exit(at=NOW.wall, code=3), BACKOFF)
        assert error(ended) == "container a: ended with exit code 3"
        # Another spec has not failed yet.
        assert error(replace(known, hash="other")) is None


def test_why_a_pull_takes_so_long_is_shown() -> None:
    def error(**image: object) -> str | None:
        pulling = replace(ObservedImage(state=ImageState.PULLING), **image)
        return view_pod(situation(desired_pod(image=IMAGE), images={"a": pulling})).error

    trouble = PullProgress(done=0, total=0, trouble="attempt 2 of 5: no route to host")
    assert error() is None
    assert error(progress=trouble) == "attempt 2 of 5: no route to host"
    # While it is tried again, why it failed before is still all that is known.
    assert error(error="no such image") == "no such image"
    assert error(error="no such image", progress=trouble) == "attempt 2 of 5: no route to host"


def test_a_trouble_is_shown_with_its_next_try() -> None:
    desired = desired_pod()
    run = run_of(desired)
    trouble = Failure(error="cannot remove it", retry_at=NOW.monotonic + 4)
    current = situation(desired, runs=(run,), status=status_of(run), network="used")
    view = view_pod(replace(current, troubles=(trouble,)))
    assert (view.phase, view.error, view.next_retry) == (Phase.DEGRADED, "cannot remove it", NOW.wall + 4)
    view = view_pod(replace(current, desired=None, troubles=(trouble,)))
    assert (view.phase, view.error, view.next_retry) == (Phase.STOPPING, "cannot remove it", NOW.wall + 4)
