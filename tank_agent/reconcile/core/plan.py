"""The steps that are due for a pod: one pure function, for the loop and for `tank plan`.

`plan` returns the steps that can be done *now*. The worker does them, looks again, and plans again; a plan
without steps means: converged, or waiting until `look_again`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.journal.records import DesiredPod, PodStatus
from tank_agent.reconcile.core import actions, job_records, jobs, rollout
from tank_agent.reconcile.core.actions import Action, Start
from tank_agent.reconcile.core.contents import deliver_due
from tank_agent.reconcile.core.copies import Copy, copy_due, copy_steps, looks_for_room
from tank_agent.reconcile.core.hashes import (
    container_status,
    lasting_settings,
    live_contents,
    outdated_contents,
    settings_hash,
)
from tank_agent.reconcile.core.observed import ImageState, ObservedImage, Run, Situation
from tank_agent.reconcile.core.order import (
    READY_AFTER,
    ends_as_a_whole,
    is_current,
    is_over,
    last_first,
    missing,
    waits_a_moment,
    waits_for,
)
from tank_agent.reconcile.core.restart import waits_until
from tank_agent.runtime.run import RunState
from tank_agent.spec.model import Container

# Seconds; a wait of nothing would be a loop.
_SOON = 0.1
_MOST_PASSES = 100
_ABSENT = ObservedImage(state=ImageState.ABSENT)


class Plan(Struct, frozen=True, kw_only=True):
    """The steps for now. In `look_again` seconds, others may be due; None: only after a new event."""

    actions: tuple[Action, ...] = ()
    look_again: float | None = None


_NOTHING = Plan()


def plan(situation: Situation) -> Plan:
    """Return what to do next for one pod."""
    desired = situation.desired
    # Nearly always, so it costs least.
    at_rest = desired is not None and is_at_rest(desired, situation)
    return _NOTHING if at_rest else plan_steps(situation)


def plan_steps(situation: Situation) -> Plan:
    """Return what `plan` does, without a shortcut for a pod at rest."""
    if situation.is_stopped:
        return _plan_stopped(situation)
    if situation.upcoming is None:
        return _plan_desired(situation)
    planned, waits = _plan_desired(situation), list[float]()
    steps = [*planned.actions, *_prepare(situation.of_update, waits)]
    return _planned(steps, waits if planned.look_again is None else [*waits, planned.look_again])


def is_upcoming(update: Situation) -> bool:
    """Return whether an update waits for its images, or for a look whether its snapshots can be taken."""
    if any(image.state is not ImageState.READY for image in update.observed.images.values()):
        return True
    # Once stopped for the copy, what ran before is not started again for another look.
    found = update.status.rollout
    return looks_for_room(copy_due(update)) and found is not None and not rollout.took(found, "stop")


def _prepare(update: Situation, waits: list[float]) -> Iterator[Action]:
    """Do for an update what can be done while that before it goes on."""
    desired, images = update.desired, update.observed.images
    assert desired is not None
    wanted = (container for container in desired.pod.containers if container.name in images)
    yield from _pulls_due(wanted, update, waits, upcoming=True)
    copy, pulled = copy_due(update), all(image.state is ImageState.READY for image in images.values())
    if copy is not None and copy.job is None and looks_for_room(copy) and pulled:
        yield from copy_steps(copy, update, waits)


def _plan_desired(situation: Situation) -> Plan:
    desired, observed, waits = situation.desired, situation.observed, list[float]()
    if desired is not None and desired.pod.schedule is not None:
        return _plan_job(desired, situation)
    if desired is not None and jobs.is_retired(situation.status):
        return Plan(actions=(job_records.RetireJob(),))
    copy = copy_due(situation)
    first = _first_of_all(situation, copy, waits)
    if first is not None:
        return Plan(actions=(first,))
    steps = list(_settle_runs(situation, copy, waits))
    if situation.unclaimed:
        return Plan(actions=tuple(step for step in steps if isinstance(step, actions.RemoveRun)))
    if desired is None:
        if observed.runs:
            steps = [*jobs.steps_of_removal(situation.status), *steps]
        else:
            steps += [actions.RemoveNetwork()] if observed.network != "absent" else []
            steps += [actions.Forget()] if situation.remembered else []
        return _planned(steps, waits)
    return _run_all(desired, situation, copy, steps, waits)


def _plan_stopped(situation: Situation) -> Plan:
    """Return what to do next for a pod that a person stopped: its containers end, and then its network."""
    waits, observed = list[float](), situation.observed
    having_runs = {run.container for run in observed.runs}
    for name, known in situation.status.containers.items():
        if known.instance and name not in having_runs:
            return Plan(actions=(actions.RecordLost(container=name),))
    steps: list[Action] = [*jobs.steps_of_stop(situation)]
    if not steps:
        steps += _settle_runs(replace(situation, desired=None), None, waits)
        if not observed.runs and observed.network != "absent":
            steps.append(actions.RemoveNetwork())
    return _planned(steps, waits)


def _plan_job(desired: DesiredPod, situation: Situation) -> Plan:
    """Return what to do next for a job: what any pod does, but only within a run."""
    waits, observed = list[float](), situation.observed
    step = jobs.step_due(situation, waits)
    if step is not None:
        return Plan(actions=(step,))
    if not jobs.is_idle(situation):
        return _run_all(desired, situation, None, list(_settle_runs(situation, None, waits)), waits)
    steps = list(_settle_runs(replace(situation, desired=None), None, waits))
    if not observed.runs and observed.network != "absent":
        steps.append(actions.RemoveNetwork())
    noted = jobs.images_step(situation)
    steps += [noted] if noted is not None else _pulls_due(jobs.images_wanted(situation), situation, waits)
    return _planned(steps, waits)


def _pulls_due(
    wanted: Iterable[Container], situation: Situation, waits: list[float], *, upcoming: bool = False
) -> Iterator[Action]:
    """Begin the pulls of images that containers lack, each once."""
    pulls: dict[str, list[str]] = {}
    for container in wanted:
        image = situation.observed.images.get(container.name, _ABSENT)
        if container.image is None or image.state in (ImageState.READY, ImageState.PULLING):
            continue
        if not _must_wait(image.retry_at, situation.now.monotonic, waits):
            pulls.setdefault(container.image, []).append(container.name)
    for reference, names in pulls.items():
        yield actions.Pull(reference=reference, containers=tuple(names), upcoming=upcoming)


def _run_all(
    desired: DesiredPod, situation: Situation, copy: Copy | None, steps: list[Action], waits: list[float]
) -> Plan:
    """Return what is due so that all containers run in their network; `steps` come before it."""
    observed = situation.observed
    starts = list(_start_missing(desired, situation, waits))
    if copy is not None and not any(isinstance(step, actions.Pull) for step in starts):
        steps += copy_steps(copy, situation, waits)
    if copy is not None or ends_as_a_whole(situation) or _is_all_over(situation):
        starts = [step for step in starts if not isinstance(step, Start)]
    to_host = desired.pod.network.mode == "host" and observed.network != "absent"
    if to_host or observed.network_outdated:
        # The pod leaves its network as a whole: nothing starts before that is gone.
        left = all(is_current(run, desired) for run in observed.runs) if to_host else not observed.runs
        if left or observed.network == "fresh":
            return _planned([*steps, actions.RemoveNetwork()], waits)
        starts = [step for step in starts if not isinstance(step, Start)]
    starting = any(isinstance(step, Start) for step in starts)
    if not observed.runs and (
        (observed.network == "used" and not _is_prepared(desired, situation))
        or (observed.network == "fresh" and not starting)
    ):
        # New containers get a new network.
        return _planned([*steps, actions.RemoveNetwork()], waits)
    if starting and observed.network == "absent" and desired.pod.network.mode != "host":
        starts = [actions.MakeNetwork(), *(step for step in starts if not isinstance(step, Start))]
    return _planned([*steps, *_converge_network(desired, situation, waits), *starts], waits)


def _is_all_over(situation: Situation) -> bool:
    """Return whether the last containers have ended, and only something of them is left to be removed.

    Then so is their network, and nothing starts in it before that.
    """
    runs = situation.observed.runs
    ended = (RunState.EXITED, RunState.PARTIAL)
    return situation.observed.network == "used" and bool(runs) and all(run.state in ended for run in runs)


def is_at_rest(desired: DesiredPod, situation: Situation) -> bool:
    """Return whether all goes on as it should, in a pod that was found to be good."""
    rollout, observed = situation.status.rollout, situation.observed
    if (
        situation.status.stopped is not None
        or rollout is None
        or rollout.outcome != "good"
        or rollout.generation != desired.generation
    ):
        return False
    pod, runs = desired.pod, observed.runs
    settings = lasting_settings(pod)
    if observed.network_change is not None or len(runs) != len(settings) or situation.blocked is not None:
        return False
    to_host = pod.network.mode == "host" and observed.network != "absent"
    if to_host or (len(runs) > 1 and len({run.container for run in runs}) != len(runs)):
        return False
    for run in runs:
        if not run.goes_on or run.settings not in ("", settings.get(run.container)):
            return False
        if run.container not in settings or not is_current(run, desired):
            return False
    # Most pods have none, and this is asked for each at each resync.
    has_contents = bool(pod.files or pod.secrets) and bool(live_contents(pod))
    return not has_contents or not any(outdated_contents(run, pod) for run in runs)


def _first_of_all(situation: Situation, copy: Copy | None, waits: list[float]) -> Action | None:
    """Return the step for the pod's rollout that decides on all others."""
    desired, now = situation.desired, situation.now.monotonic
    if desired is None or situation.blocked is not None or situation.upcoming is not None:
        if situation.blocked is not None:
            waits.append(max(situation.blocked.retry_at - situation.now.wall, _SOON))
        return None
    if rollout.follow(situation) is not None:
        return actions.Follow(generation=desired.generation)
    starts_nothing = copy is None and rollout.starts_new(situation) and _is_all_there(situation)
    if starts_nothing or rollout.is_put_off(situation):
        return actions.Begin(generation=desired.generation)
    judged = rollout.judge(situation)
    if judged.outcome == "failed" and rollout.has_target(situation):
        return actions.RollBack(reason=judged.reason)
    if judged.outcome is not None:
        return actions.Decide(outcome=judged.outcome, reason=judged.reason)
    if judged.look_again < math.inf:
        waits.append(max(judged.look_again - now, _SOON))
    return None


