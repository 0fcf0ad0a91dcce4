"""The actions of a plan: each is short, can be repeated, and has a sentence and an effect.

`reconcile.steps` carries them out. A dry run, and the tests that prove that plans converge, apply the effect.
"""

from __future__ import annotations

import signal
from typing import Any, ClassVar, NamedTuple

from msgspec import Struct
from msgspec.structs import asdict, replace

from tank_agent.journal.records import ContainerStatus, Exit, PodStatus
from tank_agent.reconcile.core import restart
from tank_agent.reconcile.core.hashes import container_hash, network_hash, status_to_start
from tank_agent.reconcile.core.observed import ImageState, Moment, ObservedImage, Run, Situation
from tank_agent.runtime.run import RunState, Stopping


class Action(Struct, frozen=True, kw_only=True):
    """One step for one pod."""

    sentence: ClassVar[str]
    effect: ClassVar[dict[str, Any]] = {}

    def describe(self) -> str:
        """Return the step as `tank plan` prints it."""
        return self.sentence.format_map(asdict(self))

    def expected(self, situation: Situation) -> Situation:
        """Return the situation after the step, if it succeeds at once."""
        return situation.seeing(**self.effect)


class Pull(Action, frozen=True, kw_only=True):
    """Fetch and unpack an image in the background, for the containers that need it."""

    sentence = "pull image {reference}"
    reference: str
    containers: tuple[str, ...]

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the image ready."""
        ready = dict.fromkeys(self.containers, ObservedImage(state=ImageState.READY))
        return situation.seeing(images={**situation.observed.images, **ready})


class MakeNetwork(Action, frozen=True, kw_only=True):
    """Make the pod's network namespace."""

    sentence = "make the network namespace"
    effect: ClassVar = {"network": "fresh"}


class ConvergeNetwork(Action, frozen=True, kw_only=True):
    """Change the pod's network, and the files that name its addresses, while containers run."""

    sentence = "bring the network up to date: {reason}"
    reason: str
    effect: ClassVar = {"network_change": None}


class RemoveNetwork(Action, frozen=True, kw_only=True):
    """Remove the pod's network namespace."""

    sentence = "remove the network namespace"
    effect: ClassVar = {"network": "absent"}


class Start(Action, frozen=True, kw_only=True):
    """Start a container."""

    sentence = "start container {container}"
    container: str

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with another run."""
        desired, observed, now = situation.desired, situation.observed, situation.now
        assert desired is not None
        container = next(c for c in desired.pod.containers if c.name == self.container)
        run = Run(
            id=f"{self.container}-{len(observed.runs)}-new",
            container=self.container,
            hash=container_hash(desired.pod, container),
            state=RunState.RUNNING,
        )
        before = status_to_start(situation.status, desired.pod, container)
        known = restart.after_start(before, run.id, now.boot_id, now.wall)
        network = "used" if observed.network == "fresh" else observed.network
        after = _remembering(situation, self.container, known)
        return after.seeing(runs=(*observed.runs, run), network=network)


class RunAction(Action, frozen=True, kw_only=True):
    """One step for one run of a container."""

    run: str
    container: str

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the run as it is after the step."""
        runs = situation.observed.runs
        return situation.seeing(
            runs=tuple(self.after(run, situation.now) if run.id == self.run else run for run in runs)
        )

    def after(self, run: Run, now: Moment) -> Run:
        """Return the run as it is after the step."""
        return replace(run, **self.effect)


class ChangeLive(RunAction, frozen=True, kw_only=True):
    """Change the limits of a run, or its stop settings, while it goes on."""

    sentence = "change container {container} while it runs: {reason}"
    reason: str
    # An empty hash stands for up-to-date settings.
    effect: ClassVar = {"settings": "", "drift": None, "failure": None}


class MountAgain(RunAction, frozen=True, kw_only=True):
    """Restore mounts of a run that were unmounted, or deleted, while it goes on."""

    sentence = "mount again in container {container}: {paths}"
    paths: str
    effect: ClassVar = {"unmounted": None}


class RecordOutOfMemory(RunAction, frozen=True, kw_only=True):
    """Record that a process of a run was killed for lack of memory, while the run goes on."""

    sentence = "record that container {container} ran out of memory"
    effect: ClassVar = {"out_of_memory": False}


