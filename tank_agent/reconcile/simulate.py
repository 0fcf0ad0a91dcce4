"""Plays a plan to its end on paper: for `tank plan`, and for the tests that prove that plans converge."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tank_agent.journal.records import DesiredPod, Exit, PodStatus
from tank_agent.reconcile.actions import (
    Action,
    Forget,
    Kill,
    MakeNetwork,
    Pull,
    RecordExit,
    RecordLost,
    RecordUnstarted,
    RemoveNetwork,
    RemoveRun,
    Start,
    Stop,
)
from tank_agent.reconcile.observed import ImageState, Moment, Observed, ObservedImage, Run
from tank_agent.reconcile.plan import container_hash, container_status, plan
from tank_agent.reconcile.restart import (
    Backoff,
    after_exit,
    after_reboot,
    after_start,
    after_stop,
    never_began,
)
from tank_agent.runtime.instance import State, Stopping

_MOST_PASSES = 100


def simulate(
    desired: DesiredPod | None, status: PodStatus, observed: Observed, now: Moment, backoff: Backoff
) -> tuple[Action, ...]:
    """Return every step until nothing is left to do now, if all goes well.

    Raises:
        RuntimeError: a bug: the plan does not come to an end.
    """
    done: list[Action] = []
    for _ in range(_MOST_PASSES):
        planned = plan(desired, status, observed, now, backoff)
        if not planned.actions:
            return tuple(done)
        for action in planned.actions:
            status, observed = apply(action, desired, status, observed, now, backoff)
            done.append(action)
            if isinstance(action, Forget):
                return tuple(done)
    raise RuntimeError(f"the plan of a pod does not converge: {[step.describe() for step in done[-5:]]}")


def apply(
    action: Action,
    desired: DesiredPod | None,
    status: PodStatus,
    observed: Observed,
    now: Moment,
    backoff: Backoff,
) -> tuple[PodStatus, Observed]:
    """Return what is remembered and what is there after a step that succeeded at once."""
    match action:
        case Pull(reference=reference):
            images = {**observed.images, reference: ObservedImage(state=ImageState.READY)}
            return status, _replace(observed, images=images)
        case MakeNetwork():
            return status, _replace(observed, network="fresh")
        case RemoveNetwork():
            return status, _replace(observed, network="absent")
        case Start(container=name):
            assert desired is not None
            return _started(name, desired, status, observed, now)
        case Stop(run=run) | Kill(run=run):
            ended = Exit(at=now.wall, signal=15)
            runs = [_ended(r, ended, now) if r.id == run else r for r in observed.runs]
            return status, _replace(observed, runs=tuple(runs))
        case RemoveRun(run=run):
            return status, _replace(observed, runs=tuple(r for r in observed.runs if r.id != run))
        case RecordExit() | RecordLost() | RecordUnstarted():
            return _recorded(action, status, now, backoff), observed
        case Forget():
            return PodStatus(), observed
    raise TypeError(f"cannot simulate {action!r}")


def _replace(observed: Observed, **changes: object) -> Observed:
    return msgspec.structs.replace(observed, **changes)


def _started(
    name: str, desired: DesiredPod, status: PodStatus, observed: Observed, now: Moment
) -> tuple[PodStatus, Observed]:
    container = next(c for c in desired.pod.containers if c.name == name)
    hash_ = container_hash(desired.pod, container)
    run = Run(id=f"{name}-{len(observed.runs)}-new", container=name, hash=hash_, state=State.RUNNING)
    known = after_start(container_status(status, name, hash_), run.id, now.boot_id, now.wall)
    network = "used" if observed.network == "fresh" else observed.network
    return _with(status, {name: known}), _replace(observed, runs=(*observed.runs, run), network=network)


def _ended(run: Run, exit_: Exit, now: Moment) -> Run:
    stopping = run.stopping or Stopping(deadline=now.monotonic)
    return msgspec.structs.replace(run, state=State.EXITED, exit=exit_, stopping=stopping)


def _recorded(
    action: RecordExit | RecordLost | RecordUnstarted, status: PodStatus, now: Moment, backoff: Backoff
) -> PodStatus:
    known = status.containers[action.container]
    match action:
        case RecordExit(stopped=True):
            updated = after_stop(known)
        case RecordExit(exit=exit_):
            updated = after_exit(known, exit_, backoff)
        case RecordLost():
            lost = after_reboot(known, now.wall)
            same_boot = known.boot_id == now.boot_id
            updated = after_exit(known, Exit(at=now.wall), backoff) if same_boot else lost
        case RecordUnstarted():
            updated = never_began(known)
    return _with(status, {action.container: updated})


def _with(status: PodStatus, containers: Mapping[str, object]) -> PodStatus:
    return msgspec.structs.replace(status, containers={**status.containers, **containers})
