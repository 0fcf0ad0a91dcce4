"""The actions of a plan: each is short, can be repeated, and has a sentence and an effect.

`reconcile.steps` carries them out. A dry run, and the tests that prove that plans converge, apply the effect.
"""

from __future__ import annotations

import math
import signal
from typing import Any, ClassVar, NamedTuple

from msgspec import Struct
from msgspec.structs import asdict, replace

from tank_agent.journal.records import ContainerStatus, Exit, Outcome, PodStatus, Rollout
from tank_agent.reconcile.core import restart, rollout
from tank_agent.reconcile.core.hashes import (
    container_hash,
    live_contents,
    network_hash,
    status_to_start,
)
from tank_agent.reconcile.core.observed import (
    CopyKind,
    ImageState,
    Moment,
    ObservedImage,
    Run,
    Situation,
)
from tank_agent.reconcile.core.observed import SnapshotJob as Job
from tank_agent.reconcile.core.order import is_over
from tank_agent.runtime.run import RunState, Stopping
from tank_agent.spec.model import Pod


class Action(Struct, frozen=True, kw_only=True):
    """One step for one pod; `word` is its form in a proof (`reconcile.core.proof`), if it is part of one."""

    sentence: ClassVar[str]
    word: ClassVar[str | None] = None
    effect: ClassVar[dict[str, Any]] = {}

    def describe(self) -> str:
        """Return the step as `tank plan` prints it."""
        words = asdict(self).items()
        return self.sentence.format_map(
            {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in words}
        )

    def expected(self, situation: Situation) -> Situation:
        """Return the situation after the step, if it succeeds at once."""
        return situation.seeing(**self.effect)


class Record(Action, frozen=True, kw_only=True):
    """A step that only changes the journal, and that `tank plan` does not show."""


class Follow(Record, frozen=True, kw_only=True):
    """Begin, or go on with, the rollout of the desired generation."""

    sentence = "follow generation {generation}"
    generation: int

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the rollout in the journal."""
        return _rolling(situation, rollout.follow(situation) or situation.status.rollout)


class Begin(Record, frozen=True, kw_only=True):
    """Begin the wait of a generation that starts no container, or whose image is pulled for longer."""

    sentence = "watch generation {generation}"
    generation: int

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the wait begun."""
        return _rolling(situation, rollout.begin(situation, situation.status.rollout))


class Decide(Record, frozen=True, kw_only=True):
    """Record the verdict on a generation."""

    sentence = "record that the generation is {outcome}: {reason}"
    outcome: Outcome
    reason: str

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the verdict."""
        found = situation.status.rollout
        after = _rolling(situation, found and replace(found, outcome=self.outcome, reason=self.reason))
        if self.outcome != "good":
            return after
        return replace(after, status=replace(after.status, good=rollout.good_now(situation)))


class RollBack(Action, frozen=True, kw_only=True):
    """Go back to the last good revision, and quarantine the desired one."""

    sentence = "go back to the last good revision: {reason}"
    word = "roll back"
    reason: str

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the verdict; the journal then has another desired revision."""
        found = situation.status.rollout
        return _rolling(situation, found and replace(found, outcome="failed", reason=self.reason))


class Block(Record, frozen=True, kw_only=True):
    """Put an update off that cannot begin, and let the revision before it go on."""

    sentence = "put the update off: {reason}"
    reason: str

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with nothing more to do: the dry run ends here."""
        return situation.seeing(copying=None)


class CheckRoom(Record, frozen=True, kw_only=True):
    """Look whether there is room for snapshots, before anything is stopped for them."""

    sentence = "look for room for a snapshot of volume {volumes}"
    volumes: tuple[str, ...]

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with enough room."""
        return situation.seeing(copying=_job(situation, "check"))


class TakeSnapshot(Action, frozen=True, kw_only=True):
    """Copy volumes before an update, in the background."""

    sentence = "take a snapshot of volume {volumes}"
    word = "snapshot {volumes}"
    volumes: tuple[str, ...]

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the snapshots taken."""
        return situation.seeing(copying=_job(situation, "take", dict.fromkeys(self.volumes, "new")))


class Restore(Action, frozen=True, kw_only=True):
    """Make volumes of the snapshots from before an update that failed, in the background."""

    sentence = "put the snapshot of volume {volumes} back"
    word = "restore {volumes}"
    volumes: tuple[str, ...]

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the volumes as they were."""
        return situation.seeing(copying=_job(situation, "put-back"))


