"""Plays a plan to its end on paper: for `tank plan`, and for the tests that prove that plans converge."""

from __future__ import annotations

import signal

from msgspec.structs import replace

from tank_agent.journal.records import ContainerStatus, Exit, PodStatus
from tank_agent.reconcile.actions import (
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
    RecordUnstarted,
    RemoveNetwork,
    RemoveRun,
    Start,
    Stop,
)
from tank_agent.reconcile.observed import ImageState, Moment, ObservedImage, Run, Situation
from tank_agent.reconcile.plan import container_hash, container_status, network_hash, plan
from tank_agent.reconcile.restart import (
    after_exit,
    after_reboot,
    after_start,
    after_stop,
    never_began,
)
from tank_agent.runtime.container.instance import State, Stopping

_MOST_PASSES = 100


def simulate(situation: Situation) -> tuple[Action, ...]:
    """Return every step until nothing is left to do now, if all goes well.

    Raises:
        RuntimeError: a bug: the plan does not come to an end.
    """
    done: list[Action] = []
    for _ in range(_MOST_PASSES):
        planned = plan(situation)
        if not planned.actions:
            return tuple(done)
        for action in planned.actions:
            situation = apply(action, situation)
            done.append(action)
            if isinstance(action, Forget):
                return tuple(done)
    raise RuntimeError(f"the plan of a pod does not converge: {[step.describe() for step in done[-5:]]}")


def apply(action: Action, situation: Situation) -> Situation:
    """Return the situation after a step that succeeded at once."""
    status, observed = situation.status, situation.observed
    match action:
        case Pull(containers=containers):
            ready = dict.fromkeys(containers, ObservedImage(state=ImageState.READY))
            images = {**observed.images, **ready}
            observed = replace(observed, images=images)
        case MakeNetwork():
            observed = replace(observed, network="fresh")
        case ConvergeNetwork():
            observed = replace(observed, network_change=None)
        case RemoveNetwork():
            observed = replace(observed, network="absent")
        case Start(container=name):
            return _started(name, situation)
        case Stop(run=run) | Kill(run=run):
            runs = tuple(_ended(r, situation.now) if r.id == run else r for r in observed.runs)
            observed = replace(observed, runs=runs)
        case ChangeLive() | MountAgain() | RecordOutOfMemory():
            observed = replace(observed, runs=tuple(_changed(run, action) for run in observed.runs))
        case RemoveRun(run=run):
            observed = replace(observed, runs=tuple(r for r in observed.runs if r.id != run))
        case RecordExit() | RecordLost() | RecordUnstarted():
            status = _recorded(action, situation)
        case Forget():
            return replace(situation, status=PodStatus(), remembered=False)
        case _:
            raise TypeError(f"cannot simulate {action!r}")
    return replace(situation, status=status, observed=observed)


def _started(name: str, situation: Situation) -> Situation:
    desired, observed, now = situation.desired, situation.observed, situation.now
    assert desired is not None
    container = next(c for c in desired.pod.containers if c.name == name)
    hash_ = container_hash(desired.pod, container)
    run = Run(id=f"{name}-{len(observed.runs)}-new", container=name, hash=hash_, state=State.RUNNING)
    before = container_status(situation.status, desired.pod, container)
    known = after_start(before, run.id, now.boot_id, now.wall)
    network = "used" if observed.network == "fresh" else observed.network
    return replace(
        situation,
        status=_with(situation.status, name, known),
        observed=replace(observed, runs=(*observed.runs, run), network=network),
    )


def _changed(run: Run, action: ChangeLive | MountAgain | RecordOutOfMemory) -> Run:
    if run.id != action.run:
        return run
    if isinstance(action, MountAgain):
        return replace(run, unmounted=None)
    if isinstance(action, RecordOutOfMemory):
        return replace(run, out_of_memory=False)
    # No hash at all stands for "as it should be".
    return replace(run, settings="", drift=None, failure=None)


def _ended(run: Run, now: Moment) -> Run:
    stopping = run.stopping or Stopping(deadline=now.monotonic)
    return replace(run, state=State.EXITED, exit=Exit(at=now.wall, signal=signal.SIGTERM), stopping=stopping)


def _recorded(action: RecordExit | RecordLost | RecordUnstarted, situation: Situation) -> PodStatus:
    now, backoff = situation.now, situation.backoff
    known = situation.status.containers[action.container]
    if situation.desired is not None:
        known = replace(known, network=network_hash(situation.desired.pod))
    match action:
        case RecordExit(stopped=True):
            updated = after_stop(known)
        case RecordExit(exit=exit_):
            updated = after_exit(known, exit_, backoff)
        case RecordLost() if known.boot_id == now.boot_id:
            updated = after_exit(known, Exit(at=now.wall), backoff)
        case RecordLost():
            updated = after_reboot(known, now.wall)
        case RecordUnstarted():
            updated = never_began(known)
    return _with(situation.status, action.container, updated)


def _with(status: PodStatus, name: str, container: ContainerStatus) -> PodStatus:
    return replace(status, containers={**status.containers, name: container})