def _is_prepared(desired: DesiredPod, situation: Situation) -> bool:
    """Return whether the pod's network is as init containers left it for others that are to start in it."""
    status, boot_id = situation.status, situation.now.boot_id
    done = any(
        container.init
        and is_over(container, container_status(status, desired.pod, container), desired, boot_id)
        for container in desired.pod.containers
    )
    return done and bool(missing(desired, status, situation.observed.runs, boot_id))


def _is_all_there(situation: Situation) -> bool:
    """Return whether every container runs as it is specified, or has ended, so that none is to start."""
    desired, observed = situation.desired, situation.observed
    assert desired is not None
    return all(is_current(run, desired) and run.is_alive for run in observed.runs) and not missing(
        desired, situation.status, observed.runs, situation.now.boot_id
    )


def simulate(situation: Situation) -> tuple[Action, ...]:
    """Return every step until nothing is left to do now, if all succeed; RuntimeError for an endless plan."""
    done: list[Action] = []
    # It shows what is done once the pods that it waits for are ready, and its pulls have ended.
    situation = situation.of_update.seeing(awaited={})
    pulled = {
        name: image if image.state is ImageState.READY else _ABSENT
        for name, image in situation.observed.images.items()
    }
    situation = situation.seeing(images=pulled)
    for _ in range(_MOST_PASSES):
        planned = plan(situation)
        if not planned.actions:
            return tuple(done)
        for action in planned.actions:
            situation = action.expected(situation)
            done.append(action)
            if isinstance(action, actions.Forget):
                return tuple(done)
    raise RuntimeError(f"the plan of a pod does not converge: {[step.describe() for step in done[-5:]]}")


