"""The phase of a pod and of each container, as users read it; a pure function of the plan's inputs."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence, Set

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.image.config import PullProgress
from tank_agent.journal.records import ContainerStatus, DesiredPod, Health, PodStatus
from tank_agent.reconcile.core.hashes import container_status, settings_hash
from tank_agent.reconcile.core.jobs import JobView, failure, is_arranged, is_idle, view_job
from tank_agent.reconcile.core.observed import ImageState, ObservedImage, Run, Situation
from tank_agent.reconcile.core.order import is_current, is_over, missing, never_starts, unready_pod, waits_for
from tank_agent.reconcile.core.restart import describe_exit, waits_until
from tank_agent.runtime.run import RunState
from tank_agent.spec.model import Container, RestartPolicy

# For containers that run, though the journal never had them.
UNCLAIMED = (
    "it runs, and the journal does not know it; it goes on, and nobody restarts it\n"
    "  restore the journal, put its file back, or `tank apply` it; `tank delete` ends it"
)


class Phase(enum.StrEnum):
    """The state of a container or a pod, as `tank status` prints it."""

    PENDING = "pending"
    PULLING = "pulling"
    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing-off"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SCHEDULED = "scheduled"
    COMPLETED = "completed"
    FAILED = "failed"
    DEGRADED = "degraded"
    # Of pods that files declare for other machines: no situation has it.
    ELSEWHERE = "elsewhere"


_UNWELL = {Phase.BACKING_OFF, Phase.FAILED}
_UNDER_WAY = (Phase.STOPPING, Phase.PULLING, Phase.STARTING, Phase.PENDING)
_WORST_FIRST = ("unhealthy", "starting", "healthy")
# A pod is in the first of these phases that one of its containers is in.
_ORDER = (*_UNDER_WAY, Phase.RUNNING, Phase.BACKING_OFF, Phase.FAILED)
_RESTS = frozenset((Phase.SCHEDULED, Phase.COMPLETED, Phase.FAILED))


class ContainerView(Struct, frozen=True, kw_only=True):
    """One container as `tank status` shows it. `next_retry` is Unix time.

    `progress` is that of its image's pull: None without a pull, or before its size is known. `health` is None
    without a probe.
    """

    name: str
    phase: Phase
    run: Run | None
    status: ContainerStatus
    next_retry: float | None = None
    error: str | None = None
    progress: PullProgress | None = None
    health: Health | None = None


class PodView(Struct, frozen=True, kw_only=True):
    """A pod as `tank status` shows it.

    `health` is "none", "starting", "healthy" or "unhealthy"; `waits` are sentences on what it waits for.
    `job` is None for a pod that is no job. `stopped` is when a person stopped it (Unix time).
    `ready`: all of its containers are.
    """

    phase: Phase
    containers: tuple[ContainerView, ...]
    error: str | None
    next_retry: float | None
    health: str = "none"
    waits: tuple[str, ...] = ()
    job: JobView | None = None
    stopped: float | None = None
    ready: bool = False

    @property
    def settled(self) -> bool:
        """Return whether nothing is under way, nor due without a new event."""
        return self.phase not in _UNDER_WAY


class _Outlook(Struct, frozen=True, kw_only=True):
    """The containers that may still start, and those that never do, each with the failed one it waits for."""

    due: tuple[Container, ...]
    stuck: Mapping[str, str]


def view_pod(situation: Situation) -> PodView:
    """Return what to show for one pod; of one with an upcoming update, what that waits for."""
    if situation.upcoming is None:
        return _view_pod(situation)
    view, before = _view_pod(situation.of_update), _view_pod(situation)
    errors = [*(view.error or "").splitlines(), *(before.error or "").splitlines()]
    retries = [retry for retry in (view.next_retry, before.next_retry) if retry is not None]
    # Counts and digests are of what runs.
    known = {one.name: one.status for one in before.containers}
    return replace(
        view,
        containers=tuple(replace(one, status=known.get(one.name, one.status)) for one in view.containers),
        error=_lines(errors),
        next_retry=min(retries, default=None),
        waits=(_upcoming(situation), *before.waits),
    )


def _upcoming(situation: Situation) -> str:
    """Return in words what an update waits for, and what runs until then."""
    upcoming, before = situation.upcoming, situation.desired
    assert upcoming is not None and before is not None
    images = [
        container.image
        for container in upcoming.desired.pod.containers
        if container.image is not None
        and container.name in upcoming.images
        and upcoming.images[container.name].state is not ImageState.READY
    ]
    what = f"image {', '.join(dict.fromkeys(images))}" if images else "a look at the room for its snapshots"
    return f"waits for {what}; generation {before.generation} runs until then"


def _view_pod(situation: Situation) -> PodView:
    desired, status = situation.desired, situation.status
    now = situation.now
    tries = [now.wall + max(0.0, found.retry_at - now.monotonic) for found in situation.troubles]
    troubles = [found.error for found in situation.troubles]
    if situation.unclaimed or desired is None:
        phase = Phase.RUNNING if situation.unclaimed else Phase.STOPPING
        return PodView(
            phase=Phase.DEGRADED if situation.unclaimed else Phase.STOPPING,
            containers=tuple(_undesired(run, status, phase) for run in situation.observed.runs),
            error=_lines([UNCLAIMED if situation.unclaimed else status.error, *troubles]),
            next_retry=min(tries, default=None),
        )
    if situation.is_stopped:
        return _view_stopped(desired, situation)
    outlook = _outlook(situation)
    views = tuple(_view(desired, container, situation, outlook) for container in desired.pod.containers)
    retries = [*tries, *(view.next_retry for view in views if view.next_retry is not None)]
    change = situation.observed.network_change
    network_error = change.error if change is not None and situation.observed.runs else ""
    if network_error and change is not None:
        retries.append(now.wall + max(0.0, change.retry_at - now.monotonic))
    phases = {view.phase for view in views}
    idle = is_idle(situation)
    phase = _of_pod(phases)
    if idle and phases <= _RESTS:
        phase = Phase.SCHEDULED if is_arranged(situation) else Phase.PENDING
    job = situation.observed.copying
    copy_error = job.error if job is not None and job.kind == "put-back" else ""
    if copy_error and job is not None:
        retries.append(now.wall + max(0.0, job.retry_at - now.monotonic))
    failed = _failed_update(situation)
    unwell = bool(network_error or troubles or failed or phases & _UNWELL)
    unwell = unwell or any(view.phase is Phase.RUNNING and view.error for view in views)
    errors = [
        desired.error,
        status.error,
        copy_error,
        failed,
        failure(situation),
        network_error,
        # How containers of a run ended that is over is told with that run.
        *(view.error for view in views if not (idle and view.phase is Phase.FAILED)),
        *troubles,
    ]
    if situation.blocked is not None:
        retries.append(situation.blocked.retry_at)
    states = {view.health.state for view in views if view.health is not None}
    return PodView(
        phase=Phase.DEGRADED if phase is Phase.RUNNING and unwell else phase,
        containers=views,
        error=_lines(errors),
        next_retry=min(retries, default=None),
        health=next((state for state in _WORST_FIRST if state in states), "none"),
        waits=tuple(dict.fromkeys(_waits(situation, outlook))),
        job=view_job(situation),
        ready=not idle and not unready_pod(situation),
    )


def _view_stopped(desired: DesiredPod, situation: Situation) -> PodView:
    """Return what to show for a pod that a person stopped: what still ends, and nothing that once failed."""
    status, now, runs = situation.status, situation.now, situation.observed.runs
    tries = [now.wall + max(0.0, found.retry_at - now.monotonic) for found in situation.troubles]
    ending = {run.container: run for run in runs}
    views = [
        ContainerView(
            name=spec.name,
            phase=Phase.STOPPING if spec.name in ending else Phase.STOPPED,
            run=ending.get(spec.name),
            status=container_status(status, desired.pod, spec),
        )
        for spec in desired.pod.containers
    ]
    declared = {spec.name for spec in desired.pod.containers}
    views += [_undesired(run, status, Phase.STOPPING) for run in runs if run.container not in declared]
    return PodView(
        phase=Phase.STOPPING if runs else Phase.STOPPED,
        containers=tuple(views),
        error=_lines([desired.error, status.error, *(found.error for found in situation.troubles)]),
        next_retry=min(tries, default=None),
        job=view_job(situation),
        stopped=status.stopped,
    )


def _of_pod(phases: Set[Phase]) -> Phase:
    """Return the phase of a pod whose containers are in these."""
    if phases & _UNWELL and Phase.RUNNING not in phases:
        # What waits for a container that fails is not why the pod is not up.
        phases = phases - {Phase.PENDING}
    return next((phase for phase in _ORDER if phase in phases), Phase.COMPLETED)


def _waits(situation: Situation, outlook: _Outlook) -> Iterator[str]:
    """Yield sentences on what the containers that are to start wait for."""
    with_runs = {run.container for run in situation.observed.runs}
    job = situation.observed.copying
    if job is not None and job.state == "running" and job.kind != "check":
        yield "waits for the snapshot of its volumes" + (" to be put back" if job.kind == "put-back" else "")
    if is_idle(situation):
        if not is_arranged(situation):
            yield "waits for the clock of this machine to be set"
        return
    for container in outlook.due:
        if container.name not in with_runs:
            for what in waits_for(container, situation):
                yield f"waits for {what}" if what.startswith("pod ") else f"{container.name} waits for {what}"


def _failed_update(situation: Situation) -> str:
    """Return in words which update failed, or cannot begin, and what to do about it."""
    desired, status = situation.desired, situation.status
    assert desired is not None
    hold, rollout = desired.hold, status.rollout
    if situation.blocked is not None:
        return f"the update to generation {situation.blocked.generation} waits: {situation.blocked.error}"
    if hold is not None and hold.kind == "quarantined":
        bad = next((bad for bad in reversed(status.bad) if bad.generation == hold.failed), None)
        why = f": {bad.reason}" if bad is not None else ""
        return (
            f"generation {hold.failed} failed as an update{why}; generation {hold.generation} runs again\n"
            f"  mend its file, or `tank resume {desired.name}` tries it again; see `tank why {desired.name}`"
        )
    if rollout is not None and rollout.generation == desired.generation and rollout.outcome == "failed":
        return f"its update failed: {rollout.reason}\n  see `tank why {desired.name}`"
    return ""


def _lines(errors: Sequence[str | None]) -> str | None:
    return "\n".join(dict.fromkeys(text for text in errors if text)) or None


def _undesired(run: Run, status: PodStatus, phase: Phase) -> ContainerView:
    known = status.containers.get(run.container, ContainerStatus(hash=run.hash))
    return ContainerView(name=run.container, phase=phase, run=run, status=known)


def _view(
    desired: DesiredPod, container: Container, situation: Situation, outlook: _Outlook
) -> ContainerView:
    known = container_status(situation.status, desired.pod, container)
    run = _shown_run([run for run in situation.observed.runs if run.container == container.name])
    current = run is not None and is_current(run, desired)
    image, retry = situation.observed.images.get(container.name), None
    error = _image_error(image)
    if run is not None:
        error = error or run.error(settings_hash(container))
        waits_for_image = image is not None and image.state is not ImageState.READY
        phase = _phase_of_run(run, current=current, waits_for_image=waits_for_image)
        is_tried_again = phase is Phase.STARTING
    else:
        phase, retry = (
            (_phase_of_last_run(known), None)
            if is_idle(situation)
            else _phase_without_run(container, known, situation, outlook)
        )
        is_tried_again = phase is not Phase.COMPLETED
    if run is None and phase in _UNWELL:
        error = error or known.error or _ended_badly(container, known) or _never(container, outlook)
    elif is_tried_again:
        # Why the last try failed is true until one succeeds.
        error = error or known.error or (_ended_badly(container, known) if known.failures else None)
    return ContainerView(
        name=container.name,
        phase=phase,
        run=run,
        status=known,
        next_retry=retry,
        error=error,
        progress=image.progress if image is not None and phase is Phase.PULLING else None,
        health=run.probed.health if run is not None and run.probed is not None else None,
    )


def _image_error(image: ObservedImage | None) -> str | None:
    """Return the error of an image's last pull, or the trouble of the pull that is under way."""
    if image is None or image.state not in (ImageState.FAILED, ImageState.PULLING):
        return None
    return (image.progress.trouble if image.progress is not None else "") or image.error


