"""The one word that a user reads for a pod and for each container; a pure function of the plan's inputs."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence

from msgspec import Struct

from tank_agent.image.config import PullProgress
from tank_agent.journal.records import ContainerStatus, DesiredPod, PodStatus
from tank_agent.reconcile.core.hashes import container_hash, container_status, settings_hash
from tank_agent.reconcile.core.observed import ImageState, ObservedImage, Run, Situation
from tank_agent.reconcile.core.restart import describe_exit, is_over, waits_until
from tank_agent.runtime.run import RunState
from tank_agent.spec.model import Container, RestartPolicy

# Of containers that run, though they are not in the journal, and never were.
UNCLAIMED = (
    "it runs, and the journal does not know it; it goes on, and nobody restarts it\n"
    "  restore the journal, put its file back, or `tank apply` it; `tank delete` ends it"
)


class Phase(enum.StrEnum):
    """DESIGN section 6."""

    PENDING = "pending"
    PULLING = "pulling"
    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing-off"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    DEGRADED = "degraded"


class ContainerView(Struct, frozen=True, kw_only=True):
    """One container as `tank status` shows it. `next_retry` is Unix time.

    `progress` is of its image: None if nothing is pulled, or nobody knows yet how much.
    """

    name: str
    phase: Phase
    run: Run | None
    status: ContainerStatus
    next_retry: float | None = None
    error: str | None = None
    progress: PullProgress | None = None


class PodView(Struct, frozen=True, kw_only=True):
    """A pod as `tank status` shows it. `settled`: nothing is under way, nor due without a new event."""

    phase: Phase
    containers: tuple[ContainerView, ...]
    error: str | None
    next_retry: float | None

    @property
    def settled(self) -> bool:
        """Return whether the pod waits for nothing that the loop itself is doing now."""
        return self.phase not in (Phase.PENDING, Phase.PULLING, Phase.STARTING, Phase.STOPPING)


def view_pod(situation: Situation) -> PodView:
    """Return what to show for one pod."""
    desired, status = situation.desired, situation.status
    now = situation.now
    tries = [now.wall + max(0.0, found.retry_at - now.monotonic) for found in situation.troubles]
    troubles = [found.error for found in situation.troubles]
    if situation.unclaimed:
        known = tuple(_leaving(run, status, Phase.RUNNING) for run in situation.observed.runs)
        return PodView(
            phase=Phase.DEGRADED,
            containers=known,
            error=_lines([UNCLAIMED, *troubles]),
            next_retry=min(tries, default=None),
        )
    if desired is None:
        leaving = tuple(_leaving(run, status) for run in situation.observed.runs)
        return PodView(
            phase=Phase.STOPPING,
            containers=leaving,
            error=_lines([status.error, *troubles]),
            next_retry=min(tries, default=None),
        )
    views = tuple(_view(desired, container, situation) for container in desired.pod.containers)
    retries = [*tries, *(view.next_retry for view in views if view.next_retry is not None)]
    change = situation.observed.network_change
    network_error = change.error if change is not None and situation.observed.runs else ""
    if network_error and change is not None:
        retries.append(now.wall + max(0.0, change.retry_at - now.monotonic))
    phase = _combine({view.phase for view in views})
    unwell = bool(network_error or troubles) or any(v.phase is Phase.RUNNING and v.error for v in views)
    return PodView(
        phase=Phase.DEGRADED if phase is Phase.RUNNING and unwell else phase,
        containers=views,
        error=_lines(
            [desired.error, status.error, network_error, *(view.error for view in views), *troubles]
        ),
        next_retry=min(retries, default=None),
    )


def _lines(errors: Sequence[str | None]) -> str | None:
    return "\n".join(dict.fromkeys(text for text in errors if text)) or None


def _leaving(run: Run, status: PodStatus, phase: Phase = Phase.STOPPING) -> ContainerView:
    known = status.containers.get(run.container, ContainerStatus(hash=run.hash))
    return ContainerView(name=run.container, phase=phase, run=run, status=known)


def _view(desired: DesiredPod, container: Container, situation: Situation) -> ContainerView:
    hash_ = container_hash(desired.pod, container)
    known = container_status(situation.status, desired.pod, container)
    run = _shown_run([run for run in situation.observed.runs if run.container == container.name])
    image = situation.observed.images.get(container.name)
    error = _image_error(image)
    if run is not None:
        error = error or run.error(settings_hash(container))
        phase = _phase_of_run(
            run, hash_, waits_for_image=image is not None and image.state is not ImageState.READY
        )
        if phase is Phase.STARTING:
            error = error or _last_error(container, known)
        return ContainerView(
            name=container.name,
            phase=phase,
            run=run,
            status=known,
            error=error,
            progress=_progress(phase, image),
        )
    phase, retry = _phase_without_run(known, desired.pod.restart, image, situation)
    if phase in (Phase.FAILED, Phase.BACKING_OFF):
        error = error or known.error or _ended_badly(container, known)
    elif phase is not Phase.COMPLETED:
        error = error or _last_error(container, known)
    return ContainerView(
        name=container.name,
        phase=phase,
        run=None,
        status=known,
        next_retry=retry,
        error=error,
        progress=_progress(phase, image),
    )


def _image_error(image: ObservedImage | None) -> str | None:
    """Return what is wrong with an image, be it with the try that is under way."""
    if image is None or image.state not in (ImageState.FAILED, ImageState.PULLING):
        return None
    return (image.progress.trouble if image.progress is not None else "") or image.error


def _last_error(container: Container, status: ContainerStatus) -> str | None:
    """Return why a container that is tried again did not run, or not for long: true until it has."""
    return status.error or (_ended_badly(container, status) if status.failures else None)


def _progress(phase: Phase, image: ObservedImage | None) -> PullProgress | None:
    return image.progress if image is not None and phase is Phase.PULLING else None


def _phase_of_run(run: Run, hash_: str, *, waits_for_image: bool) -> Phase:
    if run.state is RunState.ORPHANED or run.stopping is not None:
        return Phase.STOPPING
    if run.state is not RunState.RUNNING:
        return Phase.STARTING
    if run.hash == hash_:
        return Phase.RUNNING
    # What ran goes on until its successor's image is here.
    return Phase.PULLING if waits_for_image else Phase.STOPPING


def _phase_without_run(
    known: ContainerStatus, policy: RestartPolicy, image: ObservedImage | None, situation: Situation
) -> tuple[Phase, float | None]:
    """Return the phase of a container that has no run, and when it is tried next (Unix time)."""
    now = situation.now
    if is_over(known.exit, policy):
        return (Phase.COMPLETED if known.exit is not None and known.exit.clean else Phase.FAILED), None
    until = waits_until(known, now.wall, situation.backoff)
    if until is not None:
        return Phase.BACKING_OFF, until
    if image is not None and image.state is ImageState.PULLING:
        return Phase.PULLING, None
    if image is not None and image.state is ImageState.FAILED and image.retry_at is not None:
        return Phase.BACKING_OFF, now.wall + max(0.0, image.retry_at - now.monotonic)
    return Phase.PENDING, None


def _shown_run(runs: list[Run]) -> Run | None:
    order = (RunState.RUNNING, RunState.ORPHANED, RunState.PARTIAL, RunState.EXITED)
    return min(runs, key=lambda run: order.index(run.state), default=None)


def _ended_badly(container: Container, status: ContainerStatus) -> str | None:
    exit_ = status.exit
    bad = exit_ is not None and not exit_.clean
    return f"container {container.name}: {describe_exit(exit_)}" if exit_ is not None and bad else None


def _combine(phases: Collection[Phase]) -> Phase:
    """Return the pod's phase from its containers': first what is under way, then what is wrong."""
    for under_way in (Phase.STOPPING, Phase.PULLING, Phase.STARTING, Phase.PENDING):
        if under_way in phases:
            return under_way
    unwell = {Phase.BACKING_OFF, Phase.FAILED}
    if Phase.RUNNING in phases:
        return Phase.DEGRADED if unwell & set(phases) else Phase.RUNNING
    for final in (Phase.BACKING_OFF, Phase.FAILED):
        if final in phases:
            return final
    return Phase.COMPLETED