def _converge_network(desired: DesiredPod, situation: Situation, waits: list[float]) -> Iterator[Action]:
    """Change the network under the containers that run in it, or will."""
    observed, change = situation.observed, situation.observed.network_change
    own = desired.pod.network.mode != "host"
    there = observed.network != "absent" if own else observed.network == "absent" and bool(observed.runs)
    if there and change is not None and not _must_wait(change.retry_at, situation.now.monotonic, waits):
        yield actions.ConvergeNetwork(reason=change.reason)


def _must_wait(until: float | None, now: float, waits: list[float]) -> bool:
    """Return whether a time is still to come, and add the seconds until then to `waits`."""
    if until is None or until <= now:
        return False
    waits.append(until - now)
    return True


def _planned(steps: list[Action], waits: list[float]) -> Plan:
    return Plan(actions=tuple(steps), look_again=max(0.0, min(waits)) if waits else None)


def _settle_runs(situation: Situation, copy: Copy | None, waits: list[float]) -> Iterator[Action]:
    """Take the next step for every run that is not as it should be."""
    now, desired = situation.now.monotonic, situation.desired
    # One run of each container stays: of two, the first by id.
    runs = sorted(situation.observed.runs, key=lambda run: run.id, reverse=True)
    current = [run for run in runs if run.is_alive and desired is not None and is_current(run, desired)]
    kept = {run.container: run.id for run in current}
    if copy is not None and _may_stop_all(situation, waits):
        # Nobody may write to a volume while it is copied.
        kept = {name: run for name, run in kept.items() if name not in copy.users}
    alive = [run for run in runs if run.state is RunState.RUNNING and kept.get(run.container) != run.id]
    held = bool(situation.held_by) or _pulls_first(situation, waits)
    free = last_first(alive) if not held else frozenset[str]()
    for run in runs:
        if run.state is RunState.PARTIAL or run.state is RunState.EXITED:
            yield _settle_ended(run, situation.status)
        elif run.stopping is not None or run.state is RunState.ORPHANED:
            if run.stopping is None or not _must_wait(run.stopping.deadline, now, waits):
                yield actions.Kill(run=run.id, container=run.container)
        elif kept.get(run.container) == run.id:
            yield from _change_live(run, situation, waits)
            yield from _restart_unhealthy(run, situation, waits)
        elif (
            run.id in free
            and (copy is None or copy.may_begin)
            and (run.container in kept or _may_stop(run, situation, waits))
        ):
            yield actions.Stop(run=run.id, container=run.container)


