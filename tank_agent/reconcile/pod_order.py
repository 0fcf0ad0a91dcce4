"""The order between pods: who waits for whom at the first start of a boot, and who ends before whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tank_agent.journal.records import DesiredPod
from tank_agent.reconcile.core.observed import Run, Situation
from tank_agent.reconcile.core.order import unready_pod
from tank_agent.reconcile.machine import Machine
from tank_agent.runtime.run import LiveRun, RunState
from tank_agent.spec.order import find_cycle, waited_for


class PodOrder:
    """Remembers the pods that wait for others, and wakes them when these have changed.

    Args:
        look: returns the situation of a pod without other pods.
        is_leaving: whether a pod is to end.
        wake: called with a pod and the reason to look at it.
    """

    def __init__(
        self,
        machine: Machine,
        look: Callable[[str, DesiredPod | None], Situation],
        is_leaving: Callable[[str], bool],
        wake: Callable[[str, str], None],
    ) -> None:
        self._machine = machine
        self._look = look
        self._is_leaving = is_leaving
        self._wake = wake
        # By pod: those that it waits for before it starts, and those that must end before it does.
        self._waiting: dict[str, frozenset[str]] = {}
        self._holding: dict[str, frozenset[str]] = {}
        self._graph: tuple[Mapping[str, DesiredPod], dict[str, tuple[str, ...]]] = ({}, {})

    def awaited(self, situation: Situation) -> dict[str, str]:
        """Return the pods that a pod starts after and that are not ready, each with its state in a word."""
        desired = situation.desired
        assert desired is not None
        released = situation.status.released == self._machine.boot_id
        if not desired.pod.after or released or situation.observed.runs:
            self._waiting.pop(desired.name, None)
            return {}
        all_pods = self._machine.journal.desired()
        names = waited_for(desired.name, self._graph_of(all_pods))
        # Before the look, so that a change in the meantime is not missed.
        self._waiting[desired.name] = frozenset(names)
        found = {}
        for name in names:
            declared = all_pods.get(name)
            word = unready_pod(self._look(name, declared)) if declared is not None else "there is no such pod"
            if word:
                found[name] = word
        self._waiting[desired.name] = frozenset(found)
        return found

    def held_by(self, pod: str, runs: Sequence[Run]) -> tuple[str, ...]:
        """Return the pods that started after one that is to end, and that are to end as well."""
        if not any(run.is_alive for run in runs):
            self._holding.pop(pod, None)
            return ()
        machine = self._machine
        after: dict[str, frozenset[str]] = {}
        others = machine.containers.after_others()
        # Before the look, so that an end in the meantime is not missed.
        self._holding[pod] = frozenset(others)
        for name in others:
            records = [run.record for run in machine.containers.runs(name) if lives(run)]
            found = frozenset(needed for record in records for needed in record.pods_after)
            if found and (name == pod or self._is_leaving(name)):
                after[name] = found
        held = tuple(sorted(name for name, needed in after.items() if pod in needed and name != pod))
        # A circle, such as of specs from before and after a change, has no order.
        if not held or find_cycle(after):
            self._holding.pop(pod, None)
            return ()
        self._holding[pod] = frozenset(held)
        return held

    def changed(self, pod: str) -> None:
        """Look at the pods that start after one that has changed, or that must end before it does."""
        for known in (self._waiting, self._holding):
            if known:
                for name, others in list(known.items()):
                    if pod in others:
                        self._wake(name, "dependency")

    def _graph_of(self, pods: Mapping[str, DesiredPod]) -> dict[str, tuple[str, ...]]:
        # Compares the identities of the values first, which are the same after most changes.
        known, graph = self._graph
        if known != pods:
            graph = {name: other.pod.after for name, other in pods.items() if other.pod.after}
            self._graph = (pods, graph)
        return graph


def lives(run: LiveRun) -> bool:
    """Return whether a process of a run may be there."""
    return run.state is RunState.RUNNING or (run.state is RunState.ORPHANED and not run.lost)
