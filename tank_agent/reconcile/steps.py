"""Does one action of a plan. The only place where the loop touches the machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from tank_agent.errors import Retry, TankError
from tank_agent.image.config import ImageConfig
from tank_agent.image.merge import merge
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import ContainerStatus, DesiredPod, Exit, NewEvent, PodStatus
from tank_agent.linux.clock import Clock
from tank_agent.linux.fault import point
from tank_agent.linux.shortage import shortage
from tank_agent.linux.trees import remove_tree
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
from tank_agent.reconcile.networks import PACE, Networks
from tank_agent.reconcile.plan import container_hash, container_status, network_hash, settings_hash
from tank_agent.reconcile.pulls import Pulls
from tank_agent.reconcile.restart import (
    Backoff,
    after_drain,
    after_exit,
    after_failed_start,
    after_reboot,
    after_start,
    after_stop,
    never_began,
)
from tank_agent.retry import Pace
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.container.crun import StartFailed
from tank_agent.runtime.container.instance import State
from tank_agent.runtime.container.launch import Launch
from tank_agent.runtime.container.live import Live
from tank_agent.spec.model import Container, RestartPolicy

_log = structlog.get_logger()


class Work(Struct, frozen=True, kw_only=True):
    """The pod that is worked on. `cause` says what made the loop look at it, for logs and events."""

    name: str
    desired: DesiredPod | None
    cause: str

    @property
    def revision(self) -> str:
        """Return the source's name for the pod's spec; empty for a pod that is going."""
        return self.desired.revision if self.desired is not None else ""


class Steps:
    """Carries out actions; each writes what must be remembered before it returns."""

    def __init__(
        self,
        journal: Journal,
        containers: Containers,
        networks: Networks,
        pulls: Pulls,
        *,
        clock: Clock,
        boot_id: str,
        backoff: Backoff,
    ) -> None:
        self._journal = journal
        self._containers = containers
        self._networks = networks
        self._pulls = pulls
        self._clock = clock
        self._boot_id = boot_id
        self._backoff = backoff

    def do(self, action: Action, work: Work) -> None:
        """Do one step for a pod.

        Raises:
            TankError: it could not be done; what the journal must know of that is written already.
        """
        match action:
            case Pull():
                self._pull(action, work)
            case MakeNetwork():
                self._make_network(work)
            case ConvergeNetwork():
                self._converge_network(work)
            case RemoveNetwork():
                self._networks.remove(work.name)
            case Start(container=name):
                self._start(work, name)
            case ChangeLive() | MountAgain() | RecordOutOfMemory():
                self._touch(action, work)
            case Stop(run=run) | Kill(run=run):
                self._end(action, work, run)
            case RecordExit() | RecordLost() | RecordUnstarted():
                self._record(action, work)
            case RemoveRun(run=run):
                live = self._run(work.name, run)
                if live is not None:
                    self._containers.remove(live)
            case Forget():
                self._forget(work)
            case _:
                raise TypeError(f"no step for {action!r}")

    def tell_unclaimed(self, pod: str) -> None:
        """Write down that a pod runs which the journal does not know; a full disk hinders no start."""
        work = Work(name=pod, desired=None, cause="agent start")
        with contextlib.suppress(TankError):
            self._event(work, "unclaimed", "it runs, and the journal does not know it; it goes on")

    def _pull(self, action: Pull, work: Work) -> None:
        assert work.desired is not None
        containers = [c for c in work.desired.pod.containers if c.name in action.containers]
        begun = [self._pulls.pull(self._pulls.need(work.name, container)) for container in containers]
        if any(begun):
            self._event(work, "pulling", f"pulling {action.reference}")

    def _make_network(self, work: Work) -> None:
        assert work.desired is not None
        try:
            self._networks.make(work.desired.pod)
        except TankError as error:
            # As soon as of a network under what runs (decision 0008): an uplink may be back any time.
            ours = self._backoff
            soon = Pace(base=min(ours.base, PACE.base), cap=min(ours.cap, PACE.cap))
            for container in work.desired.pod.containers:
                self._failed_start(work, container, error, soon)
            raise

    def _converge_network(self, work: Work) -> None:
        """Change the network under what runs; a failure is shown and tried again, and stops nothing."""
        assert work.desired is not None
        pod = work.desired.pod
        running = [live.pid for live in self._containers.runs(pod.name) if live.state is State.RUNNING]
        try:
            self._networks.converge(pod, [pid for pid in running if pid is not None])
        except TankError as error:
            if self._networks.failed(pod, str(error)):
                self._event(work, "network-failed", str(error))
            _log.warning("the network could not be brought up to date", pod=pod.name, error=str(error))
        else:
            self._event(work, "network-changed", "the network is up to date")
        # A file that was deleted is there again, but containers still have the deleted one.
        self._containers.look(pod.name, self._networks.directory(pod.name))

    def _touch(self, action: ChangeLive | MountAgain | RecordOutOfMemory, work: Work) -> None:
        """Do what is done to a run that goes on."""
        live = self._run(work.name, action.run)
        if live is None or work.desired is None:
            return
        if isinstance(action, RecordOutOfMemory):
            message = "a process of it was killed: out of memory; the container goes on"
            self._event(work, "out-of-memory", message, action.container)
            self._containers.told_out_of_memory(live)
            return
        found = next(c for c in work.desired.pod.containers if c.name == action.container)
        if isinstance(action, MountAgain):
            self._mount_again(work, live, found, action.paths)
        else:
            self._change_live(work, live, found)

    def _mount_again(self, work: Work, live: Live, container: Container, paths: str) -> None:
        """Bring mounts of a run back; a failure is shown and tried again, and stops nothing."""
        assert work.desired is not None
        pod, former = work.desired.pod, live.unmounted
        files = self._networks.files(pod)
        try:
            self._containers.mount_again(live, container, pod.volumes, files)
        except TankError as error:
            if former is None or former.error != str(error):
                self._event(work, "mount-failed", str(error), container.name)
            _log.warning("cannot mount again", pod=pod.name, container=container.name, error=str(error))
        else:
            self._event(
                work, "mounted-again", f"what was unmounted or deleted is back: {paths}", container.name
            )

    def _change_live(self, work: Work, live: Live, container: Container) -> None:
        """Change a run while it goes on; a failure is shown and tried again, and stops nothing."""
        name = container.name
        settings, former = settings_hash(container), live.failure
        try:
            self._containers.change(live, container, settings)
        except TankError as error:
            if former is None or former.error != str(error):
                self._event(work, "change-failed", str(error), name)
            _log.warning("a container could not be changed", pod=work.name, container=name, error=str(error))
            return
        known = self._journal.status(work.name).containers.get(name)
        if known is not None:
            event = self._new_event(work, "changed", "limits and stop settings are up to date", name)
            self._store(work, name, msgspec.structs.replace(known, settings=settings), event)

    def _start(self, work: Work, name: str) -> None:
        assert work.desired is not None
        container = next(c for c in work.desired.pod.containers if c.name == name)
        try:
            launch = self._launch(work.desired, container)
            if launch is None:
                # The next look finds the image absent, and pulls it.
                return
            run = self._containers.create(launch)
            status = self._known(work, container)
            started = after_start(status, run.record.id, self._boot_id, self._clock.wall())
            event = self._new_event(work, "started", f"started as process {run.pid}", name)
            self._store(work, name, started, event)
            point("loop:start-recorded")
            self._containers.start(run)
        except OSError as error:
            # Such as a full disk: it may pass.
            lacking = shortage(error)
            where = f" {os.fsdecode(error.filename)}" if error.filename else ""
            failure = Retry(
                f"cannot start{where}: {error.strerror}", hint=lacking.hint if lacking is not None else None
            )
            self._failed_start(work, container, failure)
            raise failure from error
        except StartFailed as error:
            status = msgspec.structs.replace(self._known(work, container), started_at=None)
            failed = Exit(at=self._clock.wall(), reason=f"could not be started: {error.message}")
            event = self._new_event(work, "start-failed", failed.reason or "", name)
            self._store(work, name, after_exit(status, failed, self._backoff), event)
            raise
        except TankError as error:
            self._failed_start(work, container, error)
            raise

    def _launch(self, desired: DesiredPod, container: Container) -> Launch | None:
        """Say how to start a container; None if its image went away since it was looked at."""
        if container.image is not None:
            image = self._pulls.get(self._pulls.need(desired.name, container))
            if image is None:
                return None
            layers, config, shown = image.layers, image.config, image.name
        else:
            layers, config, shown = (Path(container.rootfs or "/"),), ImageConfig(), container.rootfs or ""
        return Launch(
            pod=desired.name,
            container=container,
            volumes=desired.pod.volumes,
            parameters=merge(container, config),
            layers=layers,
            image=shown,
            netns=self._networks.namespace(desired.pod),
            files=self._networks.files(desired.pod),
            hash=container_hash(desired.pod, container),
            settings=settings_hash(container),
            image_stop_signal=config.stop_signal,
            revision=desired.revision,
        )

    def _failed_start(
        self, work: Work, container: Container, error: TankError, pace: Pace | None = None
    ) -> None:
        known, now = self._known(work, container), self._clock.wall()
        status = after_failed_start(known, now, pace or self._backoff, str(error), name=work.name)
        event = self._new_event(work, "start-failed", str(error), container.name)
        self._store(work, container.name, status, event)

    def _end(self, action: Stop | Kill, work: Work, run: str) -> None:
        live = self._run(work.name, run)
        if live is None:
            return
        # The event comes after: what has to end must end on a full disk, too.
        if isinstance(action, Stop):
            self._containers.stop(live)
            self._event(work, "stopping", f"signal {live.record.stop_signal}", action.container)
        else:
            # One that no signal ends, since it waits for a disk, is killed again and again.
            told = live.stopping is not None and live.stopping.killed
            self._containers.kill(live)
            if not told:
                self._event(work, "killing", "sent SIGKILL", action.container)

    def _record(self, action: RecordExit | RecordLost | RecordUnstarted, work: Work) -> None:
        name = action.container
        status = self._journal.status(work.name).containers[name]
        if work.desired is not None:
            status = msgspec.structs.replace(status, network=network_hash(work.desired.pod))
        match action:
            case RecordExit(exit=exit_, stopped=True):
                event = self._new_event(work, "stopped", describe_exit(exit_), name)
                stopped = after_drain(status, exit_.at) if self._runs_once(work) else after_stop(status)
                self._store(work, name, stopped, event)
            case RecordExit(exit=exit_):
                event = self._new_event(work, "exited", describe_exit(exit_), name)
                self._store(work, name, after_exit(status, exit_, self._backoff), event)
            case RecordLost():
                self._record_lost(work, name, status)
            case RecordUnstarted():
                self._store(work, name, never_began(status))

    def _runs_once(self, work: Work) -> bool:
        """Return whether a pod runs once, and is stopped though it is desired, as all are at a shutdown."""
        desired = self._journal.get(work.name) if work.desired is None else None
        return desired is not None and desired.pod.restart is RestartPolicy.NEVER

    def _record_lost(self, work: Work, name: str, status: ContainerStatus) -> None:
        now = self._clock.wall()
        if status.boot_id != self._boot_id:
            event = self._new_event(work, "lost", "ended when the machine restarted", name)
            self._store(work, name, after_reboot(status, now), event)
        else:
            gone = Exit(at=now, reason="its files below run_dir were removed, so how it ended is not known")
            event = self._new_event(work, "lost", gone.reason or "", name)
            self._store(work, name, after_exit(status, gone, self._backoff), event)

    def _forget(self, work: Work) -> None:
        self._networks.forget(work.name)
        remove_tree(self._containers.logs / work.name)
        self._journal.record(work.name, None, [self._new_event(work, "removed", "the pod is gone")])

    def _known(self, work: Work, container: Container) -> ContainerStatus:
        assert work.desired is not None
        pod = work.desired.pod
        known = container_status(self._journal.status(work.name), pod, container)
        return msgspec.structs.replace(known, network=network_hash(pod))

    def _store(
        self,
        work: Work,
        name: str,
        container: ContainerStatus,
        event: NewEvent | None = None,
    ) -> None:
        status = self._journal.status(work.name)
        names = (
            {c.name for c in work.desired.pod.containers}
            if work.desired is not None
            else set(status.containers)
        )
        kept = {key: value for key, value in status.containers.items() if key in names or value.instance}
        updated = PodStatus(containers={**kept, name: container})
        self._journal.record(work.name, updated, [event] if event is not None else [])

    def _run(self, pod: str, run: str) -> Live | None:
        return next((live for live in self._containers.runs(pod) if live.record.id == run), None)

    def _event(self, work: Work, kind: str, message: str, container: str = "") -> None:
        event = self._new_event(work, kind, message, container)
        self._journal.record(work.name, self._journal.status(work.name), [event])

    def _new_event(self, work: Work, kind: str, message: str, container: str = "") -> NewEvent:
        return NewEvent(
            pod=work.name,
            type=kind,
            message=message,
            container=container,
            revision=work.revision,
            cause=work.cause,
        )


def describe_exit(exit_: Exit) -> str:
    """Return a sentence of how a run ended."""
    if exit_.signal is not None:
        text = f"ended by signal {exit_.signal}{', out of memory' if exit_.oom else ''}"
    elif exit_.code is not None:
        text = f"ended with exit code {exit_.code}"
    else:
        return exit_.reason or "ended"
    return f"{text}: {exit_.reason}" if exit_.reason else text
