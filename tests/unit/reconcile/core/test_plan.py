"""The plan converges from anything that can be observed, starts nothing twice, and rests when all is well."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tank_agent.image.config import PullProgress
from tank_agent.journal.records import (
    ContainerStatus,
    DesiredPod,
    Exit,
    Good,
    Health,
    Hold,
    PodStatus,
    Revision,
    Rollout,
)
from tank_agent.reconcile.core.actions import (
    Action,
    Block,
    ChangeLive,
    ConvergeNetwork,
    Decide,
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
    Restore,
    RollBack,
    Start,
    Stop,
)
from tank_agent.reconcile.core.contents import Deliver
from tank_agent.reconcile.core.hashes import container_hash, live_contents, network_hash, settings_hash
from tank_agent.reconcile.core.observed import (
    ImageState,
    Moment,
    Observed,
    ObservedImage,
    PendingChange,
    Probed,
    Run,
    Situation,
    SnapshotJob,
)
from tank_agent.reconcile.core.order import missing
from tank_agent.reconcile.core.phase import Phase, view_pod
from tank_agent.reconcile.core.plan import Plan, is_at_rest, plan, plan_steps, simulate
from tank_agent.reconcile.core.restart import (
    Backoff,
    after_exit,
    after_failed_start,
    after_start,
    stays_down,
    waits_until,
)
from tank_agent.retry import Failure
from tank_agent.runtime.run import ChangeFailure, RunState, Stopping, Undelivered, Unmounted
from tank_agent.spec.model import (
    ConfigFile,
    Container,
    Limits,
    Mount,
    Network,
    Pod,
    RestartPolicy,
    Update,
    Volume,
    content_hash,
)
from tests.support.counting import assert_linear, operations
from tests.support.rollouts import settled_status

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
    known = settled_status(status, desired.generation) if desired is not None else status or PodStatus()
    return Situation(desired=desired, status=known, observed=observed, now=now, backoff=BACKOFF)


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
    # Where it is, what runs has other sysctls, too.
    outdated = found.observed.network != "absent" and all(run.hash == "outdated" for run in observed_runs)
    return found.seeing(network_change=change, network_outdated=outdated and draw(st.booleans()))


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


@st.composite
def rollouts(draw: st.DrawFn) -> Situation:
    """Return any situation with any rollout, order, health, images and copies."""
    found = draw(situations())
    if found.desired is None:
        return found
    desired = _with_order(draw, found.desired)
    hashes = [container_hash(desired.pod, c) for c in desired.pod.containers] + ["outdated"]
    known = {
        name: replace(
            status,
            hash=draw(st.sampled_from(hashes)),
            digest=draw(st.sampled_from(["", "A", "B"])),
            ended_boot=draw(st.sampled_from(["", "this", "former"])),
        )
        for name, status in found.status.containers.items()
    }
    good = draw(
        st.sampled_from([None, Good(generation=1, hash="h", at=0.0), Good(generation=7, hash="h", at=0.0)])
    )
    if good is not None and draw(st.booleans()):
        good = replace(good, snapshots={"data": "1"})
    rollout = Rollout(
        generation=draw(st.sampled_from([6, 7])),
        kind=draw(st.sampled_from(["first", "update", "rollback"] if good is not None else ["first"])),
        boot_id=draw(st.sampled_from(["this", "former"])),
        begun=draw(st.sampled_from([None, 0.0, NOW.monotonic - 5, 90_000.0])),
        boots=draw(st.integers(0, 3)),
        clean=draw(st.booleans()),
        ends=draw(st.integers(0, 4)),
        replaced=draw(st.sampled_from([0, 6])),
        restore=draw(st.sampled_from([{}, {"data": "1"}])) if good is not None else {},
        steps=draw(st.sampled_from([(), ("start a",)])),
        outcome=draw(st.sampled_from([None, "good", "failed", "superseded"])),
    )
    if rollout.kind == "first":
        # There is nothing to put back.
        rollout = replace(rollout, restore={})
    if rollout.boot_id == "this" and (rollout.begun or 0.0) > NOW.monotonic:
        rollout = replace(rollout, begun=NOW.monotonic)
    if rollout.outcome == "superseded":
        # It is what a rollback by hand leaves, beside another generation.
        rollout = replace(rollout, generation=6)
    kind = draw(st.sampled_from([None, "check", "take", "put-back"]))
    job = (
        SnapshotJob(
            kind=kind,
            generation=draw(st.sampled_from([6, 7])),
            state=draw(st.sampled_from(["done", "failed"])),
            error="no room",
            ids={"data": "2"},
            retry_at=NOW.monotonic + draw(st.sampled_from([-1.0, 5.0])),
        )
        if kind is not None
        else None
    )
    former = Revision(
        generation=6,
        pod=draw(st.sampled_from([desired.pod, found.desired.pod])),
        owner="api",
        revision="r",
        hash="f",
        changed_at=0.0,
    )
    status = PodStatus(containers=known, rollout=draw(st.sampled_from([None, rollout, rollout])), good=good)
    current = replace(
        found,
        desired=desired,
        status=status,
        former=former if rollout.generation == 6 and status.rollout is not None else None,
        agent_since=draw(st.sampled_from([0.0, NOW.monotonic - 1])),
    )
    runs_ = tuple(
        replace(
            run,
            hash=draw(st.sampled_from(hashes)),
            digest=draw(st.sampled_from(["A", "B"])),
            after=draw(st.sampled_from([(), ("a",), ("b", "c")])),
            alive_since=draw(st.sampled_from([0.0, NOW.monotonic])),
            probed=draw(st.sampled_from([None, *_HEALTH])),
        )
        for run in found.observed.runs
    )
    return current.seeing(runs=runs_, copying=job)


_SICK = Health(state="unhealthy", since=0.0, message="x")
_HEALTH = (
    Probed(health=Health(state="healthy", since=0.0), steady_since=NOW.monotonic - 3),
    Probed(health=Health(state="starting", since=0.0)),
    Probed(health=_SICK),
    Probed(health=_SICK, restart=True),
    Probed(health=_SICK, restart=True, hold=NOW.monotonic + 5),
)


def _with_order(draw: st.DrawFn, desired: DesiredPod) -> DesiredPod:
    """Return a pod with init containers, `after`, volumes with snapshots, pins and a hold."""
    mounts = (Mount(volume="data", path="/data"),)
    containers = tuple(
        replace(
            one,
            init=draw(st.booleans()) if number + 1 < len(desired.pod.containers) else False,
            after=tuple(c.name for c in desired.pod.containers[:number]) if draw(st.booleans()) else (),
            mounts=mounts if draw(st.booleans()) else (),
        )
        for number, one in enumerate(desired.pod.containers)
    )
    own = {one.name for one in containers if not one.init}
    containers = tuple(
        replace(one, after=() if one.init else tuple(name for name in one.after if name in own))
        for one in containers
    )
    pod = replace(
        desired.pod,
        containers=containers,
        volumes=(Volume(name="data", snapshot=draw(st.booleans())),),
        update=Update(min_healthy=10.0, deadline=60.0, max_restarts=2, rollback=draw(st.booleans())),
    )
    images = draw(st.sampled_from([{}, {"a": "A"}]))
    hold = draw(st.sampled_from([None, Hold(kind="suspended", since=0.0)]))
    return replace(desired, pod=pod, hash=content_hash(pod), generation=7, images=images, hold=hold)


@settings(max_examples=400, deadline=None)
@given(rollouts())
def test_any_rollout_comes_to_rest_with_a_verdict_and_decides_only_once(start: Situation) -> None:
    rollout = start.status.rollout
    # What is to be put back stops what runs, so it waits for images, however long they are not there.
    restores = rollout is not None and bool(rollout.restore)
    if restores or any(image.state is ImageState.PULLING for image in start.observed.images.values()):
        start = start.seeing(images=dict.fromkeys(NAMES, ObservedImage(state=ImageState.READY)))
    end, did = follow_to_its_end(start)
    if end.desired is None:
        return
    found = end.status.rollout
    assert found is not None, (end.status, end.observed, view_pod(end))
    assert (found.generation, found.outcome in ("good", "failed")) == (7, True)
    assert did[RollBack] + did[Block] <= 1
    assert did[Restore] <= 1
    # Failed, and then well after all: never the other way round, and never twice.
    assert did[Decide] + did[RollBack] <= 2
    assert plan(end).actions == ()
    for run in end.observed.runs:
        assert run.is_alive


def _without_init(current: Situation) -> Situation | None:
    """Return the situation after the init containers that run have ended well; None if there are none."""
    containers = current.desired.pod.containers if current.desired is not None else ()
    init = {container.name for container in containers if container.init}
    runs_ = current.observed.runs
    if not any(run.container in init and run.state is RunState.RUNNING for run in runs_):
        return None
    ended = {"state": RunState.EXITED, "exit": Exit(at=current.now.wall, code=0)}
    return current.seeing(runs=tuple(replace(r, **ended) if r.container in init else r for r in runs_))


def _well_at_last(current: Situation) -> Situation | None:
    """Return the situation once what others wait for is healthy; None if nothing waits.

    An update whose first start waits for a container that goes on from before has no verdict until then.
    """
    runs_ = current.observed.runs
    sick = [run.id for run in runs_ if run.probed is not None and run.probed.health.state != "healthy"]
    if not sick or not view_pod(current).waits:
        return None
    since = current.now
    probed = Probed(health=Health(state="healthy", since=since.wall), steady_since=since.monotonic)
    return current.seeing(runs=tuple(replace(r, probed=probed) if r.id in sick else r for r in runs_))


def follow_to_its_end(start: Situation) -> tuple[Situation, Counter[type[Action]]]:
    """Play until the plan rests, and return what was done; an update that is put off or undone ends there."""
    current, did = start, Counter[type[Action]]()
    for _ in range(150):
        planned = plan(current)
        for action in planned.actions:
            did[type(action)] += 1
            current = action.expected(current)
            if isinstance(action, Block):
                # What comes then is another generation's.
                assert current.status.rollout is not None
                decided = replace(current.status.rollout, outcome="failed")
                current = replace(current, status=replace(current.status, rollout=decided))
        if planned.actions:
            continue
        if (ended := _without_init(current)) is not None:
            current = ended
            continue
        if planned.look_again is None and (well := _well_at_last(current)) is not None:
            current = well
            continue
        if planned.look_again is None:
            return current, did
        later = planned.look_again + 0.001
        moment = replace(NOW, wall=current.now.wall + later, monotonic=current.now.monotonic + later)
        current = replace(current, now=moment)
    words = [action.describe() for action in plan(current).actions]
    raise AssertionError(f"does not come to rest: {words} {current.status} {current.observed}")


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


@settings(max_examples=1500, deadline=None)
@given(situations(), st.data())
def test_a_pod_at_rest_is_one_for_which_nothing_is_due(start: Situation, data: st.DataObject) -> None:
    images = dict.fromkeys(NAMES, ObservedImage(state=ImageState.READY))
    end = settle(replace(start, observed=replace(start.observed, images=images)))
    desired = end.desired
    if desired is None:
        return
    well = Counter(run.container for run in end.observed.runs if not run.unmounted)
    runs_all = well == Counter(container.name for container in desired.pod.containers)
    assert is_at_rest(desired, end) == (runs_all and end.observed.network_change is None)
    # With anything that needs a look, it is not.
    disturbances = (
        {"stopping": Stopping(deadline=600.0)},
        {"drift": "memory.max is another"},
        {"unmounted": Unmounted(paths=("/data",))},
        {"out_of_memory": True},
        {"hash": "outdated"},
        {"settings": "other"},
        {"container": "stranger"},
        {"state": RunState.ORPHANED},
        {"digest": "another"},
    )
    changes = data.draw(st.lists(st.sampled_from(disturbances), max_size=2))
    found = list(end.observed.runs)
    for change in changes if found else ():
        index = data.draw(st.integers(0, len(found) - 1))
        found[index] = replace(found[index], **change)
    some = data.draw(st.integers(0, len(found)))
    network = data.draw(st.sampled_from(["absent", "fresh", "used"]))
    now = end.seeing(runs=tuple(found[:some]), network=network)
    if is_at_rest(desired, now):
        assert plan_steps(now) == Plan()


def observed_by_the_loop(current: Situation, store: dict[str, ObservedImage]) -> Situation:
    """Look as the reconciler does: only at the images of what is missing, and at the store as it is."""
    if current.desired is None:
        return replace(current, observed=replace(current.observed, images={}))
    absent = ObservedImage(state=ImageState.ABSENT)
    images = {
        container.name: store.get(container.name, absent)
        for container in missing(current.desired, current.status, current.observed.runs, NOW.boot_id)
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
    assert missing(desired, status_of(run), (run,), "this") == desired.pod.containers
    assert missing(desired, status_of(run), (run_of(desired),), "this") == ()
    over = desired_pod(image=IMAGE, restart=RestartPolicy.NEVER)
    status = status_of(run_of(over), instance="", exit=Exit(at=NOW.wall, code=0))
    assert missing(over, status, (), "this") == ()


@settings(max_examples=500, deadline=None)
@given(st.one_of(situations(), rollouts()))
def test_nothing_is_due_for_a_pod_at_rest(start: Situation) -> None:
    assert plan(start) == plan_steps(start)
    if start.desired is not None and is_at_rest(start.desired, start):
        assert plan_steps(start) == Plan()


@settings(max_examples=500, deadline=None)
@given(st.one_of(situations(), rollouts()))
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


def test_a_container_whose_successor_never_starts_waits_for_no_image() -> None:
    desired = desired_pod(("a", "b"), restart=RestartPolicy.NEVER, image=IMAGE)
    first, second = desired.pod.containers
    pod = replace(desired.pod, containers=(first, replace(second, after=("a",))))
    desired = replace(desired, pod=pod, hash=content_hash(pod))
    failed = ContainerStatus(hash=container_hash(pod, first), exit=Exit(at=NOW.wall - 9, code=1))
    old = run_of(desired, "b", hash="outdated")
    start = situation(desired, status=PodStatus(containers={"a": failed}), runs=(old,))
    # Nobody pulls it: what it waits for has failed for good.
    assert missing(desired, start.status, (old,), "this") == ()
    assert kinds(plan(start).actions) == [Stop]


def test_a_failed_pull_leaves_the_old_container_running_and_is_tried_again() -> None:
    run = run_of(desired_pod())
    failed = ObservedImage(state=ImageState.FAILED, error="no route", retry_at=NOW.monotonic + 20)
    current = situation(
        desired_pod(image=IMAGE), runs=(run,), status=status_of(run), network="used", images={"a": failed}
    )
    planned = plan(current)
    assert (planned.actions, planned.look_again) == ((), 20.0)
    assert "no route" in (view_pod(current).error or "")


def test_an_image_that_is_due_in_a_back_off_is_waited_for_once() -> None:
    """And not looked at ten times a second until the back-off is over."""
    desired = desired_pod(image=IMAGE)
    run = run_of(desired_pod())
    known = ContainerStatus(
        hash=container_hash(desired.pod, desired.pod.containers[0]), failures=2, retry_at=NOW.wall + 30
    )
    due = ObservedImage(state=ImageState.FAILED, error="no route", retry_at=NOW.monotonic - 1)
    current = situation(
        desired, runs=(run,), status=PodStatus(containers={"a": known}), network="used", images={"a": due}
    )
    planned = plan(current)
    assert (planned.actions, planned.look_again) == ((), 30.0)


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


def test_new_content_is_delivered_and_a_refusal_is_waited_for() -> None:
    mounts = (
        Mount(file="conf", path="/a", on_change="signal:SIGHUP"),
        Mount(file="conf", path="/b", on_change="signal:SIGHUP"),
        Mount(file="conf", path="/c", on_change="nothing"),
        Mount(file="firm", path="/d"),
    )
    pods = (
        replace(
            desired_pod().pod,
            containers=(Container(name="a", rootfs="/r", command=("x",), mounts=mounts),),
            files=(ConfigFile(name="conf", content=content), ConfigFile(name="firm", content=b"1")),
        )
        for content in (b"1", b"2")
    )
    old, new = (replace(desired_pod(), pod=pod, hash=content_hash(pod)) for pod in pods)
    run = run_of(old, contents=live_contents(old.pod)["a"])
    current = situation(new, runs=(run,), status=status_of(run), network="used")
    deliver = Deliver(run="a-1", container="a", paths=("/a", "/b", "/c"), signals=("SIGHUP",))
    assert plan(current).actions == (deliver,)
    assert deliver.describe() == (
        "give container a the new content of /a, /b, /c while it runs, then send SIGHUP"
    )
    assert plan(settle(current)).actions == ()
    wanted = live_contents(new.pod)["a"]
    failed = Undelivered(contents=wanted, error="no room", count=1, retry_at=NOW.monotonic + 2)
    refused = situation(new, runs=(replace(run, undelivered=failed),), status=status_of(run), network="used")
    assert (plan(refused).actions, plan(refused).look_again) == ((), 2.0)
    assert (view_pod(refused).phase, view_pod(refused).error) == (Phase.DEGRADED, "no room")
    # Another content is another try.
    other = replace(failed, contents={"/a": "x"})
    another = situation(new, runs=(replace(run, undelivered=other),), status=status_of(run), network="used")
    assert plan(another).actions == (deliver,)


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


def with_sysctls(desired: DesiredPod, **sysctls: str) -> DesiredPod:
    return replace(desired, pod=replace(desired.pod, sysctls=sysctls))


def test_nothing_starts_in_a_network_that_was_made_with_other_sysctls() -> None:
    old, desired = desired_pod(("a", "b")), with_sysctls(desired_pod(("a", "b")), x="1")
    ending = run_of(old, "b", stopping=Stopping(deadline=NOW.monotonic + 7))
    current = situation(desired, runs=(ending,), network="used").seeing(network_outdated=True)
    assert plan(current).actions == ()
    for use in ("used", "fresh"):
        current = situation(desired, network=use).seeing(network_outdated=True)
        assert plan(current).actions == (RemoveNetwork(),)
    after = RemoveNetwork().expected(current)
    assert kinds(plan(after).actions) == [MakeNetwork]


def test_sysctls_are_a_part_of_every_container_and_without_any_nothing_changes() -> None:
    plain, desired = desired_pod(("a", "b")), with_sysctls(desired_pod(("a", "b")), x="1")
    for container in plain.pod.containers:
        assert container_hash(plain.pod, container) != container_hash(desired.pod, container)
        assert container_hash(with_sysctls(plain).pod, container) == container_hash(plain.pod, container)
    current = situation(desired, runs=(run_of(plain, "a"), run_of(plain, "b")), network="used")
    seen = [step.describe() for step in simulate(current.seeing(network_outdated=True))]
    assert seen.index("remove the network namespace") > max(
        seen.index(f"stop container {name}") for name in ("a", "b")
    )
    assert seen.index("make the network namespace") < min(
        seen.index(f"start container {name}") for name in ("a", "b")
    )


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


def test_the_work_grows_as_the_containers_that_wait_do() -> None:
    def work(count: int, first: int = 0, failed: bool = False) -> int:
        containers = tuple(
            Container(
                name=f"c{number}",
                rootfs="/root",
                command=("x",),
                init=number < first,
                after=(f"c{number - 1}",) if number > first else (),
            )
            for number in range(count)
        )
        policy = RestartPolicy.NEVER if failed else RestartPolicy.ALWAYS
        pod = Pod(name="pod", containers=containers, restart=policy)
        desired = replace(desired_pod(), pod=pod, hash=content_hash(pod))
        run = run_of(desired, f"c{first}")
        status = status_of(run, instance="", exit=Exit(at=NOW.wall, code=1)) if failed else None
        current = situation(desired, runs=() if failed else (run,), status=status, network="used")
        return operations(lambda: (plan(current), view_pod(current)))

    assert_linear(work)
    assert_linear(lambda count: work(count, first=count // 2))
    # None of them ever starts: each waits for one that waits for the one that failed.
    assert_linear(lambda count: work(count, failed=True))


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
