"""Carry out one action of a plan: the only place where the loop touches the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
from msgspec.structs import replace

from tank_agent.errors import Retry, TankError, shortage
from tank_agent.image.config import ImageConfig
from tank_agent.image.parameters import merge
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import ContainerStatus, Exit, NewEvent, PodStatus
from tank_agent.linux.fault import point
from tank_agent.linux.trees import remove_tree
from tank_agent.network.host_side import Reservation
from tank_agent.reconcile.contents import payloads
from tank_agent.reconcile.core import actions, rollout
from tank_agent.reconcile.core.actions import Action
from tank_agent.reconcile.core.contents import Deliver
from tank_agent.reconcile.core.hashes import container_hash, outdated_contents, settings_hash, status_to_start
from tank_agent.reconcile.core.jobs import is_idle
from tank_agent.reconcile.core.observed import Run, Situation
from tank_agent.reconcile.core.order import missing
from tank_agent.reconcile.core.proof import with_step
from tank_agent.reconcile.core.restart import after_exit, after_failed_start, after_start
from tank_agent.reconcile.jobs import JobSteps
from tank_agent.reconcile.machine import Machine, Work
from tank_agent.reconcile.networks import PACE
from tank_agent.reconcile.pulls import Need
from tank_agent.reconcile.updates import Updates
from tank_agent.retry import Failure, Pace
from tank_agent.runtime.container.crun import StartFailed
from tank_agent.runtime.container.launch import Launch
from tank_agent.runtime.run import LiveRun, RunState
from tank_agent.spec.model import Container
from tank_agent.spec.values import signal_number

_log = structlog.get_logger()


def keep_reservation(journal: Journal, pod: str, reserved: Reservation) -> None:
    """Record what a pod has reserved of this machine, if the journal has it otherwise."""
    known = journal.status(pod)
    now = list(reserved.leases.items()), reserved.ports, reserved.aliases
    if (list(known.leases.items()), known.ports, known.aliases) != now:
        journal.revise(pod, lambda status: replace(status, **reserved._asdict()))
        point("network:reserved")


class Steps:
    """Carries out actions; each writes to the journal before it returns."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._journal, self._containers = machine.journal, machine.containers
        self._networks, self._pulls = machine.networks, machine.pulls
        # The methods of actions on a run get that run, too.
        updates = Updates(machine)
        self.table: dict[type[Action], Callable[..., None]] = {
            **updates.table,
            **JobSteps(machine).table,
            actions.Pull: self._pull,
            actions.MakeNetwork: self._make_network,
            actions.ConvergeNetwork: self._converge_network,
            actions.RemoveNetwork: self._remove_network,
            actions.Start: self._start,
            actions.ChangeLive: self._change_live,
            actions.MountAgain: self._mount_again,
            Deliver: self._deliver,
            actions.RecordHealth: self._record_health,
            actions.RecordOutOfMemory: self._record_out_of_memory,
            actions.Stop: self._stop,
            actions.Kill: self._kill,
            actions.RecordExit: self._record,
            actions.RecordLost: self._record,
            actions.RecordUnstarted: self._record,
            actions.RemoveRun: self._remove_run,
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
        if action.upcoming:
            work = replace(work, situation=work.seen.of_update)
        needs = [self._need(work, work.container(name)) for name in action.containers]
        begun = [self._pulls.pull(need) for need in needs]
        if any(begun):
            self._event(work, "pulling", f"pulling {action.reference}")

    def _need(self, work: Work, container: Container) -> Need:
        return self._pulls.need(work.name, container, rollout.pin_of(work.seen, container.name))

    def _make_network(self, _: actions.MakeNetwork, work: Work) -> None:
        self._journal.revise(work.name, lambda status: actions.unprepared(status, work.pod))
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
        self._machine.probes.drop_pod(work.name)
        self._networks.remove(work.name)
        status = self._journal.status(work.name)
        if work.desired is None:
            return
        idle = is_idle(work.seen) or work.seen.is_stopped
        if idle or not missing(work.desired, status, (), self._machine.boot_id):
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

    def _record_health(self, action: actions.RecordHealth, work: Work, _: LiveRun) -> None:
        self._journal.revise(work.name, lambda status: action.recorded(status, work.seen))

    def _mount_again(self, action: actions.MountAgain, work: Work, live: LiveRun) -> None:
        container, files = work.container(action.container), self._networks.files(work.pod)
        mount = partial(self._containers.restore_mounts, live, container, work.pod.volumes, files)
        if self._try(work, "mount-failed", live.unmounted, mount, container.name):
            message = f"what was unmounted or deleted is back: {action.paths}"
            self._event(work, "mounted-again", message, container.name)

    def _deliver(self, action: Deliver, work: Work, live: LiveRun) -> None:
        container = work.container(action.container)
        every = payloads(work.pod, container, self._machine.secrets)
        deliver = partial(
            self._containers.deliver,
            live,
            container,
            work.pod.volumes,
            {path: every[path] for path in action.paths},
            wanted=outdated_contents(Run.of(live), work.pod),
            signals=[signal_number(name) for name in action.signals],
        )
        if self._try(work, "deliver-failed", live.undelivered, deliver, container.name):
            self._event(work, "delivered", action.describe(), container.name, action)

    def _change_live(self, action: actions.ChangeLive, work: Work, live: LiveRun) -> None:
        container = work.container(action.container)
        settings = settings_hash(container)
        change = partial(self._containers.change, live, container, settings)
        changed = self._try(work, "change-failed", live.failure, change, container.name)
        known = self._journal.status(work.name).containers.get(container.name)
        if changed and known is not None:
            event = work.event("changed", "limits and stop settings are up to date", container.name)
            self._store(work, container.name, replace(known, settings=settings), event, action)

    def _start(self, action: actions.Start, work: Work) -> None:
        name, container, clock = action.container, work.container(action.container), self._machine.clock
        if self._journal.status(work.name).stopped is not None:
            # Since the look.
            return
        try:
            if work.pod.network.mode == "host":
                # It may have had addresses of its own before; no network is made for it now.
                self._networks.leave_bridges(work.pod)
            launch = self._launch(work, container)
            if launch is None:
                # The next plan pulls the image.
                return
            if not self._machine.fills.made(launch):
                # The end of that wakes the pod.
                self._event(work, "filling", "its volumes get what its image has in their place", name)
                return
            run = self._containers.create(launch)
            known = self._known(work, container)
            started = after_start(known, run.record.id, self._machine.boot_id, clock.wall())
            started = replace(started, digest=run.record.digest, health=None)
            self._store(
                work, name, started, work.event("started", f"started as process {run.pid}", name), action
            )
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
            after = after_exit(status, failed, rollout.pace(work.seen))
            self._store(work, name, after, event, action, ended=True)
            raise
        except TankError as error:
            self._failed_start(work, container, error)
            raise

    def _launch(self, work: Work, container: Container) -> Launch | None:
        """Return how to start a container; None if its image was removed since the plan."""
        pod = work.pod
        if container.image is not None:
            image = self._pulls.get(self._need(work, container))
            if image is None:
                return None
            layers, config, shown, digest = image.layers, image.config, image.name, image.digest
        else:
            layers, config, digest = (Path(container.rootfs or "/"),), ImageConfig(), ""
            shown = container.rootfs or ""
        return Launch(
            pod=work.name,
            container=container,
            volumes=pod.volumes,
            parameters=merge(container, config),
            layers=layers,
            image=shown,
            digest=digest,
            netns=self._networks.namespace(pod),
            files=self._networks.files(pod),
            hash=container_hash(pod, container),
            settings=settings_hash(container),
            image_stop_signal=config.stop_signal,
            healthcheck=config.healthcheck,
            revision=work.revision,
            pods_after=pod.after,
            contents=payloads(pod, container, self._machine.secrets),
            job_run=self._job_run(work),
            sysctls=pod.sysctls,
            hostname=pod.hostname,
        )

    def _job_run(self, work: Work) -> int:
        job = work.seen.status.job
        return job.current.number if job is not None and job.current is not None else 0

    def _failed_start(
        self, work: Work, container: Container, error: TankError, pace: Pace | None = None
    ) -> None:
        known, now = self._known(work, container), self._machine.clock.wall()
        status = after_failed_start(known, now, pace or self._machine.backoff, str(error), name=work.name)
        self._store(work, container.name, status, work.event("start-failed", str(error), container.name))

    # The event comes after the signal: containers must end on a full disk, too.

    def _stop(self, action: actions.Stop, work: Work, live: LiveRun) -> None:
        if action.unhealthy:
            self._machine.probes.restarted(action.run)
        self._machine.probes.drop([action.run])
        self._containers.stop(live, action.unhealthy)
        why = f"signal {live.record.stop_signal}"
        if action.unhealthy:
            why = f"{action.unhealthy} ({why})"
        self._event(work, "stopping", why, action.container, action)

    def _kill(self, action: actions.Kill, work: Work, live: LiveRun) -> None:
        # A process that waits for a disk survives signals, and is killed again and again.
        recorded = live.stopping is not None and live.stopping.killed
        self._machine.probes.drop([action.run])
        self._containers.kill(live)
        if not recorded:
            self._event(work, "killing", "sent SIGKILL", action.container)

    def _record(self, action: actions.RecordEnd, work: Work) -> None:
        found = action.recorded(self._journal.status(work.name), work.seen)
        event = work.event(found.event, found.message, action.container) if found.event else None

        def ended(status: PodStatus) -> ContainerStatus:
            # Asked at that moment: a person may have stopped the pod, or want another run, since the look.
            known = status.containers.get(action.container)
            return action.recorded(status, work.seen).status if known is not None else found.status

        self._store(work, action.container, ended, event, action, ended=found.failed)

    def _remove_run(self, action: actions.RemoveRun, work: Work, live: LiveRun) -> None:
        self._machine.probes.drop([action.run])
        if work.name not in self._journal.statuses():
            # The agent was killed before it recorded the start. Once the run is gone, only a status tells the
            # next agent that the pod has left files. Runs must go on a full disk, too.
            with contextlib.suppress(TankError):
                self._journal.record(work.name, PodStatus())
        self._containers.remove(live)
        if work.desired is not None:
            self._machine.counters.keep_containers(work.name, {found.name for found in work.pod.containers})

    def _forget(self, _: actions.Forget, work: Work) -> None:
        self._networks.forget(work.name)
        self._machine.snapshots.forget(work.name)
        self._machine.fills.forget(work.name)
        self._machine.counters.forget(work.name)
        self._containers.forget(work.name)
        remove_tree(self._containers.logs / work.name)
        run = self._job_run(work)
        what = f"the pod is gone, and its run {run} before it ended" if run else "the pod is gone"
        self._journal.record(work.name, None, [work.event("removed", what)])

    def _known(self, work: Work, container: Container) -> ContainerStatus:
        return status_to_start(self._journal.status(work.name), work.pod, container)

    def _store(
        self,
        work: Work,
        name: str,
        container: ContainerStatus | Callable[[PodStatus], ContainerStatus],
        event: NewEvent | None = None,
        step: Action | None = None,
        *,
        ended: bool = False,
    ) -> None:
        """Record the status of a container; drop those of containers that are not desired and don't run.

        `step` is one of the pod's rollout, which it may begin; `ended`: a container of it ended by itself.
        """

        def stored(status: PodStatus) -> PodStatus:
            known = status.containers
            names = {c.name for c in work.pod.containers} if work.desired is not None else set(known)
            kept = {key: value for key, value in known.items() if key in names or value.instance}
            found = container(status) if callable(container) else container
            updated = replace(status, containers={**kept, name: found}, error=None)
            return self._rolling(updated.without_ended(), work, step, ended=ended)

        self._journal.revise(work.name, stored, [event] if event is not None else [])

    def _rolling(self, status: PodStatus, work: Work, step: Action | None, *, ended: bool) -> PodStatus:
        """Return a status with the pod's rollout after a step, or after the end of a container."""
        found, situation = status.rollout, work.seen
        if work.desired is None:
            # The pod is desired, but all are stopped: this boot ends with a shutdown.
            if self._journal.get(work.name) is None:
                return status
            if found is not None and found.outcome is None:
                found = replace(found, clean=True)
            return replace(status, rollout=found, released="")
        if status.stopped is not None:
            # None of its steps is one of an update.
            return replace(status, released="")
        if isinstance(step, actions.Start | actions.RecordExit):
            # Later starts of this boot wait for no other pod.
            status = replace(status, released=self._machine.boot_id)
        # A person wants a fresh run: that is no step of an update.
        by_hand = isinstance(step, actions.RunAction) and _is_replaced(situation, step.run)
        if situation.upcoming is not None:
            return status if by_hand else _while_upcoming(status, step)
        if isinstance(step, actions.Start):
            found = rollout.after_start(situation, found)
            status = replace(status, blocked=situation.blocked)
        if found is not None and step is not None and rollout.is_undecided(situation) and not by_hand:
            found = with_step(found, step)
        if ended:
            found = rollout.after_end(situation, found)
        return replace(status, rollout=found)

    def _event(
        self, work: Work, kind: str, message: str, container: str = "", step: Action | None = None
    ) -> None:
        def rolling(status: PodStatus) -> PodStatus:
            if step is None or (work.desired is None and status.rollout is None):
                return status
            return self._rolling(status, work, step, ended=False)

        self._journal.revise(work.name, rolling, [work.event(kind, message, container)])


def _is_replaced(situation: Situation, run: str) -> bool:
    return any(found.replaced for found in situation.observed.runs if found.id == run)


def _while_upcoming(status: PodStatus, step: Action | None) -> PodStatus:
    """Return a status after a step of what runs before an update."""
    found = status.rollout
    if isinstance(step, actions.Start):
        return rollout.without_old_copies(status)
    if isinstance(step, actions.RecordExit) and step.stopped and found is not None:
        # By the update, in an agent that was killed before it could record that.
        stop = actions.Stop(run=step.run, container=step.container)
        return replace(status, rollout=with_step(found, stop))
    return status