def _restart_unhealthy(run: Run, situation: Situation, waits: list[float]) -> list[Action]:
    """Stop a run whose probe failed, so that its restart policy starts it again."""
    probed = run.probed
    if probed is None or probed.health.state != "unhealthy" or not probed.restart:
        return []
    if _must_wait(probed.hold, situation.now.monotonic, waits):
        return []
    why = f"unhealthy: {probed.health.message or 'its probe failed'}"
    return [actions.Stop(run=run.id, container=run.container, unhealthy=why)]


def _change_live(run: Run, situation: Situation, waits: list[float]) -> Iterator[Action]:
    """Correct a run while it goes on, and record what happened in it."""
    assert situation.desired is not None
    now = situation.now.monotonic
    known = situation.status.containers.get(run.container)
    if run.probed is not None and known is not None and known.instance == run.id:
        state = run.probed.health.state
        if known.health is None or known.health.state != state:
            yield actions.RecordHealth(run=run.id, container=run.container, state=state)
    if run.out_of_memory:
        yield actions.RecordOutOfMemory(run=run.id, container=run.container)
    if run.unmounted is not None and not _must_wait(run.unmounted.retry_at, now, waits):
        yield actions.MountAgain(run=run.id, container=run.container, paths=", ".join(run.unmounted.paths))
    container = next(c for c in situation.desired.pod.containers if c.name == run.container)
    wanted = settings_hash(container)
    reason = run.drift or ("the pod's file changed it" if run.settings not in ("", wanted) else None)
    retry_at = run.failure.retry_at if run.failure is not None and run.failure.settings == wanted else None
    if reason is not None and not _must_wait(retry_at, now, waits):
        yield actions.ChangeLive(run=run.id, container=run.container, reason=reason)
    deliver, tried_again = deliver_due(run, container, situation.desired.pod)
    if deliver is not None and not _must_wait(tried_again, now, waits):
        yield deliver


