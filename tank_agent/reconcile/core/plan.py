"""The steps that are due for a pod: one pure function, for the loop and for `tank plan`.

`plan` returns the steps that can be done *now*. The worker does them, looks again, and plans again; a plan
without steps means: converged, or waiting until `look_again`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from tank_agent.journal.records import DesiredPod, PodStatus
from tank_agent.reconcile.core import actions
from tank_agent.reconcile.core.actions import Action, Start
from tank_agent.reconcile.core.hashes import container_hash, container_status, settings_hash
from tank_agent.reconcile.core.observed import ImageState, ObservedImage, Run, Situation
from tank_agent.reconcile.core.restart import stays_down, waits_until
from tank_agent.runtime.run import RunState
from tank_agent.spec.model import Container, Pod

# Seconds; a wait of nothing would be a loop.
_SOON = 0.1
_MOST_PASSES = 100
_ABSENT = ObservedImage(state=ImageState.ABSENT)


class Plan(Struct, frozen=True, kw_only=True):
    """The steps for now. In `look_again` seconds, others may be due; None: only after a new event."""

    actions: tuple[Action, ...] = ()
    look_again: float | None = None


def missing(pod: Pod, status: PodStatus, runs: Sequence[Run]) -> tuple[Container, ...]:
    """Return the containers that have no run as they are specified now, and that may still start.

    The plan needs the images of these, and of no others.
    """
    going_on = {(run.container, run.hash) for run in runs if _is_alive(run)}
    return tuple(
        container
        for container in pod.containers
        if (container.name, container_hash(pod, container)) not in going_on
        and not stays_down(container_status(status, pod, container).exit, pod.restart)
    )


def plan(situation: Situation) -> Plan:
    """Return what to do next for one pod."""
    desired, observed = situation.desired, situation.observed
    wanted = (
        {} if desired is None else {c.name: container_hash(desired.pod, c) for c in desired.pod.containers}
    )
    waits: list[float] = []
    steps = list(_settle_runs(situation, wanted, waits))
    if situation.unclaimed:
        return Plan(actions=tuple(step for step in steps if isinstance(step, actions.RemoveRun)))
    if desired is None:
        if not observed.runs:
            steps += [actions.RemoveNetwork()] if observed.network != "absent" else []
            steps += [actions.Forget()] if situation.remembered else []
        return _planned(steps, waits)
    starts = list(_start_missing(desired, situation, waits))
    if desired.pod.network.mode == "host" and observed.network != "absent":
        # The pod moves to the host's network as a whole: nothing starts before its own network is gone.
        left = all(wanted.get(run.container) == run.hash for run in observed.runs)
        if left or observed.network == "fresh":
            return _planned([*steps, actions.RemoveNetwork()], waits)
        starts = [step for step in starts if not isinstance(step, Start)]
    starting = any(isinstance(step, Start) for step in starts)
    if not observed.runs and (observed.network == "used" or (observed.network == "fresh" and not starting)):
        # New containers get a new network.
        return _planned([*steps, actions.RemoveNetwork()], waits)
    if starting and observed.network == "absent" and desired.pod.network.mode != "host":
        starts = [actions.MakeNetwork(), *(step for step in starts if not isinstance(step, Start))]
    return _planned([*steps, *_converge_network(desired, situation, waits), *starts], waits)


def simulate(situation: Situation) -> tuple[Action, ...]:
    """Return every step until nothing is left to do now, if all succeed; RuntimeError for an endless plan."""
    done: list[Action] = []
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


def _settle_runs(situation: Situation, wanted: dict[str, str], waits: list[float]) -> Iterator[Action]:
    """Take the next step for every run that is not as it should be."""
    now = situation.now.monotonic
    # One run of each container stays: of two, the first by id.
    runs = sorted(situation.observed.runs, key=lambda run: run.id, reverse=True)
    current = [run for run in runs if _is_alive(run) and wanted.get(run.container) == run.hash]
    kept = {run.container: run.id for run in current}
    for run in runs:
        if run.state is RunState.PARTIAL or run.state is RunState.EXITED:
            yield _settle_ended(run, situation.status)
        elif run.stopping is not None or run.state is RunState.ORPHANED:
            if run.stopping is None or not _must_wait(run.stopping.deadline, now, waits):
                yield actions.Kill(run=run.id, container=run.container)
        elif kept.get(run.container, run.id) != run.id or (
            run.container not in kept and _may_stop(run, situation, waits)
        ):
            yield actions.Stop(run=run.id, container=run.container)
        elif kept.get(run.container) == run.id:
            yield from _change_live(run, situation, waits)


def _is_alive(run: Run) -> bool:
    return run.state is RunState.RUNNING and run.stopping is None


def _change_live(run: Run, situation: Situation, waits: list[float]) -> Iterator[Action]:
    """Correct a run while it goes on, and record what happened in it."""
    assert situation.desired is not None
    now = situation.now.monotonic
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


def _settle_ended(run: Run, status: PodStatus) -> Action:
    known = status.containers.get(run.container)
    is_recorded = known is not None and known.instance == run.id
    if is_recorded and run.state is RunState.PARTIAL:
        return actions.RecordUnstarted(run=run.id, container=run.container)
    if is_recorded and run.exit is not None:
        # We end a run that lost its monitor, but nobody asked for its end: the restart policy decides.
        stopped = run.stopping is not None and not run.lost
        return actions.RecordExit(run=run.id, container=run.container, exit=run.exit, stopped=stopped)
    return actions.RemoveRun(run=run.id, container=run.container)


def _may_stop(run: Run, situation: Situation, waits: list[float]) -> bool:
    """Return whether an outdated run may be stopped: not before its successor can be started."""
    if situation.desired is None:
        return True
    successor = next((c for c in situation.desired.pod.containers if c.name == run.container), None)
    if successor is None or successor.image is None:
        return True
    known = container_status(situation.status, situation.desired.pod, successor)
    if stays_down(known.exit, situation.desired.pod.restart):
        # No successor will start.
        return True
    image = situation.observed.images.get(successor.name, _ABSENT)
    if image.state is ImageState.FAILED and image.retry_at is not None:
        # An image that is due is pulled again in this pass.
        waits.append(max(image.retry_at - situation.now.monotonic, _SOON))
    return image.state is ImageState.READY


def _start_missing(desired: DesiredPod, situation: Situation, waits: list[float]) -> Iterator[Action]:
    """Start, or prepare to start, every container that has no run as it is specified now."""
    pulls: dict[str, list[str]] = {}
    having_runs = {run.container for run in situation.observed.runs}
    due = {c.name for c in missing(desired.pod, situation.status, situation.observed.runs)}
    for container in desired.pod.containers:
        if container.name in having_runs and container.name not in due:
            continue
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
            if image.state is not ImageState.PULLING and not _must_wait(image.retry_at, now.monotonic, waits):
                pulls.setdefault(container.image, []).append(container.name)
        elif container.name not in having_runs:
            yield Start(container=container.name)
    for reference, names in pulls.items():
        yield actions.Pull(reference=reference, containers=tuple(names))