class RecordCopy(Record, frozen=True, kw_only=True):
    """Record that volumes are copied."""

    sentence = "record the copy of volume {volumes}"
    volumes: tuple[str, ...]

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the copy in the journal."""
        return replace(situation.seeing(copying=None), status=self.recorded(situation.status, situation))

    def recorded(self, status: PodStatus, situation: Situation) -> PodStatus:
        """Return the pod's new status, for the loop and for the dry run."""
        job = situation.observed.copying
        assert status.rollout is not None and status.good is not None and job is not None
        if job.kind == "take":
            return replace(status, good=replace(status.good, snapshots=dict(job.ids)), blocked=None)
        back = status.rollout.restore
        snapshots = {} if status.good.snapshots == back else status.good.snapshots
        return replace(
            status,
            good=replace(status.good, snapshots=snapshots),
            rollout=replace(status.rollout, restore={}),
            blocked=None,
        )


class Pull(Action, frozen=True, kw_only=True):
    """Fetch and unpack an image in the background, for the containers that need it.

    `upcoming`: they are those of an update that begins once the image is there.
    """

    sentence = "pull image {reference}"
    reference: str
    containers: tuple[str, ...]
    upcoming: bool = False

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the image ready."""
        ready = dict.fromkeys(self.containers, ObservedImage(state=ImageState.READY))
        if self.upcoming and situation.upcoming is not None:
            images = {**situation.upcoming.images, **ready}
            return replace(situation, upcoming=replace(situation.upcoming, images=images))
        return situation.seeing(images={**situation.observed.images, **ready})


class MakeNetwork(Action, frozen=True, kw_only=True):
    """Make the pod's network namespace."""

    sentence = "make the network namespace"

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with a network in which no init container ran yet."""
        assert situation.desired is not None
        status = unprepared(situation.status, situation.desired.pod)
        return replace(situation, status=status).seeing(network="fresh")


def unprepared(status: PodStatus, pod: Pod) -> PodStatus:
    """Return a status in which every init container is to run again: what they did in the network is gone."""
    done = {
        found.name: replace(known, ended_boot="")
        for found in pod.containers
        if found.init and (known := status.containers.get(found.name)) is not None and known.ended_boot
    }
    return replace(status, containers={**status.containers, **done}) if done else status


class ConvergeNetwork(Action, frozen=True, kw_only=True):
    """Change the pod's network, and the files that name its addresses, while containers run."""

    sentence = "bring the network up to date: {reason}"
    reason: str
    effect: ClassVar = {"network_change": None}


class RemoveNetwork(Action, frozen=True, kw_only=True):
    """Remove the pod's network namespace."""

    sentence = "remove the network namespace"
    effect: ClassVar = {"network": "absent", "network_outdated": False}


class Start(Action, frozen=True, kw_only=True):
    """Start a container."""

    sentence = "start container {container}"
    word = "start {container}"
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
            digest=rollout.pin_of(situation, self.container),
            contents=dict(live_contents(desired.pod).get(self.container, {})),
            alive_since=-math.inf,
        )
        before = status_to_start(situation.status, desired.pod, container)
        known = restart.after_start(before, run.id, now.boot_id, now.wall)
        known = replace(known, digest=run.digest, health=None)
        network = "used" if observed.network == "fresh" else observed.network
        situation = _rolling(situation, rollout.after_start(situation, situation.status.rollout))
        if container.init:
            known = replace(restart.after_stop(known), exit=Exit(at=now.wall, code=0), ended_boot=now.boot_id)
            return _remembering(situation, self.container, known).seeing(network=network)
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
    word = "change {container}"
    reason: str
    # An empty hash stands for up-to-date settings.
    effect: ClassVar = {"settings": "", "drift": None, "failure": None}


class MountAgain(RunAction, frozen=True, kw_only=True):
    """Restore mounts of a run that were unmounted, or deleted, while it goes on."""

    sentence = "mount again in container {container}: {paths}"
    paths: str
    effect: ClassVar = {"unmounted": None}


class RecordHealth(Record, RunAction, frozen=True, kw_only=True):
    """Record the health of a run as its probe found it, for the next agent."""

    sentence = "record that container {container} is {state}"
    state: str

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the health in the status."""
        return replace(situation, status=self.recorded(situation.status, situation))

    def recorded(self, status: PodStatus, situation: Situation) -> PodStatus:
        """Return the pod's new status, for the loop and for the dry run."""
        known = status.containers.get(self.container)
        run = next((run for run in situation.observed.runs if run.id == self.run), None)
        if known is None or known.instance != self.run or run is None or run.probed is None:
            return status
        containers = {**status.containers, self.container: replace(known, health=run.probed.health)}
        return replace(status, containers=containers)