def _settle_ended(run: Run, status: PodStatus) -> Action:
    known = status.containers.get(run.container)
    is_recorded = known is not None and known.instance == run.id
    if is_recorded and run.state is RunState.PARTIAL:
        return actions.RecordUnstarted(run=run.id, container=run.container)
    if is_recorded and run.exit is not None:
        # We end a run that lost its monitor, but nobody asked for its end: the restart policy decides.
        unhealthy = run.stopping.unhealthy if run.stopping is not None else ""
        stopped = run.stopping is not None and not run.lost and not unhealthy
        exit_ = replace(run.exit, unhealthy=True, reason=unhealthy) if unhealthy else run.exit
        return actions.RecordExit(run=run.id, container=run.container, exit=exit_, stopped=stopped)
    return actions.RemoveRun(run=run.id, container=run.container)


def _pulls_first(situation: Situation, waits: list[float]) -> bool:
    """Return whether what runs goes on until every image of an update is there.

    Its wait begins with its first start, and a pull is no part of that.
    """
    found = situation.status.rollout
    begins = rollout.starts_new(situation) and found is not None and found.kind == "update"
    return (
        begins
        and any(run.is_alive for run in situation.observed.runs)
        and not _may_stop_all(situation, waits)
    )


def _may_stop_all(situation: Situation, waits: list[float]) -> bool:
    """Return whether every container that is to start could do so, as far as its image is concerned."""
    desired = situation.desired
    assert desired is not None
    to_start = missing(desired, situation.status, situation.observed.runs, situation.now.boot_id)
    return all(_has_image(container, situation, waits) for container in to_start)


def _may_stop(run: Run, situation: Situation, waits: list[float]) -> bool:
    """Return whether an outdated run may be stopped: not before its successor can be started."""
    desired = situation.desired
    if desired is None:
        return True
    successor = next((c for c in desired.pod.containers if c.name == run.container), None)
    if successor is None:
        return True
    due = missing(desired, situation.status, situation.observed.runs, situation.now.boot_id)
    if successor not in due:
        # It will not start, and nobody pulls its image.
        return True
    before = [container for container in due if container.init and not successor.init]
    return all(_has_image(container, situation, waits) for container in (successor, *before))


def _has_image(container: Container, situation: Situation, waits: list[float]) -> bool:
    if container.image is None:
        return True
    image = situation.observed.images.get(container.name, _ABSENT)
    retry_in = (image.retry_at or 0.0) - situation.now.monotonic
    if image.state is ImageState.FAILED and retry_in > 0:
        # One that is due is pulled again in this pass, or when its container's back-off is over.
        waits.append(max(retry_in, _SOON))
    return image.state is ImageState.READY


def _start_missing(desired: DesiredPod, situation: Situation, waits: list[float]) -> Iterator[Action]:
    """Start, or prepare to start, every container that has no run as it is specified now."""
    lacking: list[Container] = []
    pulls_first, waiting = _pulls_first(situation, []), False
    having_runs = {run.container for run in situation.observed.runs}
    due = {c.name for c in missing(desired, situation.status, situation.observed.runs, situation.now.boot_id)}
    for container in desired.pod.containers:
        known = container_status(situation.status, desired.pod, container)
        if container.name not in having_runs and known.instance:
            yield actions.RecordLost(container=container.name)
            continue
        if container.name not in due:
            continue
        now = situation.now
        if _must_wait(waits_until(known, now.wall, situation.backoff), now.wall, waits):
            continue
        image = situation.observed.images.get(container.name, _ABSENT)
        if container.image is not None and image.state is not ImageState.READY:
            lacking.append(container)
        elif pulls_first:
            continue
        elif container.name not in having_runs and not any(waits_for(container, situation)):
            yield Start(container=container.name)
        elif container.name not in having_runs:
            waiting = True
    if waiting and waits_a_moment(situation):
        waits.append(READY_AFTER)
    yield from _pulls_due(lacking, situation, waits)
