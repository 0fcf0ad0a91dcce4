"""Carry out one action of a plan: the only place where the loop touches the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import Retry, TankError, shortage
from tank_agent.image.config import ImageConfig
from tank_agent.image.parameters import merge
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import ContainerStatus, DesiredPod, Exit, NewEvent
from tank_agent.linux.clock import Clock
from tank_agent.linux.fault import point
from tank_agent.linux.trees import remove_tree
from tank_agent.network.host_side import Reservation
from tank_agent.reconcile.core import actions
from tank_agent.reconcile.core.actions import Action
from tank_agent.reconcile.core.hashes import container_hash, settings_hash, status_to_start
from tank_agent.reconcile.core.observed import Situation
from tank_agent.reconcile.core.plan import missing
from tank_agent.reconcile.core.restart import Backoff, after_exit, after_failed_start, after_start
from tank_agent.reconcile.networks import PACE, Networks
from tank_agent.reconcile.pulls import Pulls
from tank_agent.retry import Failure, Pace
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.container.crun import StartFailed
from tank_agent.runtime.container.launch import Launch
from tank_agent.runtime.run import LiveRun, RunState
from tank_agent.spec.model import Container, Pod

_log = structlog.get_logger()


class Machine(Struct, frozen=True, kw_only=True):
    """The parts that the loop observes and acts on."""

    journal: Journal
    containers: Containers
    networks: Networks
    pulls: Pulls
    clock: Clock
    boot_id: str
    backoff: Backoff


class Work(Struct, frozen=True, kw_only=True):
    """A turn of a pod. `cause` is the reason, for logs and events; no `situation`: not looked at yet."""

    name: str
    cause: str
    situation: Situation | None = None

    @property
    def seen(self) -> Situation:
        """Return the situation that the plan is for."""
        assert self.situation is not None
        return self.situation

    @property
    def desired(self) -> DesiredPod | None:
        """Return the desired pod; None for one that should be gone."""
        return self.situation.desired if self.situation is not None else None

    @property
    def pod(self) -> Pod:
        """Return the spec of a pod that is desired."""
        assert self.desired is not None
        return self.desired.pod

    @property
    def revision(self) -> str:
        """Return the source's name for the spec's revision; empty for a pod that should be gone."""
        return self.desired.revision if self.desired is not None else ""

    def container(self, name: str) -> Container:
        """Return the spec of a container of a pod that is desired."""
        return next(found for found in self.pod.containers if found.name == name)

    def event(self, kind: str, message: str, container: str = "") -> NewEvent:
        """Return an event of this pod."""
        about = {"pod": self.name, "container": container, "revision": self.revision, "cause": self.cause}
        return NewEvent(type=kind, message=message, **about)


def keep_reservation(journal: Journal, pod: str, reserved: Reservation) -> None:
    """Record what a pod has reserved of this machine, if the journal has it otherwise."""
    known = journal.status(pod)
    same = list(known.leases.items()) == list(reserved.leases.items()) and known.ports == reserved.ports
    if not same:
        journal.record(pod, replace(known, leases=reserved.leases, ports=reserved.ports))
        point("network:reserved")


class Steps:
    """Carries out actions; each writes to the journal before it returns."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._journal, self._containers = machine.journal, machine.containers
        self._networks, self._pulls = machine.networks, machine.pulls
        # The methods of actions on a run get that run, too.
        self.table: dict[type[Action], Callable[..., None]] = {
            actions.Pull: self._pull,
            actions.MakeNetwork: self._make_network,
            actions.ConvergeNetwork: self._converge_network,
            actions.RemoveNetwork: self._remove_network,
            actions.Start: self._start,
            actions.ChangeLive: self._change_live,
            actions.MountAgain: self._mount_again,
            actions.RecordOutOfMemory: self._record_out_of_memory,
            actions.Stop: self._stop,
            actions.Kill: self._kill,
            actions.RecordExit: self._record,
            actions.RecordLost: self._record,
            actions.RecordUnstarted: self._record,
            actions.RemoveRun: lambda _, __, live: self._containers.remove(live),
            actions.Forget: self._forget,
        }

    def do(self, action: Action, work: Work) -> None:
        """Do one step for a pod.

        Raises:
            TankError: it could not be done; the journal has what it must have about that already.
        """
        step = self.table[type(action)]
        if isinstance(action, actions.RunAction):
            runs = [live for live in self._containers.runs(work.name) if live.record.id == action.run]
            for live in runs:
                step(action, work, live)
        else:
            step(action, work)

    def record_unclaimed(self, pod: str) -> None:
        """Record that a pod runs which the journal does not know; go on if the journal fails."""
        message = "it runs, and the journal does not know it; it goes on"
        with contextlib.suppress(TankError):
            self._event(Work(name=pod, cause="agent start"), "unclaimed", message)

    def _pull(self, action: actions.Pull, work: Work) -> None:
        needs = [self._pulls.need(work.name, work.container(name)) for name in action.containers]
        begun = [self._pulls.pull(need) for need in needs]
        if any(begun):
            self._event(work, "pulling", f"pulling {action.reference}")

    def _make_network(self, _: actions.MakeNetwork, work: Work) -> None:
        try:
            self._networks.make(work.pod)
        except TankError as error:
            # As soon as for a network in use (decision 0008): an uplink may be back any time.
            usual = self._machine.backoff
            soon = Pace(base=min(usual.base, PACE.base), cap=min(usual.cap, PACE.cap))
            for container in work.pod.containers:
                self._failed_start(work, container, error, soon)
            raise

    def _converge_network(self, _: actions.ConvergeNetwork, work: Work) -> None:
        running = [live.pid for live in self._containers.runs(work.name) if live.state is RunState.RUNNING]
        pids = [pid for pid in running if pid is not None]
        former = self._networks.failure(work.name)
        if self._try(work, "network-failed", former, lambda: self._networks.converge(work.pod, pids)):
            self._event(work, "network-changed", "the network is up to date")
        # A deleted file is back now, but containers still have the deleted one.
        self._containers.look(work.name, self._networks.directory(work.name))

    def _remove_network(self, _: actions.RemoveNetwork, work: Work) -> None:
        self._networks.remove(work.name)
        status = self._journal.status(work.name)
        if work.desired is not None and not missing(work.pod, status, ()):
            # Nothing of it starts again: others may have its ports. Else it keeps them over its restart.
            self._networks.give_up_ports(work.name)

    def _try(
        self, work: Work, kind: str, former: Failure | None, change: Callable[[], None], container: str = ""
    ) -> bool:
        """Change something while containers run; a failure is recorded, shown and retried, and stops none."""
        try:
            change()
        except TankError as error:
            if former is None or former.error != str(error):
                self._event(work, kind, str(error), container)
            _log.warning("a change failed", pod=work.name, container=container, change=kind, error=str(error))
            return False
        return True

    def _record_out_of_memory(self, action: actions.RecordOutOfMemory, work: Work, live: LiveRun) -> None:
        message = "a process of it was killed: out of memory; the container goes on"
        self._event(work, "out-of-memory", message, action.container)
        self._containers.clear_out_of_memory(live)

    def _mount_again(self, action: actions.MountAgain, work: Work, live: LiveRun) -> None:
        container, files = work.container(action.container), self._networks.files(work.pod)
        mount = partial(self._containers.restore_mounts, live, container, work.pod.volumes, files)
        if self._try(work, "mount-failed", live.unmounted, mount, container.name):
            message = f"what was unmounted or deleted is back: {action.paths}"
            self._event(work, "mounted-again", message, container.name)

    def _change_live(self, action: actions.ChangeLive, work: Work, live: LiveRun) -> None:
        container = work.container(action.container)
        settings = settings_hash(container)
        change = partial(self._containers.change, live, container, settings)
        changed = self._try(work, "change-failed", live.failure, change, container.name)
        known = self._journal.status(work.name).containers.get(container.name)
        if changed and known is not None:
            event = work.event("changed", "limits and stop settings are up to date", container.name)
            self._store(work, container.name, replace(known, settings=settings), event)

    def _start(self, action: actions.Start, work: Work) -> None:
        name, container, clock = action.container, work.container(action.container), self._machine.clock
        try:
            if work.pod.network.mode == "host":
                # It may have had addresses of its own before; no network is made for it now.
                self._networks.leave_bridges(work.pod)
            launch = self._launch(work, container)
            if launch is None:
                # The next plan pulls the image.
                return
            run = self._containers.create(launch)
            known = self._known(work, container)
            started = after_start(known, run.record.id, self._machine.boot_id, clock.wall())
            self._store(work, name, started, work.event("started", f"started as process {run.pid}", name))
            point("loop:start-recorded")
            self._containers.start(run)
        except OSError as error:
            # Such as a full disk: it may pass.
            lacking = shortage(error)
            hint = lacking.hint if lacking is not None else None
            where = f" {os.fsdecode(error.filename)}" if error.filename else ""
            failure = Retry(f"cannot start{where}: {error.strerror}", hint=hint)
            self._failed_start(work, container, failure)
            raise failure from error
        except StartFailed as error:
            status = replace(self._known(work, container), started_at=None)
            failed = Exit(at=clock.wall(), reason=f"could not be started: {error.message}")
            event = work.event("start-failed", failed.reason or "", name)
            self._store(work, name, after_exit(status, failed, self._machine.backoff), event)
            raise
        except TankError as error:
            self._failed_start(work, container, error)
            raise

    def _launch(self, work: Work, container: Container) -> Launch | None:
        """Return how to start a container; None if its image was removed since the plan."""
        pod = work.pod
        if container.image is not None:
            image = self._pulls.get(self._pulls.need(work.name, container))
            if image is None:
                return None
            layers, config, shown = image.layers, image.config, image.name
        else:
            layers, config, shown = (Path(container.rootfs or "/"),), ImageConfig(), container.rootfs or ""
        return Launch(
            pod=work.name,
            container=container,
            volumes=pod.volumes,
            parameters=merge(container, config),
            layers=layers,
            image=shown,
            netns=self._networks.namespace(pod),
            files=self._networks.files(pod),
            hash=container_hash(pod, container),
            settings=settings_hash(container),
            image_stop_signal=config.stop_signal,
            revision=work.revision,
        )

    def _failed_start(
        self, work: Work, container: Container, error: TankError, pace: Pace | None = None
    ) -> None:
        known, now = self._known(work, container), self._machine.clock.wall()
        status = after_failed_start(known, now, pace or self._machine.backoff, str(error), name=work.name)
        self._store(work, container.name, status, work.event("start-failed", str(error), container.name))

    # The event comes after the signal: containers must end on a full disk, too.

    def _stop(self, action: actions.Stop, work: Work, live: LiveRun) -> None:
        self._containers.stop(live)
        self._event(work, "stopping", f"signal {live.record.stop_signal}", action.container)

    def _kill(self, action: actions.Kill, work: Work, live: LiveRun) -> None:
        # A process that waits for a disk survives signals, and is killed again and again.
        recorded = live.stopping is not None and live.stopping.killed
        self._containers.kill(live)
        if not recorded:
            self._event(work, "killing", "sent SIGKILL", action.container)

    def _record(self, action: actions.RecordEnd, work: Work) -> None:
        found = action.recorded(self._journal.status(work.name), work.seen)
        event = work.event(found.event, found.message, action.container) if found.event else None
        self._store(work, action.container, found.status, event)

    def _forget(self, _: actions.Forget, work: Work) -> None:
        self._networks.forget(work.name)
        remove_tree(self._containers.logs / work.name)
        self._journal.record(work.name, None, [work.event("removed", "the pod is gone")])

    def _known(self, work: Work, container: Container) -> ContainerStatus:
        return status_to_start(self._journal.status(work.name), work.pod, container)

    def _store(
        self, work: Work, name: str, container: ContainerStatus, event: NewEvent | None = None
    ) -> None:
        """Record the status of a container; drop those of containers that are not desired and don't run."""
        status = self._journal.status(work.name)
        known = status.containers
        names = {c.name for c in work.pod.containers} if work.desired is not None else set(known)
        kept = {key: value for key, value in known.items() if key in names or value.instance}
        updated = replace(status, containers={**kept, name: container}, error=None)
        self._journal.record(work.name, updated, [event] if event is not None else [])

    def _event(self, work: Work, kind: str, message: str, container: str = "") -> None:
        event = work.event(kind, message, container)
        self._journal.record(work.name, self._journal.status(work.name), [event])
