"""`tank stop`, `start` and `restart`: what they answer, and what they wake."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tank_agent.control.by_hand import ByHand
from tank_agent.journal.journal import Journal
from tank_agent.journal.store import MemoryStore
from tests.unit.journal.builders import FakeClock, declared, pod, snapshot


class World:
    """A pod "web" in a journal, and what is asked of pulls and the loop."""

    def __init__(self) -> None:
        clock = FakeClock()
        self.journal, self.asked = Journal(MemoryStore(), clock=clock), list[tuple[str, ...]]()
        self.journal.merge(snapshot(declared(pod())))
        machine: Any = SimpleNamespace(
            journal=self.journal,
            pulls=SimpleNamespace(retry=lambda name: self.asked.append(("retry", name))),
            clock=SimpleNamespace(monotonic=lambda: 1.0),
            boot_id="this",
        )
        reconciler: Any = SimpleNamespace(
            wake=lambda *words: self.asked.append(("wake", *words)),
            view=lambda _: SimpleNamespace(phase="running"),
        )
        self.by_hand = ByHand(machine, reconciler)


def test_a_stop_wakes_once() -> None:
    world = World()
    first, second = world.by_hand.stop("web", "ann"), world.by_hand.stop("web", "bob")
    assert (first.change, second.change) == ("stopped", "unchanged")
    assert first.since == second.since
    assert second.message == f"web is stopped already, since {first.since}"
    assert world.asked == [("wake", "web", "tank stop by ann")]


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_a_pull_that_failed_before_the_stop_is_tried_again_at_once(verb: str) -> None:
    world = World()
    world.by_hand.stop("web", "ann")
    world.asked.clear()
    found = getattr(world.by_hand, verb)("web", "ann")
    assert (found.change, found.containers) == ("started", ("app",))
    assert world.asked == [("retry", "web"), ("wake", "web", f"tank {verb} by ann")]


def test_a_start_of_what_runs_says_what_gives_a_fresh_run() -> None:
    world = World()
    found = world.by_hand.start("web", "ann")
    assert (found.change, world.asked) == ("unchanged", [])
    assert found.message == "web is not stopped: it is running; `tank restart web` gives it a fresh run"


def test_a_restart_of_one_container_names_it() -> None:
    found = World().by_hand.restart("web/app", "ann")
    assert (found.change, found.message, found.containers) == ("restarted", "web/app restarts", ("app",))
