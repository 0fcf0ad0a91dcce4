"""The order in which containers and pods start and end: readiness, and what waits for it. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from tank_agent.journal.records import ContainerStatus, DesiredPod, Exit, PodStatus
from tank_agent.reconcile.core.hashes import by_name, container_hashes, container_status, init_containers
from tank_agent.reconcile.core.observed import Run, Situation
from tank_agent.reconcile.core.restart import stays_down
from tank_agent.spec.model import Container, RestartPolicy

# A program that runs for so many seconds counts as ready if it has no probe.
READY_AFTER = 1.0


def is_current(run: Run, desired: DesiredPod) -> bool:
    """Return whether a run is of its container as it is specified now, and of the image that it must run.

    Not one in whose place a person wants another.
    """
    if run.replaced:
        return False
    if run.hash != container_hashes(desired.pod).get(run.container):
        return False
    pin = desired.images.get(run.container, "") if desired.images else ""
    return not pin or pin == run.digest


def is_over(container: Container, known: ContainerStatus, desired: DesiredPod, boot_id: str) -> bool:
    """Return whether a container without a run starts no more, until its spec or its image changes.

    An init container that ended well has done its work for this boot.
    """
    exit_, policy = _last_exit(container, known, desired), desired.pod.restart
    if exit_ is None:
        return False
    if not container.init:
        return stays_down(exit_, policy)
    return known.ended_boot == boot_id if exit_.clean else policy is RestartPolicy.NEVER


def _last_exit(container: Container, known: ContainerStatus, desired: DesiredPod) -> Exit | None:
    """Return how a container ended last; None also if that was another image than it must run now."""
    pin = desired.images.get(container.name, "")
    return None if pin and known.digest and pin != known.digest else known.exit


def never_starts(desired: DesiredPod, status: PodStatus, going_on: Collection[str]) -> dict[str, str]:
    """Return the containers that wait for one that failed and is not tried again, each with the name of that.

    `going_on` are the containers with a run.
    """
    pod, found = desired.pod, dict[str, str]()
    if pod.restart is not RestartPolicy.NEVER:
        return found
    exits = {one.name: _last_exit(one, container_status(status, pod, one), desired) for one in pod.containers}
    failed = {name for name, exit_ in exits.items() if exit_ and not exit_.clean and name not in going_on}
    waiting = [one for one in pod.containers if one.name not in going_on and exits[one.name] is None]
    init = [one.name for one in init_containers(pod)]
    first = next((at for at, name in enumerate(init) if name in failed), None)
    if first is not None:
        # All others come after it, and init containers that stand behind it.
        before = frozenset(init[:first])
        found = {one.name: init[first] for one in waiting if one.name not in before}
    after: dict[str, list[str]] = {}
    for one in waiting:
        for name in one.after if one.name not in found else ():
            after.setdefault(name, []).append(one.name)
    # Who waits for one that waits for it never starts, either.
    causes = [*sorted(failed), *found]
    while causes:
        cause = causes.pop()
        fresh = {name: cause for name in after.get(cause, ()) if name not in found}
        found |= fresh
        causes += fresh
    return found


def missing(
    desired: DesiredPod, status: PodStatus, runs: Sequence[Run], boot_id: str
) -> tuple[Container, ...]:
    """Return the containers that have no run as they are specified now, and that may still start.

    The plan needs the images of these, and of no others. Init containers are only for others that start.
    """
    going_on = {run.container for run in runs if run.is_alive and is_current(run, desired)}
    pod = desired.pod
    if len(going_on) == len(pod.containers):
        return ()
    never = never_starts(desired, status, going_on)
    found = [
        container
        for container in pod.containers
        if container.name not in going_on
        and container.name not in never
        and not is_over(container, container_status(status, pod, container), desired, boot_id)
    ]
    return tuple(found) if any(not container.init for container in found) else ()


def current_run(container: Container, situation: Situation) -> Run | None:
    """Return the run of a container that goes on as it is specified now."""
    desired = situation.desired
    assert desired is not None
    found = (run for run in situation.observed.runs if run.container == container.name and run.is_alive)
    return next((run for run in found if is_current(run, desired)), None)


def steady_since(container: Container, situation: Situation) -> float | None:
    """Return since when a container is well (monotonic), None if it is not.

    Since ever, if it ended as it should; without a probe, since it runs.
    """
    desired = situation.desired
    assert desired is not None
    run = current_run(container, situation)
    if run is None:
        known = container_status(situation.status, desired.pod, container)
        ended = not known.instance and known.exit is not None and known.exit.clean
        over = ended and is_over(container, known, desired, situation.now.boot_id)
        return -math.inf if over else None
    if container.init:
        return None
    return run.alive_since if run.probed is None else run.probed.steady_since


def unready(container: Container, situation: Situation) -> str:
    """Return in a word why a container is not ready; empty if it is.

    Ready is: an init container that ended well, one with a probe that is healthy, and any other that has run
    for a second.
    """
    run = current_run(container, situation)
    if run is not None and run.probed is not None:
        return "" if run.probed.health.state == "healthy" else run.probed.health.state
    since = steady_since(container, situation)
    if since is None:
        return "running" if run is not None else "not running"
    return "" if situation.now.monotonic - since >= READY_AFTER else "starting"


def unready_pod(situation: Situation) -> str:
    """Return in a word why a pod is not ready; empty if all of its containers are."""
    if situation.desired is None:
        return "leaving"
    if situation.is_stopped:
        return "stopped"
    job = situation.status.job
    if situation.desired.pod.schedule is not None and (job is None or job.current is None):
        # Nobody waits until the night for a job.
        return ""
    words = (unready(container, situation) for container in concerned(situation))
    return next(filter(None, words), "")


def concerned(situation: Situation) -> tuple[Container, ...]:
    """Return the containers that say how a pod is: init containers only while others are still to start."""
    desired = situation.desired
    assert desired is not None
    pod, runs = desired.pod, situation.observed.runs
    if not any(container.init for container in pod.containers):
        return pod.containers
    due = missing(desired, situation.status, runs, situation.now.boot_id)
    with_runs = {run.container for run in runs}
    return tuple(found for found in pod.containers if due or not found.init or found.name in with_runs)


def waits_for(container: Container, situation: Situation) -> Iterator[str]:
    """Yield in words what a container must wait for before it starts."""
    desired = situation.desired
    assert desired is not None
    for pod, state in situation.observed.awaited.items():
        yield f"pod {pod}: {state}"
    for found in init_containers(desired.pod):
        if found.name == container.name:
            break
        if why := unready(found, situation):
            # Those behind it wait as well.
            yield f"init container {found.name}: {why}"
            return
    if container.init:
        # What it prepares for must not run meanwhile.
        leaving = {run.container for run in situation.observed.runs if not is_current(run, desired)}
        yield from (f"container {name}: stopping" for name in sorted(leaving - {container.name}))
    for name in container.after:
        other = by_name(desired.pod).get(name)
        if other is not None and (why := unready(other, situation)):
            yield f"container {name}: {why}"
    if container.name in situation.observed.filling:
        yield situation.observed.filling[container.name]


def ends_as_a_whole(situation: Situation) -> bool:
    """Return whether a person wants fresh runs of all that runs: none starts before the last has ended."""
    desired, runs = situation.desired, situation.observed.runs
    if desired is None or not any(run.replaced for run in runs):
        return False
    return not any(run.is_alive and is_current(run, desired) for run in runs)


def waits_a_moment(situation: Situation) -> bool:
    """Return whether a container waits for one that runs, and only has to run for a while."""
    desired = situation.desired
    assert desired is not None
    return "starting" in situation.observed.awaited.values() or any(
        unready(container, situation) == "starting"
        and (run := current_run(container, situation)) is not None
        and run.probed is None
        for container in desired.pod.containers
    )


def last_first(leaving: Collection[Run]) -> frozenset[str]:
    """Return the ids of the runs that may be stopped before the others: none of these started after them."""
    if not leaving:
        return frozenset()
    needed = {name for run in leaving for name in run.after if name != run.container}
    found = frozenset(run.id for run in leaving if run.container not in needed)
    # A circle, such as of runs from before and after a change, has no order.
    return found or frozenset(run.id for run in leaving)
