"""The workers, and the resync that repairs what events missed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog
from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.actions import Forget
from tank_agent.reconcile.networks import Networks
from tank_agent.reconcile.observed import Moment, Observed, ObservedImage, Run, Situation
from tank_agent.reconcile.phase import PodView, view_pod
from tank_agent.reconcile.plan import Plan, container_hash, forget_hashes, plan
from tank_agent.reconcile.pulls import Pulls
from tank_agent.reconcile.queue import WorkQueue
from tank_agent.reconcile.restart import Backoff
from tank_agent.reconcile.steps import Steps, Work
from tank_agent.runtime.containers import Containers
from tank_agent.runtime.instance import State
from tank_agent.runtime.live import Live

_log = structlog.get_logger()
# More steps than any pod needs from nothing to running; beyond it, something makes work for itself.
_MOST_PASSES = 200
_STEP_RETRY_BASE = 0.5
_STEP_RETRY_CAP = 30.0
_JOIN_DEADLINE = 60.0


class Machine(Struct, frozen=True, kw_only=True):
    """What the loop looks at and works with."""

    journal: Journal
    containers: Containers
    networks: Networks
    pulls: Pulls
    clock: Clock
    boot_id: str
    backoff: Backoff


class Reconciler:
    """Makes every pod as the journal says.

    Args:
        machine: what the loop looks at.
        steps: what does a plan's actions.
        workers: how many pods are worked on at once.
    """

    def __init__(self, machine: Machine, steps: Steps, *, workers: int) -> None:
        self._machine = machine
        self._steps = steps
        self._queue = WorkQueue(machine.clock.monotonic)
        self._causes: dict[str, str] = {}
        self._step_failures: dict[str, int] = {}
        self._changed = threading.Condition()
        self._version = 0
        self._draining = False
        self._unclaimed: set[str] = set()
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        """Begin to work.

        Pods that run, though the journal never knew them, go on until somebody claims or releases them: a
        journal that is new, empty or restored is no evidence that nothing is wanted.
        """
        self._unclaimed |= unclaimed(self._machine)
        for pod in sorted(self._unclaimed):
            _log.warning("the journal does not know a pod that runs; it goes on", pod=pod)
            self._steps.tell_unclaimed(pod)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Let the workers finish the steps at hand and end; containers go on."""
        self._queue.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_JOIN_DEADLINE)

    def alive(self) -> bool:
        """Return whether every worker runs."""
        return all(thread.is_alive() for thread in self._threads)

    def release(self, pod: str) -> bool:
        """Let a pod go that runs, though the journal does not know it; False if there is none such."""
        if not self._is_unclaimed(pod):
            return False
        self._unclaimed.discard(pod)
        return True

    def wake(self, pod: str, cause: str) -> None:
        """Look at a pod now."""
        self._causes[pod] = cause
        self._queue.add(pod)

    def resync(self, cause: str = "resync") -> int:
        """Look at every pod, and wake those for which something is to be done; return how many."""
        machine = self._machine
        try:
            to_look_at = machine.containers.check()
        except Exception:
            _log.exception("looking at the containers failed by a bug", cause=cause)
            to_look_at = frozenset()
        woken = 0
        for pod in self.known_pods():
            if self._wants_work(pod, look=pod in to_look_at):
                self.wake(pod, cause)
                woken += 1
        forget_hashes()
        return woken

    def known_pods(self) -> tuple[str, ...]:
        """Return every pod that is desired, runs, or has left something."""
        machine = self._machine
        names = {*machine.journal.desired(), *machine.containers.pods(), *machine.networks.pods()}
        return tuple(sorted(names | set(machine.journal.statuses())))

    def drain(self, timeout: float) -> bool:
        """Stop every pod, though it stays desired, and then the workers.

        False if some pods still run after `timeout` seconds; workers go on then.
        """
        self._draining = True
        for pod in self.known_pods():
            self.wake(pod, "agent stops")
        machine = self._machine
        stopped = self.wait_until(lambda: not (machine.containers.pods() or machine.networks.pods()), timeout)
        if stopped:
            # A pod's files have one owner at a time: no worker is still in the middle of a step.
            self.close()
            for pod in self.known_pods():
                machine.networks.forget(pod)
        return stopped

    def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Block until a condition holds, looked at again whenever a pod was worked on."""
        deadline = self._machine.clock.monotonic() + timeout
        while True:
            with self._changed:
                version = self._version
            if condition():
                return True
            left = deadline - self._machine.clock.monotonic()
            if left <= 0:
                return False
            with self._changed:
                if self._version == version:
                    self._changed.wait(min(left, 1.0))

    def idle(self) -> bool:
        """Return whether no pod is being worked on now."""
        return self._queue.idle()

    def situation(self, pod: str, desired: DesiredPod | None) -> Situation:
        """Return what is decided from; asks memory, and the image store only for what is to start."""
        machine = self._machine
        runs = tuple(_observed_run(live) for live in machine.containers.runs(pod))
        images = self._images(desired, runs) if desired is not None else {}
        return Situation(
            desired=desired,
            status=machine.journal.status(pod),
            observed=Observed(
                runs=runs,
                network=machine.networks.state(pod),
                network_change=machine.networks.change(desired.pod) if desired is not None else None,
                images=images,
            ),
            now=Moment(
                wall=machine.clock.wall(), monotonic=machine.clock.monotonic(), boot_id=machine.boot_id
            ),
            backoff=machine.backoff,
            remembered=pod in machine.journal.statuses(),
            unclaimed=desired is None and self._is_unclaimed(pod),
        )

    def _is_unclaimed(self, pod: str) -> bool:
        return (
            pod in self._unclaimed
            and not self._draining
            and any(_goes_on(run) for run in self._machine.containers.runs(pod))
        )

    def view(self, pod: str) -> PodView:
        """Return what to show for a pod."""
        return view_pod(self.situation(pod, self._machine.journal.get(pod)))

    def _images(self, desired: DesiredPod, runs: Sequence[Run]) -> dict[str, ObservedImage]:
        running = {(run.container, run.hash) for run in runs if run.state is State.RUNNING}
        images: dict[str, ObservedImage] = {}
        for container in desired.pod.containers:
            if container.image is None:
                continue
            if (container.name, container_hash(desired.pod, container)) in running:
                continue
            need = self._machine.pulls.need(desired.name, container)
            images[container.name] = self._machine.pulls.state(need)
        return images

    def _desired(self, pod: str) -> DesiredPod | None:
        desired = self._machine.journal.get(pod)
        if desired is not None:
            # From now on the journal decides.
            self._unclaimed.discard(pod)
        return None if self._draining else desired

    def _plan(self, situation: Situation) -> Plan:
        planned = plan(situation)
        if not self._draining:
            return planned
        # While pods are only stopped for the agent's end, what the journal knows of them stays.
        actions = tuple(step for step in planned.actions if not isinstance(step, Forget))
        return Plan(actions=actions, look_again=planned.look_again)

    def _wants_work(self, pod: str, *, look: bool) -> bool:
        """Return whether something is to be done for a pod; one that cannot be looked at harms no other.

        `look` says that the mounts of its containers may have changed.
        """
        machine = self._machine
        try:
            desired = self._desired(pod)
            if desired is not None:
                replaced = machine.networks.check(desired.pod)
                if replaced or look:
                    machine.containers.look(pod, machine.networks.directory(pod))
            return bool(self._plan(self.situation(pod, desired)).actions)
        except Exception:
            _log.exception("looking at the pod failed by a bug", pod=pod)
            return False

    def _work(self) -> None:
        while (pod := self._queue.take()) is not None:
            try:
                self._reconcile(pod)
            except TankError as error:
                _log.warning("cannot work on the pod now", pod=pod, error=str(error))
                self._retry_step(pod)
            except Exception:
                _log.exception("working on the pod failed by a bug", pod=pod)
                self._retry_step(pod)
            finally:
                self._queue.done(pod)
                with self._changed:
                    self._version += 1
                    self._changed.notify_all()

    def _reconcile(self, pod: str) -> None:
        cause = self._causes.pop(pod, "timer")
        for _ in range(_MOST_PASSES):
            desired = self._desired(pod)
            revision = desired.revision if desired is not None else ""
            log = _log.bind(pod=pod, revision=revision, cause=cause)
            work = Work(name=pod, desired=desired, cause=cause)
            self._give_up_pulls(pod, desired)
            self._steps.tell(self._machine.pulls.news(pod), work)
            planned = self._plan(self.situation(pod, desired))
            if not planned.actions:
                if planned.look_again is not None:
                    self._queue.add_after(pod, planned.look_again)
                return
            if not self._act(planned, work, log):
                return
        log.error(
            "the pod does not come to rest; looking again later",
            actions=[a.describe() for a in planned.actions],
        )
        self._queue.add_after(pod, _STEP_RETRY_CAP)

    def _act(self, planned: Plan, work: Work, log: structlog.stdlib.BoundLogger) -> bool:
        """Do a plan's actions; False if one failed in a way that must be waited for."""
        for action in planned.actions:
            log.info(action.describe())
            try:
                self._steps.do(action, work)
            except TankError as error:
                log.warning("step failed", step=action.describe(), error=str(error))
                return self._retry_step(work.name)
            except Exception:
                log.exception("step failed by a bug", step=action.describe())
                return self._retry_step(work.name)
        self._step_failures.pop(work.name, None)
        return True

    def _retry_step(self, pod: str) -> bool:
        failures = self._step_failures[pod] = self._step_failures.get(pod, 0) + 1
        self._queue.add_after(pod, min(_STEP_RETRY_BASE * 2.0 ** min(failures, 10), _STEP_RETRY_CAP))
        return False

    def _give_up_pulls(self, pod: str, desired: DesiredPod | None) -> None:
        pulls = self._machine.pulls
        containers = desired.pod.containers if desired is not None else ()
        needs = {pulls.need(pod, container) for container in containers if container.image is not None}
        pulls.cancel(pod, needs)


def unclaimed(machine: Machine) -> frozenset[str]:
    """Return the pods that run, and that the journal never knew.

    What it knew, and let go, still has its run in the status: that goes once nothing of it runs.
    """
    journal, containers = machine.journal, machine.containers
    return frozenset(
        pod
        for pod in containers.pods() - journal.desired().keys()
        if any(_goes_on(run) for run in containers.runs(pod))
        and not any(known.instance for known in journal.status(pod).containers.values())
    )


def _goes_on(run: Live) -> bool:
    return run.state in (State.RUNNING, State.ORPHANED) and run.stopping is None


def _observed_run(live: Live) -> Run:
    return Run(
        id=live.record.id,
        container=live.record.container,
        hash=live.record.hash,
        state=live.state,
        pid=live.pid,
        image=live.record.image,
        stopping=live.stopping,
        exit=live.exit,
        lost=live.lost,
        settings=live.record.settings,
        drift=live.drift,
        failure=live.failure,
        unmounted=live.unmounted,
        out_of_memory=live.out_of_memory,
    )