def _phase_of_run(run: Run, *, current: bool, waits_for_image: bool) -> Phase:
    if run.state is RunState.ORPHANED or run.stopping is not None:
        return Phase.STOPPING
    if run.state is not RunState.RUNNING:
        return Phase.STARTING
    if current:
        return Phase.RUNNING
    # An outdated run goes on until its successor's image is here.
    return Phase.PULLING if waits_for_image else Phase.STOPPING


def _phase_without_run(
    container: Container, known: ContainerStatus, situation: Situation, outlook: _Outlook
) -> tuple[Phase, float | None]:
    """Return the phase of a container that has no run, and when it is tried next (Unix time)."""
    now, desired = situation.now, situation.desired
    assert desired is not None
    if container.name in outlook.stuck:
        return Phase.FAILED, None
    image, over = (
        situation.observed.images.get(container.name),
        is_over(container, known, desired, now.boot_id),
    )
    # An init container is not for itself: there may be nothing left to prepare for.
    if over or (container.init and not outlook.due):
        failed = over and not (known.exit is not None and known.exit.clean)
        return (Phase.FAILED if failed else Phase.COMPLETED), None
    until = waits_until(known, now.wall, situation.backoff)
    if until is not None:
        return Phase.BACKING_OFF, until
    if image is not None and image.state is ImageState.PULLING:
        return Phase.PULLING, None
    if image is not None and image.state is ImageState.FAILED and image.retry_at is not None:
        return Phase.BACKING_OFF, now.wall + max(0.0, image.retry_at - now.monotonic)
    return Phase.PENDING, None


def _phase_of_last_run(known: ContainerStatus) -> Phase:
    """Return the phase of a job's container between runs."""
    if known.exit is None:
        return Phase.SCHEDULED
    return Phase.COMPLETED if known.exit.clean else Phase.FAILED


def _outlook(situation: Situation) -> _Outlook:
    desired, status, runs = situation.desired, situation.status, situation.observed.runs
    assert desired is not None
    never = desired.pod.restart is RestartPolicy.NEVER
    return _Outlook(
        due=missing(desired, status, runs, situation.now.boot_id),
        stuck=never_starts(desired, status, {run.container for run in runs}) if never else {},
    )


def _never(container: Container, outlook: _Outlook) -> str | None:
    why = outlook.stuck.get(container.name)
    return f"container {container.name} does not start, since container {why} failed" if why else None


def _shown_run(runs: list[Run]) -> Run | None:
    order = (RunState.RUNNING, RunState.ORPHANED, RunState.PARTIAL, RunState.EXITED)
    return min(runs, key=lambda run: order.index(run.state), default=None)


def _ended_badly(container: Container, status: ContainerStatus) -> str | None:
    if status.exit is None or status.exit.clean:
        return None
    return f"container {container.name}: {describe_exit(status.exit)}"
