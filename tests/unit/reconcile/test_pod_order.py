"""Pods that end after others are woken by their end, whenever that is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from msgspec.structs import replace

from tank_agent.journal.journal import Journal
from tank_agent.journal.store import MemoryStore
from tank_agent.reconcile.core.observed import Run
from tank_agent.reconcile.pod_order import PodOrder
from tank_agent.runtime.run import LiveRun
from tests.unit.reconcile.test_troubles import live, pod


def _after(name: str, *others: str) -> LiveRun:
    run = live(pod(name))
    run.record = replace(run.record, pods_after=others)
    return run


class Machine:
    """A machine on which pod "app" started after pod "db"; `looked` is called at each look at a pod."""

    def __init__(self) -> None:
        self.found = {"app": (_after("app", "db"),), "db": (_after("db"),)}
        self.looked: Any = lambda _: None
        self.journal = Journal(MemoryStore(), clock=lambda: 1.0)
        self.boot_id = "boot"
        self.containers = SimpleNamespace(after_others=lambda: frozenset(("app",)), runs=self.runs)
        self.woken: list[str] = []
        self.order = PodOrder(
            cast(Any, self),
            cast(Any, None),
            lambda _: True,
            lambda name, _: self.woken.append(name),
        )

    def runs(self, name: str) -> Any:
        found = self.found.get(name, ())
        self.looked(name)
        return found

    def held(self) -> tuple[str, ...]:
        runs = [Run.of(run) for run in self.found["db"]]
        return self.order.held_by("db", runs)


def test_a_pod_waits_for_the_end_of_those_that_started_after_it() -> None:
    machine = Machine()
    assert machine.held() == ("app",)
    machine.order.changed("app")
    assert machine.woken == ["db"]
    del machine.found["app"]
    assert machine.held() == ()
    machine.order.changed("app")
    assert machine.woken == ["db"], "it waits no more"


def test_an_end_during_the_look_is_not_missed() -> None:
    """Else the pod would wait for a wake that was given before it was noted, at a shutdown to its end."""
    machine = Machine()

    def ends(name: str) -> None:
        if name == "app":
            machine.order.changed("app")

    machine.looked = ends
    assert machine.held() == ("app",)
    assert machine.woken == ["db"]


def test_pods_that_wait_for_each_other_end_at_once() -> None:
    machine = Machine()
    machine.found["db"] = (_after("db", "app"),)
    machine.containers.after_others = lambda: frozenset(("app", "db"))
    assert machine.held() == ()
