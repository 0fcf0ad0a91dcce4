"""A quiet look at 1,000 pods: the loop itself, with a journal in memory, and no containers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

from bench._measure import Table, milliseconds
from tank_agent.journal.memory_journal import MemoryJournal
from tank_agent.journal.records import ContainerStatus, PodStatus
from tank_agent.linux.clock import SystemClock
from tank_agent.reconcile.plan import container_hash
from tank_agent.reconcile.reconciler import Machine, Reconciler
from tank_agent.reconcile.restart import Backoff
from tank_agent.runtime.containers import Live
from tank_agent.runtime.instance import Record
from tank_agent.spec.model import Container, Pod

PODS = 1000
ROUNDS = 50


class RunningContainers:
    """Says that every pod runs as it should."""

    def __init__(self, pods: list[Pod]) -> None:
        self._runs = {pod.name: (_live(pod),) for pod in pods}

    def runs(self, pod: str) -> tuple[Live, ...]:
        """Return a pod's one run."""
        return self._runs[pod]

    def pods(self) -> frozenset[str]:
        """Return all pods."""
        return frozenset(self._runs)

    def check(self) -> None:
        """Notice nothing."""


class UsedNetworks:
    """Says that every pod has the network that it should have."""

    def state(self, pod: str) -> str:
        """Return that a container ran in it."""
        return "used"

    def pods(self) -> frozenset[str]:
        """Return none beyond those that are desired."""
        return frozenset()

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def _live(pod: Pod) -> Live:
    container = pod.containers[0]
    record = Record(
        id=f"{pod.name}-1",
        pod=pod.name,
        container=container.name,
        hash=container_hash(pod, container),
        revision="r",
        cgroup="",
        image="",
        stop_signal=15,
        stop_grace=1.0,
        terminal=False,
        created_at=0.0,
    )
    return Live(record=record, directory=Path("/nowhere"), started=True, pid=1, process=0, monitor=0)


def main() -> None:
    """Measure `Reconciler.resync` when there is nothing to do."""
    pods = [
        Pod(
            name=f"pod-{number}",
            containers=(Container(name="app", rootfs="/root", command=("/bin/x",), env={"N": str(number)}),),
        )
        for number in range(PODS)
    ]
    journal = MemoryJournal(clock=time.time)
    journal.put_all(pods, "r")
    for pod in pods:
        status = ContainerStatus(
            hash=container_hash(pod, pod.containers[0]), instance=f"{pod.name}-1", started_at=0.0
        )
        journal.record(pod.name, PodStatus(containers={"app": status}))
    machine = Machine(
        journal=journal,
        containers=cast(Any, RunningContainers(pods)),
        networks=cast(Any, UsedNetworks()),
        pulls=cast(Any, None),
        clock=SystemClock(),
        boot_id="boot",
        backoff=Backoff(),
    )
    reconciler = Reconciler(machine, cast(Any, None), workers=0)
    assert reconciler.resync() == 0
    table = Table(f"A resync of {PODS} pods that are as they should be", "ms")
    for _ in range(ROUNDS):
        table.add("resync", milliseconds(reconciler.resync))
    table.print()


if __name__ == "__main__":
    main()
