"""The phase of a pod and of each container, as users read it; a pure function of the plan's inputs."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from msgspec import Struct

from tank_agent.image.config import PullProgress
from tank_agent.journal.records import ContainerStatus, DesiredPod, PodStatus
from tank_agent.reconcile.core.hashes import container_hash, container_status, settings_hash
from tank_agent.reconcile.core.observed import ImageState, ObservedImage, Run, Situation
from tank_agent.reconcile.core.restart import describe_exit, stays_down, waits_until
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
    COMPLETED = "completed"
    FAILED = "failed"
    DEGRADED = "degraded"


_UNWELL = {Phase.BACKING_OFF, Phase.FAILED}
_UNDER_WAY = (Phase.STOPPING, Phase.PULLING, Phase.STARTING, Phase.PENDING)
# A pod is in the first of these phases that one of its containers is in.
_ORDER = (*_UNDER_WAY, Phase.RUNNING, Phase.BACKING_OFF, Phase.FAILED)


class ContainerView(Struct, frozen=True, kw_only=True):
    """One container as `tank status` shows it. `next_retry` is Unix time.

    `progress` is that of its image's pull: None without a pull, or before its size is known.
    """

    name: str
    phase: Phase
    run: Run | None
    status: ContainerStatus
    next_retry: float | None = None
    error: str | None = None
    progress: PullProgress | None = None


class PodView(Struct, frozen=True, kw_only=True):
    """A pod as `tank status` shows it."""

    phase: Phase
    containers: tuple[ContainerView, ...]
    error: str | None
    next_retry: float | None

    @property
    def settled(self) -> bool:
        """Return whether nothing is under way, nor due without a new event."""
        return self.phase not in _UNDER_WAY


def view_pod(situation: Situation) -> PodView:
    """Return what to show for one pod."""
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
    views = tuple(_view(desired, container, situation) for container in desired.pod.containers)
    retries = [*tries, *(view.next_retry for view in views if view.next_retry is not None)]
    change = situation.observed.network_change
    network_error = change.error if change is not None and situation.observed.runs else ""
    if network_error and change is not None:
        retries.append(now.wall + max(0.0, change.retry_at - now.monotonic))
    phases = {view.phase for view in views}
    phase = next((phase for phase in _ORDER if phase in phases), Phase.COMPLETED)
    unwell = bool(network_error or troubles or phases & _UNWELL)
    unwell = unwell or any(view.phase is Phase.RUNNING and view.error for view in views)
    errors = [desired.error, status.error, network_error, *(view.error for view in views), *troubles]
    return PodView(
        phase=Phase.DEGRADED if phase is Phase.RUNNING and unwell else phase,
        containers=views,
        error=_lines(errors),
        next_retry=min(retries, default=None),
    )


def _lines(errors: Sequence[str | None]) -> str | None:
    return "\n".join(dict.fromkeys(text for text in errors if text)) or None


def _undesired(run: Run, status: PodStatus, phase: Phase) -> ContainerView:
    known = status.containers.get(run.container, ContainerStatus(hash=run.hash))
    return ContainerView(name=run.container, phase=phase, run=run, status=known)


def _view(desired: DesiredPod, container: Container, situation: Situation) -> ContainerView:
    known = container_status(situation.status, desired.pod, container)
    run = _shown_run([run for run in situation.observed.runs if run.container == container.name])
    image, retry = situation.observed.images.get(container.name), None
    error = _image_error(image)
    if run is not None:
        error = error or run.error(settings_hash(container))
        waits_for_image = image is not None and image.state is not ImageState.READY
        phase = _phase_of_run(run, container_hash(desired.pod, container), waits_for_image=waits_for_image)
        is_tried_again = phase is Phase.STARTING
    else:
        phase, retry = _phase_without_run(known, desired.pod.restart, image, situation)
        is_tried_again = phase is not Phase.COMPLETED
    if run is None and phase in _UNWELL:
        error = error or known.error or _ended_badly(container, known)
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
    )


def _image_error(image: ObservedImage | None) -> str | None:
    """Return the error of an image's last pull, or the trouble of the pull that is under way."""
    if image is None or image.state not in (ImageState.FAILED, ImageState.PULLING):
        return None
    return (image.progress.trouble if image.progress is not None else "") or image.error


def _phase_of_run(run: Run, hash_: str, *, waits_for_image: bool) -> Phase:
    if run.state is RunState.ORPHANED or run.stopping is not None:
        return Phase.STOPPING
    if run.state is not RunState.RUNNING:
        return Phase.STARTING
    if run.hash == hash_:
        return Phase.RUNNING
    # An outdated run goes on until its successor's image is here.
    return Phase.PULLING if waits_for_image else Phase.STOPPING


def _phase_without_run(
    known: ContainerStatus, policy: RestartPolicy, image: ObservedImage | None, situation: Situation
) -> tuple[Phase, float | None]:
    """Return the phase of a container that has no run, and when it is tried next (Unix time)."""
    now = situation.now
    if stays_down(known.exit, policy):
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
    if status.exit is None or status.exit.clean:
        return None
    return f"container {container.name}: {describe_exit(status.exit)}"
