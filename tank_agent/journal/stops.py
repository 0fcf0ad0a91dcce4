"""Pods that a person stops, starts or restarts: what becomes of their status. Pure.

A restart is the ids of the runs that must end. So it is done once, whenever the agent is killed: a run that
has ended is not in the status any more, and the next one has another id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import PodNotFound, Stalled
from tank_agent.journal.records import ContainerStatus, DesiredPod, NewEvent, PodStatus, Rollout

# The kind of the event of a pod that is not stopped any more.
STARTED = "start-asked"
# The new status of a pod, with the event of that; and who decides on it, at a Unix time.
Decision: TypeAlias = tuple[PodStatus, NewEvent]
Decide: TypeAlias = Callable[[DesiredPod, PodStatus, float], Decision | None]


class Wish(Struct, frozen=True, kw_only=True):
    """Who asked for something (a user's name), and when on the monotonic clock of the boot `boot_id`."""

    by: str
    boot_id: str
    monotonic: float


def find(desired: Mapping[str, DesiredPod], name: str) -> DesiredPod:
    """Return a desired pod, or raise PodNotFound."""
    if name not in desired:
        raise PodNotFound(f"there is no pod {name}", hint="`tank list` shows all")
    return desired[name]


def check_restart(pod: DesiredPod, container: str) -> None:
    """Refuse a restart of what has no run of its own to replace.

    Raises:
        PodNotFound: the pod has no such container.
        Stalled: it is a job, or an init container.
    """
    name = pod.name
    if pod.pod.schedule is not None:
        raise Stalled(f"{name} is a job: it runs at its times", hint=f"`tank run {name}` runs it now")
    if not container:
        return
    found = next((one for one in pod.pod.containers if one.name == container), None)
    if found is None:
        names = ", ".join(one.name for one in pod.pod.containers if not one.init)
        raise PodNotFound(f"pod {name} has no container {container}", hint=f"it has {names}")
    if found.init:
        raise Stalled(
            f"container {container} of {name} is init: it runs before the others, and not beside them",
            hint=f"`tank restart {name}` runs it, and all others, again",
        )


def stop(pod: DesiredPod, status: PodStatus, now: float, *, by: str) -> Decision | None:
    """Return what becomes of a pod of which nothing is to run; None if it is stopped.

    A run of a job that a person asked for is off. Once it is started, it waits again for the pods that it
    starts after.
    """
    if status.stopped is not None:
        return None
    job = replace(status.job, asked=None) if status.job is not None else None
    what = f"stopped: nothing of it runs until `tank start {pod.name}`"
    after = replace(status, stopped=now, replacing=(), released="", job=job)
    return after, _event(pod, "stop-asked", what, f"tank stop by {by}")


def start(pod: DesiredPod, status: PodStatus, now: float, *, wish: Wish) -> Decision | None:
    """Return what becomes of a stopped pod that may run again; None if it is not stopped."""
    if status.stopped is None:
        return None
    return _started(status, wish), _event(pod, STARTED, "started again", f"tank start by {wish.by}")


def restart(pod: DesiredPod, status: PodStatus, now: float, *, container: str, wish: Wish) -> Decision:
    """Return what becomes of a pod of which a container, or all (""), is to have a fresh run.

    Raises as `check_restart`.
    """
    check_restart(pod, container)
    cause = f"tank restart by {wish.by}"
    if status.stopped is not None:
        return _started(status, wish), _event(pod, STARTED, "started again", cause)
    names = frozenset((container,) if container else status.containers)
    what = f"container {container}" if container else "all of it"
    event = _event(pod, "restart-asked", f"a fresh run of {what} was asked for", cause)
    return _restarted(status, names, wish), event


def _event(pod: DesiredPod, kind: str, message: str, cause: str) -> NewEvent:
    return NewEvent(pod=pod.name, type=kind, message=message, revision=pod.revision, cause=cause)


def _started(status: PodStatus, asked: Wish) -> PodStatus:
    """Return the status of a pod that may run again: afresh, also what has not ended yet since the stop."""
    if status.job is not None:
        # What a run of it left is shown until the next one.
        return replace(status, stopped=None)
    return replace(_restarted(status, frozenset(status.containers), asked), stopped=None)


def _restarted(status: PodStatus, containers: frozenset[str], asked: Wish) -> PodStatus:
    """Return the status of a pod of which these containers are to have fresh runs, without any back-off."""
    found = {name: _afresh(known) for name, known in status.containers.items() if name in containers}
    running = [known.instance for known in found.values() if known.instance]
    return replace(
        status,
        containers={**status.containers, **found},
        replacing=tuple(dict.fromkeys((*status.replacing, *running))),
        rollout=_waiting_anew(status.rollout, asked),
        error=None,
    )


def as_new(status: PodStatus) -> PodStatus:
    """Return the status of a pod that is removed: if it comes back, nobody has stopped that one."""
    return replace(status, stopped=None, replacing=())


def without_failures(status: PodStatus) -> PodStatus:
    """Return a status whose containers start at once: other images are another try.

    What has done its work is not run again for that.
    """

    def forgiven(known: ContainerStatus) -> ContainerStatus:
        kept = known.exit if known.instance or (known.exit is not None and known.exit.clean) else None
        return replace(known, failures=0, retry_at=None, error=None, exit=kept)

    return replace(status, containers={name: forgiven(known) for name, known in status.containers.items()})


def _afresh(known: ContainerStatus) -> ContainerStatus:
    """Return the status of a container whose failures no longer count; one that runs keeps how it began.

    Without an exit, its next start is none that is counted, and an init container has its work to do again.
    """
    if known.instance:
        return replace(known, failures=0)
    return replace(known, failures=0, retry_at=None, error=None, exit=None, ended_boot="")


def _waiting_anew(rollout: Rollout | None, asked: Wish) -> Rollout | None:
    """Return a rollout whose wait, if it is in one, begins now: a person's restart is none of its faults."""
    if rollout is None or rollout.begun is None or rollout.outcome is not None:
        return rollout
    return replace(rollout, begun=asked.monotonic, boot_id=asked.boot_id, clean=False)