class RecordOutOfMemory(RunAction, frozen=True, kw_only=True):
    """Record that a process of a run was killed for lack of memory, while the run goes on."""

    sentence = "record that container {container} ran out of memory"
    effect: ClassVar = {"out_of_memory": False}


class Stop(RunAction, frozen=True, kw_only=True):
    """Ask a run to end: with its stop signal now, with SIGKILL after its grace.

    `unhealthy` is why a run is stopped whose probe failed: its restart policy starts it again.
    """

    sentence = "stop container {container}"
    unhealthy: str = ""
    word: ClassVar[str | None] = "stop {container}"

    def after(self, run: Run, now: Moment) -> Run:
        """Return the run as ended."""
        stopping = run.stopping or Stopping(deadline=now.monotonic, unhealthy=self.unhealthy)
        exit_ = Exit(at=now.wall, signal=signal.SIGTERM)
        return replace(run, state=RunState.EXITED, exit=exit_, stopping=stopping)


class Kill(Stop, frozen=True, kw_only=True):
    """End a run with SIGKILL."""

    sentence = "kill container {container}"
    word = None


class RemoveRun(RunAction, frozen=True, kw_only=True):
    """Remove the mounts, the cgroup and the files of an ended run."""

    sentence = "remove what is left of container {container}"

    def expected(self, situation: Situation) -> Situation:
        """Return the situation without the run."""
        return situation.seeing(runs=tuple(r for r in situation.observed.runs if r.id != self.run))


class Recorded(NamedTuple):
    """The status of a container after its end is recorded, and the event for that; no event if empty.

    `failed`: it ended by itself, and starts again or should have.
    """

    status: ContainerStatus
    event: str = ""
    message: str = ""
    failed: bool = False


class RecordEnd(Action, frozen=True, kw_only=True):
    """Record the end of a run, and so when the container may start again."""

    container: str

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the end recorded."""
        recorded = self.recorded(situation.status, situation)
        after = _remembering(situation, self.container, recorded.status)
        if not recorded.failed:
            return after
        return _rolling(after, rollout.after_end(situation, situation.status.rollout))

    def recorded(self, status: PodStatus, situation: Situation) -> Recorded:
        """Return the container's new status and the event, for the loop and for the dry run."""
        known = status.containers[self.container]
        if situation.desired is not None:
            known = replace(known, network=network_hash(situation.desired.pod))
        found = self.ended(known, situation)
        if known.instance in status.replacing:
            # However it ended meanwhile.
            return found._replace(status=restart.after_replacement(found.status), failed=False)
        if situation.desired is not None and status.stopped is not None:
            after = restart.after_stop_of_pod(found.status, known.failures)
            return found._replace(status=after, failed=False)
        return found

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
        how, desired = restart.describe_exit(self.exit), situation.desired
        known = replace(known, ended_boot=situation.now.boot_id)
        if not self.stopped:
            after = restart.after_exit(known, self.exit, rollout.pace(situation))
            specs = desired.pod.containers if desired is not None else ()
            spec = next((found for found in specs if found.name == self.container), None)
            boot_id = situation.now.boot_id
            over = desired is not None and spec is not None and is_over(spec, after, desired, boot_id)
            return Recorded(after, "exited", how, failed=not (over and self.exit.clean))
        job = situation.status.job
        if job is not None and job.current is not None and job.current.outcome is not None:
            # The run of a job is stopped as a whole, and shows how its containers ended.
            return Recorded(replace(restart.after_stop(known), exit=self.exit), "stopped", how)
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
        return Recorded(restart.after_exit(known, exit_, rollout.pace(situation)), "lost", why, failed=True)


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
    word = "remove pod"

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with nothing remembered."""
        return replace(situation, status=PodStatus(), remembered=False)


def _rolling(situation: Situation, found: Rollout | None) -> Situation:
    return replace(situation, status=replace(situation.status, rollout=found))


def _job(situation: Situation, kind: CopyKind, ids: dict[str, str] | None = None) -> Job:
    found = situation.status.rollout
    return Job(
        kind=kind, generation=found.generation if found is not None else 0, state="done", ids=ids or {}
    )


def _remembering(situation: Situation, name: str, container: ContainerStatus) -> Situation:
    containers = {**situation.status.containers, name: container}
    return replace(situation, status=replace(situation.status, containers=containers).without_ended())
