"""One pod that cannot be worked on harms no other, in a worker, in a resync and beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from msgspec.structs import replace

from tank_agent.errors import Retry
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import ContainerStatus, Exit, PodStatus
from tank_agent.journal.store import MemoryStore
from tank_agent.linux.clock import Clock
from tank_agent.reconcile import reconciler as module
from tank_agent.reconcile.core.actions import Action, RecordExit, RemoveRun, Stop
from tank_agent.reconcile.core.observed import Situation
from tank_agent.reconcile.core.phase import UNCLAIMED
from tank_agent.reconcile.machine import Work
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.runtime.run import Stopping
from tank_agent.spec.model import Container, Pod, RestartPolicy
from tests.support.fake_runtime import fake_machine
from tests.support.rollouts import settle_all, settled
from tests.unit.reconcile.test_troubles import StillClock, World, live

DEADLINE = 60.0


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

    def after_others(self) -> frozenset[str]:
        return self.pods()

    def remembered(self) -> frozenset[str]:
        return self.pods()

    def check(self, *_: object) -> frozenset[str]:
        return frozenset()

    def check_host(self) -> tuple[str, ...]:
        return ()

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
    settle_all(journal)
    machine = fake_machine(journal, parts, Clock())
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


def test_what_a_pod_leaves_is_removed_only_when_no_worker_is_in_the_middle_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    begun, closing = threading.Event(), threading.Event()

    class Forgetful(Nothing):
        def forget(self, pod: str) -> None:
            order.append("removed")

    class Slow(Did):
        def do(self, action: object, work: Work) -> None:
            begun.set()
            assert closing.wait(DEADLINE)
            order.append("step done")
            raise Retry("later")

    loop = reconciler(Forgetful(Retry("bad")), Slow())
    close = loop.close

    def end_the_step_and_close() -> None:
        order.append("closing")
        closing.set()
        close()

    monkeypatch.setattr(loop, "close", end_the_step_and_close)
    loop.start()
    loop.wake("good", "test")
    assert begun.wait(DEADLINE)
    assert loop.drain(DEADLINE)
    assert order == ["closing", "step done", "removed", "removed"]


class Draining(World):
    """A machine whose runs end when they are stopped, and whose leftovers may resist."""

    def __init__(self, *pods: Pod, clock: Clock | None = None) -> None:
        super().__init__(*pods, clock=clock)
        self.ends = True
        self.found = {found.name: (live(found),) for found in pods}
        self.recorded: list[Situation] = []
        for found in pods:
            known = ContainerStatus(hash="h", instance=f"{found.name}-1", boot_id="boot")
            self.journal.record(found.name, PodStatus(containers={"app": known}, rollout=settled()))

    def pods(self) -> frozenset[str]:
        return frozenset(name for name, runs in self.found.items() if runs)

    def after_others(self) -> frozenset[str]:
        return self.pods()

    def do(self, action: Action, work: Work) -> None:
        super().do(action, work)
        if isinstance(action, Stop) and self.ends:
            stopping = Stopping(deadline=1e12)
            ended = live(self.spec(work.name), exit=Exit(at=1.0, code=0), stopping=stopping)
            self.found[work.name] = (ended,)
        elif isinstance(action, RecordExit):
            self.recorded.append(work.seen)
            before = self.journal.status(work.name)
            status = action.recorded(before, work.seen).status
            self.journal.record(work.name, replace(before, containers={"app": status}))
        elif isinstance(action, RemoveRun):
            self.found.pop(work.name)

    def spec(self, name: str) -> Pod:
        desired = self.journal.get(name)
        return desired.pod if desired is not None else pod(name)


@pytest.mark.parametrize("restart", RestartPolicy)
def test_a_drain_stops_every_pod_and_forgets_none(restart: RestartPolicy) -> None:
    world = Draining(replace(pod("a"), restart=restart), replace(pod("b"), restart=restart))
    world.network = "absent"
    # Also one that goes on as long as the agent does, because the journal never knew it.
    world.found["stray"] = (live(pod("stray")),)
    world.loop.start()
    assert world.loop.drain(DEADLINE)
    assert world.pods() == frozenset()
    assert {type(step) for step in world.did} == {Stop, RecordExit, RemoveRun}
    assert world.journal.statuses().keys() == {"a", "b"}
    # What runs only once is not run again by the next agent, and anything else is.
    cut_short = restart is RestartPolicy.NEVER
    assert {seen.cut_short for seen in world.recorded} == {cut_short}
    assert all(
        (world.journal.status(name).containers["app"].exit is not None) == cut_short for name in ("a", "b")
    )


def test_a_drain_that_is_not_done_in_time_leaves_the_workers_at_work() -> None:
    world = Draining(pod("a"), pod("b"))
    world.ends = False
    world.loop.start()
    assert not world.loop.drain(0.0)
    until(lambda: {step.run for step in world.did if isinstance(step, Stop)} == {"a-1", "b-1"})
    assert world.loop.alive()
    world.ends = True
    world.loop.close()


def test_a_drain_does_not_wait_for_what_cannot_be_put_away() -> None:
    clock = StillClock()
    world = Draining(pod("a"), pod("b"), clock=clock)
    world.fails[RemoveRun] = Retry("the disk is full")
    drained: list[bool] = []
    drain = threading.Thread(target=lambda: drained.append(world.loop.drain(DEADLINE)), daemon=True)
    world.loop.start()
    drain.start()
    until(lambda: all(world.loop.view(name).error for name in ("a", "b")))
    # It tries for a while, as a disk may have room again soon, and not as long as it may.
    clock.now += module._PATIENCE - 1
    world.work("a", "b")
    assert drain.is_alive()
    # Where the drain saw the ends only after the clock was put forward, its patience counts from there.
    for _ in range(int(module._PATIENCE)):
        clock.now += 1
        drain.join(2)
    assert drained == [True]
    assert world.pods() == {"a", "b"}


def test_a_pod_that_the_journal_never_knew_goes_on_until_it_is_released() -> None:
    world = Draining(pod("known"))
    world.found["stray"] = (live(pod("stray")),)
    world.loop.start()
    world.loop.resync()
    world.work("stray")
    assert world.loop.view("stray").error == UNCLAIMED
    assert world.did == []
    assert world.loop.release("stray")
    assert not world.loop.release("stray")
    world.ends = False
    world.work("stray")
    assert Stop(run="stray-1", container="app") in world.did
    world.loop.close()
