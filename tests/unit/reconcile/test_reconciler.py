"""One pod that cannot be worked on harms no other, in a worker, in a resync and beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from tank_agent.errors import Retry
from tank_agent.journal.journal import Journal
from tank_agent.journal.store import MemoryStore
from tank_agent.linux.clock import SystemClock
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.reconcile.steps import Machine, Work
from tank_agent.spec.model import Container, Pod

DEADLINE = 10.0


def pod(name: str) -> Pod:
    return Pod(name=name, containers=(Container(name="app", rootfs="/r", command=("/x",)),))


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Nothing:
    """Containers, networks and pulls of a machine on which nothing runs; looking at one pod fails."""

    def __init__(self, trouble: Exception) -> None:
        self.trouble = trouble
        self.bad: str | None = "bad"

    def runs(self, pod: str) -> tuple[()]:
        if pod == self.bad:
            raise self.trouble
        return ()

    def state(self, pod: str) -> str:
        return "absent"

    def pods(self) -> frozenset[str]:
        return frozenset()

    def check(self, *_: object) -> frozenset[str]:
        return frozenset()

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Did:
    """Steps that remember for which pods they were asked, and then have to wait."""

    def __init__(self) -> None:
        self.pods: set[str] = set()

    def do(self, action: object, work: Work) -> None:
        self.pods.add(work.name)
        raise Retry("later")


def reconciler(parts: Nothing, steps: Did, workers: int = 1) -> Reconciler:
    journal = Journal(MemoryStore(), clock=time.time)
    journal.put_all([pod("bad"), pod("good")], "r")
    machine = Machine(
        journal=journal,
        containers=cast(Any, parts),
        networks=cast(Any, parts),
        pulls=cast(Any, parts),
        clock=SystemClock(),
        boot_id="boot",
        backoff=Backoff(),
    )
    return Reconciler(machine, cast(Any, steps), workers=workers)


@pytest.mark.parametrize("trouble", [Retry("the disk is full"), ZeroDivisionError("a bug")])
def test_a_worker_survives_and_tries_again(trouble: Exception) -> None:
    parts, steps = Nothing(trouble), Did()
    loop = reconciler(parts, steps)
    loop.start()
    loop.wake("bad", "test")
    loop.wake("good", "test")
    until(lambda: "good" in steps.pods)
    assert loop.alive()
    parts.bad = None
    until(lambda: "bad" in steps.pods)
    loop.close()


def test_a_resync_looks_at_every_pod_that_it_can() -> None:
    parts, steps = Nothing(ZeroDivisionError("a bug")), Did()
    loop = reconciler(parts, steps, workers=0)
    assert loop.resync() == 1
    parts.bad = None
    assert loop.resync() == 2


def test_what_a_pod_leaves_is_removed_only_when_no_worker_is_in_the_middle_of_it() -> None:
    order: list[str] = []
    begun = threading.Event()

    class Forgetful(Nothing):
        def forget(self, pod: str) -> None:
            order.append("removed")

    class Slow(Did):
        def do(self, action: object, work: Work) -> None:
            begun.set()
            time.sleep(0.2)
            order.append("step done")
            raise Retry("later")

    loop = reconciler(Forgetful(Retry("bad")), Slow())
    loop.start()
    loop.wake("good", "test")
    assert begun.wait(DEADLINE)
    assert loop.drain(DEADLINE)
    assert order == ["step done", "removed", "removed"]
