"""Verbs by which a person stops a pod, starts it again, or gives it a fresh run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from tank_agent.api import types
from tank_agent.journal.stops import Wish
from tank_agent.linux.clock import rfc3339
from tank_agent.reconcile.core.observed import Situation
from tank_agent.reconcile.machine import Machine
from tank_agent.reconcile.reconciler import Reconciler


@dataclass(eq=False)
class ByHand:
    """Stops and starts pods. All methods may be called from many threads.

    `by` is the name of the user who asks, for events and the log.
    """

    machine: Machine
    reconciler: Reconciler

    def stop(self, name: str, by: str) -> types.AskedPod:
        """Let nothing of a pod run until it is started; raises as `Journal.stop`."""
        journal = self.machine.journal
        runs = journal.status(name).job
        current = runs.current if runs is not None else None
        changed = journal.stop(name, by)
        if changed:
            self.reconciler.wake(name, f"tank stop by {by}")
        since = rfc3339(journal.status(name).stopped)
        ends = f", and its run {current.number} ends" if current is not None else ""
        text = f"{name} stops{ends}; `tank start {name}` starts it again"
        if not changed:
            text = f"{name} is stopped already, since {since}"
        return types.AskedPod(
            name=name, change="stopped" if changed else "unchanged", message=text, since=since
        )

    def start(self, name: str, by: str) -> types.AskedPod:
        """Let a stopped pod run again; raises as `Journal.start`."""
        if self.machine.journal.start(name, self._asked(by)):
            return self._started(name, f"tank start by {by}")
        phase = self.reconciler.view(name).phase
        again = f"`tank restart {name}` gives it a fresh run"
        if self._is_job(name):
            again = f"`tank run {name}` runs it now"
        text = f"{name} is not stopped: it is {phase}; {again}"
        return types.AskedPod(name=name, change="unchanged", message=text)

    def restart(self, name: str, by: str) -> types.AskedPod:
        """Give `POD`, or `POD/CONTAINER`, a fresh run; raises as `Journal.restart`."""
        journal = self.machine.journal
        name, _, container = name.partition("/")
        if journal.restart(name, container, self._asked(by)):
            return self._started(name, f"tank restart by {by}")
        self.machine.pulls.retry(name)
        self.reconciler.wake(name, f"tank restart by {by}")
        desired = journal.get(name)
        names = [one.name for one in desired.pod.containers] if desired is not None else []
        what = f"{name}/{container}" if container else name
        return types.AskedPod(
            name=name,
            change="restarted",
            containers=(container,) if container else tuple(names),
            message=f"{what} restarts",
        )

    def _started(self, name: str, cause: str) -> types.AskedPod:
        self.machine.pulls.retry(name)
        self.reconciler.wake(name, cause)
        times = " at the times of its schedule" if self._is_job(name) else ""
        desired = self.machine.journal.get(name)
        names = tuple(one.name for one in desired.pod.containers) if desired is not None and not times else ()
        text = f"{name} was stopped, and runs again{times}"
        return types.AskedPod(name=name, change="started", message=text, containers=names)

    def _is_job(self, name: str) -> bool:
        desired = self.machine.journal.get(name)
        return desired is not None and desired.pod.schedule is not None

    def _asked(self, by: str) -> Wish:
        machine = self.machine
        return Wish(by=by, boot_id=machine.boot_id, monotonic=machine.clock.monotonic())


def started(situation: Situation) -> Situation:
    """Return a situation as if its pod were not stopped."""
    return replace(situation, status=replace(situation.status, stopped=None))


def note_on_plan(situation: Situation, change: str) -> Iterator[str]:
    """Yield a sentence for `tank plan` on a pod that is stopped."""
    desired = situation.desired
    if desired is None or not situation.is_stopped:
        return
    then = "; this change is done then" if change == "update" else ""
    since = rfc3339(situation.status.stopped)
    yield f"it is stopped since {since}: nothing of it runs until `tank start {desired.name}`{then}"
