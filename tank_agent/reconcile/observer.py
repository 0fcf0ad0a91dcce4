"""The look at a pod: what is desired of it, and what the machine has of it, as one situation."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from tank_agent.journal.records import DesiredPod, PodStatus, Revision
from tank_agent.reconcile.contents import HostSecrets
from tank_agent.reconcile.core.jobs import images_wanted, is_idle
from tank_agent.reconcile.core.observed import Moment, Observed, ObservedImage, Situation, Upcoming
from tank_agent.reconcile.core.order import missing
from tank_agent.reconcile.core.plan import is_upcoming
from tank_agent.reconcile.core.rollout import as_before, blocked_now, goes_on_before, may_run_again, pin_of
from tank_agent.reconcile.machine import Machine, runs_now
from tank_agent.reconcile.pod_order import PodOrder
from tank_agent.reconcile.troubles import Troubles
from tank_agent.runtime.run import LiveRun, RunState
from tank_agent.spec.model import RestartPolicy


class Observer:
    """Looks at pods; any thread may use it.

    Args:
        machine: the parts that are observed.
        troubles: the steps that failed.
        wake: called with a pod and the reason to look at it.
    """

    def __init__(self, machine: Machine, troubles: Troubles, wake: Callable[[str, str], None]) -> None:
        self._machine = machine
        self._troubles = troubles
        # The agent ends: nothing is desired any more, and everything is still wanted by the next one.
        self.draining = False
        # Pods that run, though the journal never knew them.
        self._unclaimed: set[str] = set()
        self.host_secrets = HostSecrets(machine.secrets)
        self.order = PodOrder(machine, self._look, self._is_leaving, wake)

    def protect_unknown(self) -> tuple[str, ...]:
        """Find pods that run and that the journal never knew, let them go on, and return them.

        A pod that it knew and dropped still has its run in the status, until that has ended.
        """
        journal, containers = self._machine.journal, self._machine.containers
        self._unclaimed |= {
            pod
            for pod in containers.pods() - journal.desired().keys()
            if any(_goes_on(run) for run in containers.runs(pod))
            and not any(known.instance for known in journal.status(pod).containers.values())
        }
        return tuple(sorted(self._unclaimed))

    def release(self, pod: str) -> bool:
        """End the protection of a pod that the journal never knew; False if it has none."""
        if not self.is_unclaimed(pod):
            return False
        self._unclaimed.discard(pod)
        return True

    def desired(self, pod: str) -> DesiredPod | None:
        """Return what is desired of a pod now, which is nothing while the agent ends."""
        desired = self._machine.journal.get(pod)
        if desired is not None:
            # From now on the journal decides.
            self._unclaimed.discard(pod)
        return None if self.draining else desired

    def to_run(self, pod: str, desired: DesiredPod | None) -> DesiredPod | None:
        """Return what a pod is to run now, which is what ran before an update that cannot begin."""
        status = self._machine.journal.status(pod)
        if status.stopped is not None:
            return None
        found = status.rollout
        waits = status.blocked is not None or (found is not None and found.begun is None)
        return self._look(pod, desired).desired if waits else self._in_run(desired, status)

    def situation(self, pod: str, desired: DesiredPod | None) -> Situation:
        """Return the situation of a pod; asks memory, and the image store only for containers to start."""
        situation = self._look(pod, desired)
        if situation.desired is None:
            return replace(situation, held_by=self.order.held_by(pod, situation.observed.runs))
        if situation.is_stopped:
            return situation
        images = self._images(situation)
        # Between runs, a job waits for its time alone.
        awaited = {} if is_idle(situation) else self.order.awaited(situation)
        return situation.seeing(images=images, awaited=awaited) if images or awaited else situation

    def _look(self, pod: str, desired: DesiredPod | None) -> Situation:
        """Return the situation of a pod without its images and other pods."""
        machine, clock = self._machine, self._machine.clock
        status = machine.journal.status(pod)
        runs = runs_now(machine, pod, status)
        now = Moment(wall=clock.wall(), monotonic=clock.monotonic(), boot_id=machine.boot_id)
        declared = self.host_secrets.observed(desired, runs)
        desired = self._in_run(declared, status) if status.job is not None else declared
        former = self._former(desired, status)
        blocked = blocked_now(desired, status, now.wall)
        if blocked is not None and desired is not None:
            before = machine.journal.revision(pod, status.rollout.replaced) if status.rollout else None
            blocked, desired = (blocked, as_before(desired, before, status)) if before else (None, desired)
        if desired is not declared:
            desired = self.host_secrets.observed(desired, runs)
        situation = Situation(
            desired=desired,
            status=status,
            observed=Observed(
                runs=runs,
                network=machine.networks.state(pod),
                network_change=machine.networks.change(desired.pod) if desired is not None else None,
                network_outdated=desired is not None and machine.networks.is_outdated(desired.pod),
                copying=machine.snapshots.observe(pod),
                filling=machine.fills.waits(pod),
            ),
            now=now,
            backoff=machine.backoff,
            remembered=pod in machine.journal.statuses() or machine.networks.remembers(pod),
            unclaimed=desired is None and self.is_unclaimed(pod),
            cut_short=desired is None and self.draining and self._runs_once(pod),
            former=former,
            blocked=blocked,
            declared=declared if declared is not desired and blocked is None else None,
            agent_since=machine.since,
            pull=machine.pulls.policy,
            troubles=self._troubles.of(pod),
        )
        return self._before_update(situation) if goes_on_before(situation) else situation

    def _before_update(self, situation: Situation) -> Situation:
        """Return the situation with what ran before an update as desired, if that cannot begin yet."""
        desired, status, machine = situation.desired, situation.status, self._machine
        assert desired is not None and status.rollout is not None
        update = situation.seeing(images=self._images(situation))
        before = machine.journal.revision(desired.name, status.rollout.replaced)
        if before is None or not may_run_again(before, status) or not is_upcoming(update):
            return situation
        former = as_before(desired, before, status)
        upcoming = Upcoming(desired=desired, images=update.observed.images)
        found = replace(situation, desired=former, upcoming=upcoming)
        networks = machine.networks
        change, outdated = networks.change(former.pod), networks.is_outdated(former.pod)
        return found.seeing(network_change=change, network_outdated=outdated)

    def _images(self, situation: Situation) -> dict[str, ObservedImage]:
        desired, pulls = situation.desired, self._machine.pulls
        assert desired is not None
        runs, boot_id = situation.observed.runs, self._machine.boot_id
        is_job = desired.pod.schedule is not None
        due = missing(desired, situation.status, runs, boot_id) if not is_job else images_wanted(situation)
        return {
            container.name: pulls.observe(
                pulls.need(desired.name, container, pin_of(situation, container.name))
            )
            for container in due
            if container.image is not None
        }

    def _in_run(self, desired: DesiredPod | None, status: PodStatus) -> DesiredPod | None:
        """Return a pod as the run of a job goes on with it, which may have an older spec."""
        run = status.job.current if status.job is not None else None
        if desired is None or run is None or run.generation == desired.generation:
            return desired
        of = self._machine.journal.revision(desired.name, run.generation)
        return of.in_place_of(desired, of.images) if of is not None else desired

    def _former(self, desired: DesiredPod | None, status: PodStatus) -> Revision | None:
        """Return the revision that the pod's rollout is of, if another one is desired by now."""
        rollout = status.rollout
        if desired is None or rollout is None or rollout.generation == desired.generation:
            return None
        return self._machine.journal.revision(desired.name, rollout.generation)

    def _is_leaving(self, pod: str) -> bool:
        return self.desired(pod) is None and not self.is_unclaimed(pod)

    def is_unclaimed(self, pod: str) -> bool:
        """Return whether a pod runs, and nobody has claimed or released it."""
        return (
            pod in self._unclaimed
            and not self.draining
            and any(_goes_on(run) for run in self._machine.containers.runs(pod))
        )

    def _runs_once(self, pod: str) -> bool:
        declared = self._machine.journal.get(pod)
        return declared is not None and declared.pod.restart is RestartPolicy.NEVER


def _goes_on(run: LiveRun) -> bool:
    return run.state in (RunState.RUNNING, RunState.ORPHANED) and run.stopping is None
