"""The workers, and the resync that repairs what events missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from tank_agent.errors import TankError, one_line
from tank_agent.linux.trees import left_for_later
from tank_agent.reconcile.core.actions import Action, Forget
from tank_agent.reconcile.core.hashes import forget_hashes
from tank_agent.reconcile.core.job_records import GiveUpRun
from tank_agent.reconcile.core.observed import Situation
from tank_agent.reconcile.core.order import is_current
from tank_agent.reconcile.core.phase import Phase, PodView, view_pod
from tank_agent.reconcile.core.plan import Plan, plan
from tank_agent.reconcile.core.rollout import (
    is_undecided,
    pin_of,
)
from tank_agent.reconcile.machine import Machine, Work
from tank_agent.reconcile.observer import Observer
from tank_agent.reconcile.pod_order import lives
from tank_agent.reconcile.probes import has_probes
from tank_agent.reconcile.pulls import IMAGE_READY, PULL_FAILED, Need
from tank_agent.reconcile.queue import Rank, WorkQueue
from tank_agent.reconcile.steps import Steps
from tank_agent.reconcile.troubles import Troubles, describe_failure, foreseen, is_bug

_log = structlog.get_logger()
_JOIN_DEADLINE = 60.0
# As many as any pod needs from nothing to running.
_PASSES_A_TURN = 12
# Seconds for which the agent retries to put pods away before it ends without that.
_PATIENCE = 3.0
# All other causes are changes by people or sources.
_RANKS = dict.fromkeys(("resync", "agent start", IMAGE_READY, PULL_FAILED), Rank.AGAIN)
_RANKS["container ended"] = Rank.ENDED


class Reconciler:
    """Brings every pod to the state that the journal has.

    Args:
        machine: the parts that are observed.
        steps: carries out the actions of plans.
        workers: the number of pods that are worked on at once.
    """

    def __init__(self, machine: Machine, steps: Steps, *, workers: int) -> None:
        self._machine = machine
        self._steps = steps
        self._queue = WorkQueue(machine.clock.monotonic)
        self._causes: dict[str, str] = {}
        self._troubles = Troubles(machine.clock.monotonic)
        self._changed = threading.Condition()
        self._version = 0
        self.observer = Observer(machine, self._troubles, self.wake)
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        """Begin to work.

        Pods that run, though the journal never knew them, go on until somebody claims or releases them: a
        new, empty or restored journal does not mean that no pod is wanted.
        """
        for pod in self.observer.protect_unknown():
            _log.warning("the journal does not know a pod that runs; it goes on", pod=pod)
            self._steps.record_unclaimed(pod)
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
        """End the protection of a running pod that the journal never knew; False if there is no such pod."""
        return self.observer.release(pod)

    def wake(self, pod: str, cause: str) -> None:
        """Look at a pod now."""
        self._causes[pod] = cause
        self._queue.add(pod, _RANKS.get(cause, Rank.CHANGED))

    def resync(self, cause: str = "resync") -> int:
        """Look at every pod, and wake those that need a step; return their number."""
        try:
            to_look_at = self._machine.containers.check()
        except Exception:
            _log.exception("looking at the containers failed by a bug", cause=cause)
            to_look_at = frozenset()
        self._check_bridges(cause)
        woken = 0
        for pod in self.known_pods():
            if self._wants_work(pod, look=pod in to_look_at):
                self.wake(pod, cause)
                woken += 1
        forget_hashes()
        return woken

    def _check_bridges(self, cause: str) -> None:
        """Make right what somebody changed of the bridges and the rules of ports; it keeps no pod waiting."""
        machine = self._machine
        try:
            wrong = machine.networks.check_host()
        except TankError as error:
            _log.warning("the bridges are not as they should be", cause=cause, error=str(error))
            return
        except Exception:
            _log.exception("looking at the bridges failed by a bug", cause=cause)
            return
        for what in wrong:
            _log.warning("made right what was changed of the network", what=what, cause=cause)

    def known_pods(self) -> tuple[str, ...]:
        """Return every pod that is desired, runs, or has left something."""
        machine = self._machine
        names = {*machine.journal.desired(), *machine.containers.pods(), *machine.networks.remembered()}
        return tuple(sorted(names | set(machine.journal.statuses())))

    def knows(self, pod: str) -> bool:
        """Return whether a pod is one of `known_pods`, without asking for all."""
        machine = self._machine
        return (
            machine.journal.get(pod) is not None
            or bool(machine.containers.runs(pod))
            or machine.networks.remembers(pod)
            or pod in machine.journal.statuses()
        )

    def drain(self, timeout: float) -> bool:
        """Stop every pod, though it stays desired, and then the workers.

        False if some pods still run after `timeout` seconds; workers go on then. Remains of pods that cannot
        be removed, as on a full disk, are left to the next agent.
        """
        self.observer.draining = True
        for pod in self.known_pods():
            self.wake(pod, "agent stops")
        machine, runs = self._machine, self._machine.containers.runs
        deadline = machine.clock.monotonic() + timeout

        def ended() -> bool:
            return not any(lives(run) for pod in machine.containers.pods() for run in runs(pod))

        stopped = self.wait_until(ended, timeout)
        now = machine.clock.monotonic()

        def left() -> set[str]:
            return {*machine.containers.pods(), *machine.networks.pods()}

        def put_away() -> bool:
            tried = machine.clock.monotonic() >= now + _PATIENCE
            return all(tried and self._troubles.of(pod) for pod in left())

        if not (stopped and self.wait_until(put_away, deadline - now)):
            return False
        # The workers must not be in the middle of a step that writes a pod's files.
        self.close()
        remaining = left()
        for pod in remaining:
            _log.warning("what is left of the pod is put away later", pod=pod)
        for pod in {*self.known_pods()} - remaining:
            with left_for_later(f"network of pod {pod}"):
                machine.networks.forget(pod)
        # Such as a bridge of pods that an older journal had.
        self._check_bridges("agent stops")
        return True

    def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Block until a condition holds, checked again whenever a pod was worked on."""
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

    def _probe(self, situation: Situation) -> None:
        """Have the runs probed that go on as they are specified."""
        desired, machine = situation.desired, self._machine
        if desired is None:
            return
        runs = machine.containers.runs(desired.name)
        if not has_probes(desired, situation.observed.runs, runs):
            return
        specs = {container.name: container for container in desired.pod.containers}
        current = {run.id for run in situation.observed.runs if run.is_alive and is_current(run, desired)}
        for live in runs:
            if live.record.id in current:
                spec = specs[live.record.container]
                known = situation.status.containers.get(spec.name)
                health = known.health if known is not None and known.instance == live.record.id else None
                machine.probes.want(live, spec, hurry=is_undecided(situation), known=health)

    def view(self, pod: str) -> PodView:
        """Return what to show for a pod; an error of the look is shown with it."""
        try:
            return view_pod(self.observer.situation(pod, self._machine.journal.get(pod)))
        except Exception as error:
            if is_bug(error):
                _log.exception("looking at the pod failed by a bug", pod=pod)
            text = describe_failure(None, foreseen(error))
            return PodView(phase=Phase.DEGRADED, containers=(), error=text, next_retry=None)

    def _plan(self, situation: Situation) -> Plan:
        planned = plan(situation)
        if not self.observer.draining:
            return planned
        # Pods that are only stopped for the agent's end keep their status in the journal, and jobs their run.
        actions = tuple(step for step in planned.actions if not isinstance(step, Forget | GiveUpRun))
        return Plan(actions=actions, look_again=planned.look_again)

    def _wants_work(self, pod: str, *, look: bool) -> bool:
        """Return whether a step is due for a pod; `look`: the mounts of its containers may have changed."""
        networks = self._machine.networks
        try:
            desired = self.observer.desired(pod)
            runs = self.observer.to_run(pod, desired)
            if runs is not None and (networks.check(runs.pod) or look):
                self._machine.containers.look(pod, networks.directory(pod))
            situation = self.observer.situation(pod, desired)
            self._probe(situation)
            actions = self._plan(situation).actions
            return bool(actions) and not self._troubles.held(pod, actions)
        except Exception as error:
            self._failed(Work(name=pod, cause="resync"), None, error)
            return False

    def _work(self) -> None:
        while (pod := self._queue.take()) is not None:
            cause, began = self._causes.pop(pod, "timer"), time.perf_counter()
            try:
                self._reconcile(pod, cause)
            except Exception as error:
                self._failed(Work(name=pod, cause=cause), None, error)
            finally:
                self._machine.counters.turn(time.perf_counter() - began)
                self.observer.order.changed(pod)
                self._queue.done(pod)
                with self._changed:
                    self._version += 1
                    self._changed.notify_all()

    def _reconcile(self, pod: str, cause: str) -> None:
        """Look, plan and act until no step is due now, or it is the turn of other pods."""
        for _ in range(_PASSES_A_TURN):
            desired = self.observer.desired(pod)
            situation = self.observer.situation(pod, desired)
            runs = frozenset(run.id for run in situation.observed.runs)
            self._troubles.begin(pod, desired.generation if desired is not None else 0, runs)
            self._want_images(situation, pod)
            self._probe(situation)
            planned = self._plan(situation)
            actions, held = self._troubles.due(pod, planned.actions)
            if not actions:
                self._look_again(pod, planned.look_again, held)
                if desired is None and not planned.actions:
                    self._troubles.forget(pod)
                    self.observer.host_secrets.forget(pod)
                return
            wait, new = self._troubles.rest(pod)
            if new:
                steps = [step.describe() for step in actions]
                _log.error("the pod does not come to rest; looking again later", pod=pod, actions=steps)
            if wait:
                self._look_again(pod, wait)
                return
            self._act(actions, Work(name=pod, cause=cause, situation=situation))
        # Such as a pod with a step that fails and is retried at once, where backoff_base is 0.
        self._causes.setdefault(pod, cause)
        self._queue.add(pod, Rank.AGAIN)

    def _look_again(self, pod: str, *seconds: float | None) -> None:
        due = [wait for wait in seconds if wait is not None]
        if due:
            self._queue.add_after(pod, min(due))

    def _act(self, actions: Sequence[Action], work: Work) -> None:
        """Do steps; one that fails is retried later, and the others are still done."""
        failed = False
        for action in actions:
            if failed and isinstance(action, Forget):
                return
            known = self._troubles.failing(work.name, action)
            log = _log.debug if known else _log.info
            log(action.describe(), pod=work.name, revision=work.revision, cause=work.cause)
            try:
                self._steps.do(action, work)
            except Exception as error:
                failed = True
                self._failed(work, action, error)
            else:
                self._troubles.done(work.name, action)

    def _failed(self, work: Work, step: Action | None, error: Exception) -> None:
        """Log and record a failed step, and look again later; None is the look at the pod."""
        known = foreseen(error)
        self._machine.counters.failed_step()
        trouble, report = self._troubles.failed(work.name, step, known)
        self._queue.add_after(work.name, trouble.retry_at - self._machine.clock.monotonic())
        log = _log.bind(pod=work.name, revision=work.revision, cause=work.cause)
        if trouble.count == 1 or report:
            text = describe_failure(step, known)
            log.warning("step failed", error=text, exc_info=error if is_bug(known) else None)
        if report:
            self._machine.journal.try_to_record([work.event("step-failed", one_line(trouble.error))])

    def _want_images(self, situation: Situation, pod: str) -> None:
        """Wait for the images of missing containers, and give up every other pull of the pod."""
        pulls, wanted = self._machine.pulls, set[Need]()
        both = (situation,) if situation.upcoming is None else (situation, situation.of_update)
        for seen in both:
            containers = seen.desired.pod.containers if seen.desired is not None else ()
            wanted |= {
                pulls.need(pod, found, pin_of(seen, found.name))
                for found in containers
                if found.name in seen.observed.images
            }
        pulls.want(pod, wanted)