class Stop(RunAction, frozen=True, kw_only=True):
    """Ask a run to end: with its stop signal now, with SIGKILL after its grace."""

    sentence = "stop container {container}"

    def after(self, run: Run, now: Moment) -> Run:
        """Return the run as ended."""
        stopping = run.stopping or Stopping(deadline=now.monotonic)
        exit_ = Exit(at=now.wall, signal=signal.SIGTERM)
        return replace(run, state=RunState.EXITED, exit=exit_, stopping=stopping)


class Kill(Stop, frozen=True, kw_only=True):
    """End a run with SIGKILL."""

    sentence = "kill container {container}"


class RemoveRun(RunAction, frozen=True, kw_only=True):
    """Remove the mounts, the cgroup and the files of an ended run."""

    sentence = "remove what is left of container {container}"

    def expected(self, situation: Situation) -> Situation:
        """Return the situation without the run."""
        return situation.seeing(runs=tuple(r for r in situation.observed.runs if r.id != self.run))


class Recorded(NamedTuple):
    """The status of a container after its end is recorded, and the event for that; no event if empty."""

    status: ContainerStatus
    event: str = ""
    message: str = ""


class RecordEnd(Action, frozen=True, kw_only=True):
    """Record the end of a run, and so when the container may start again."""

    container: str

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the end recorded."""
        recorded = self.recorded(situation.status, situation)
        return _remembering(situation, self.container, recorded.status)

    def recorded(self, status: PodStatus, situation: Situation) -> Recorded:
        """Return the container's new status and the event, for the loop and for the dry run."""
        known = status.containers[self.container]
        if situation.desired is not None:
            known = replace(known, network=network_hash(situation.desired.pod))
        return self.ended(known, situation)

    def ended(self, known: ContainerStatus, situation: Situation) -> Recorded:
        """Return the new status of a container that had this one."""
        raise NotImplementedError


class RecordExit(RecordEnd, frozen=True, kw_only=True):
    """Record the exit of a run. `stopped`: we asked it to end."""

    sentence = "record the end of container {container}"
    run: str
    exit: Exit
    stopped: bool = False

    def ended(self, known: ContainerStatus, situation: Situation) -> Recorded:
        """Return the status with another failure, or without one if we stopped the run."""
        how = restart.describe_exit(self.exit)
        if not self.stopped:
            return Recorded(restart.after_exit(known, self.exit, situation.backoff), "exited", how)
        if situation.cut_short:
            return Recorded(restart.after_drain(known, self.exit.at), "stopped", how)
        return Recorded(restart.after_stop(known), "stopped", how)


class RecordLost(RecordEnd, frozen=True, kw_only=True):
    """Record that a run in the journal has disappeared."""

    sentence = "record that container {container} is gone"

    def ended(self, known: ContainerStatus, situation: Situation) -> Recorded:
        """Return the status with another failure, unless the machine restarted."""
        now = situation.now
        if known.boot_id != now.boot_id:
            after = restart.after_reboot(known, now.wall)
            return Recorded(after, "lost", "ended when the machine restarted")
        why = "its files below run_dir were removed, so how it ended is not known"
        exit_ = Exit(at=now.wall, reason=why)
        return Recorded(restart.after_exit(known, exit_, situation.backoff), "lost", why)


class RecordUnstarted(RecordEnd, frozen=True, kw_only=True):
    """Record that a run whose start is in the journal never began, so that it does not count."""

    sentence = "record that container {container} did not start"
    run: str

    def ended(self, known: ContainerStatus, situation: Situation) -> Recorded:
        """Return the status without that start."""
        return Recorded(restart.never_began(known))


class Forget(Action, frozen=True, kw_only=True):
    """Forget the status of a pod that is gone."""

    sentence = "forget the pod"

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with nothing remembered."""
        return replace(situation, status=PodStatus(), remembered=False)


def _remembering(situation: Situation, name: str, container: ContainerStatus) -> Situation:
    containers = {**situation.status.containers, name: container}
    return replace(situation, status=replace(situation.status, containers=containers))
