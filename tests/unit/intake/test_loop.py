"""The loop of the sources: what changed wakes its pods, and what could not be stored is stored later."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from tank_agent.control.sources import GitOps
from tank_agent.errors import Problem, Retry
from tank_agent.intake.loop import SourceLoop
from tank_agent.intake.seeding import Seeding
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent, PodStatus
from tank_agent.journal.store import MemoryStore
from tank_agent.journal.transitions import Applied
from tank_agent.linux.clock import SystemClock
from tank_agent.source.seed import SeedSource
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Container, Pod
from tank_agent.spec.selectors import Host
from tests.unit.reconcile.test_pulls import DEADLINE, Woken


class OneSource:
    """A source whose snapshot the test sets."""

    def __init__(self, *words: str) -> None:
        self.set(*words)
        self.settle: float | None = None
        self.looks = 0

    def set(self, *words: str, problems: tuple[Problem, ...] = ()) -> None:
        self.pods = [
            Pod(name=word, containers=(Container(name="c", rootfs="/r", command=("x",)),)) for word in words
        ]
        pods = tuple(
            Declared(
                pod=pod,
                owner=f"dir:/{pod.name}.toml",
                revision=pod.name,
                file=f"/{pod.name}.toml",
            )
            for pod in self.pods
        )
        self.current = Snapshot(source="dir", revision="", pods=pods, problems=problems)

    def snapshot(self) -> Snapshot:
        self.looks += 1
        if self.settle is not None and self.looks > 2:
            self.settle = None
        return self.current

    def settle_after(self) -> float | None:
        return self.settle


def make_loop(source: OneSource, woken: Woken, resyncs: list[int], resync: float = 60.0) -> SourceLoop:
    return SourceLoop(
        [source],
        Journal(MemoryStore(), clock=SystemClock().wall),
        wake=woken,
        each_resync=lambda: resyncs.append(1),
        resync=resync,
        clock=SystemClock(),
    )


def test_a_change_wakes_its_pods_only() -> None:
    source, woken = OneSource("a", "b"), Woken()
    loop = make_loop(source, woken, [])
    loop.start()
    assert woken.pods == {"a", "b"}
    woken.pods.clear()
    source.set("a", "c")
    loop.notify()
    woken.wait({"b", "c"})
    assert woken.pods == {"b", "c"}
    loop.close()


def test_sync_waits_until_the_sources_are_at_rest() -> None:
    source, woken = OneSource("a"), Woken()
    loop = make_loop(source, woken, [])
    loop.start()
    source.settle = 0.01
    assert loop.sync(DEADLINE)
    assert source.settle is None
    assert source.looks == 3
    loop.close()


def test_the_resync_comes_by_the_clock_whatever_events_come() -> None:
    source, woken, resyncs = OneSource("a"), Woken(), list[int]()
    loop = make_loop(source, woken, resyncs, resync=0.2)
    loop.start()
    end = SystemClock().monotonic() + DEADLINE
    while len(resyncs) < 2 and SystemClock().monotonic() < end:
        loop.notify()
        threading.Event().wait(0.01)
    assert len(resyncs) >= 2
    loop.close()


class FullJournal(Journal):
    """A journal whose disk is full until the test makes room."""

    full = True

    def merge(self, snapshot: Snapshot) -> Applied:
        if self.full:
            raise Retry("cannot write the journal: No space left on device", hint="make room on that disk")
        return super().merge(snapshot)

    def record(self, name: str, status: PodStatus | None, events: Iterable[NewEvent] = ()) -> None:
        if self.full:
            raise Retry("cannot write the journal: No space left on device")
        super().record(name, status, events)


def test_what_could_not_be_stored_is_said_until_it_is_and_recorded_when_there_is_room() -> None:
    journal, source = FullJournal(MemoryStore(), clock=SystemClock().wall), OneSource("a")
    loop = SourceLoop(
        [source], journal, wake=Woken(), each_resync=lambda: None, resync=60.0, clock=SystemClock()
    )
    seeding = Seeding(journal, Woken(), loop.suspended, loop.unstored.note)
    seeds = SeedSource(None, pods=tuple(OneSource("s").pods))
    gitops = GitOps(journal, loop, None, Host(name="x"), directories=(Path("/pods.d"), Path("/seed.d")))

    def errors() -> list[str | None]:
        return [directory.error for directory in gitops.report().directories]

    assert errors() == [None, None]
    for _ in range(3):
        loop.look("source changed")
        seeding.plant(seeds, "agent start")
        assert [str(error).splitlines()[0] for error in errors()] == [
            "cannot write the journal: No space left on device"
        ] * 2
    journal.full = False
    loop.look("resync")
    seeding.catch_up()
    assert errors() == [None, None]
    assert set(journal.desired()) == {"a", "s"}
    told = [(event.type, event.message) for event in journal.events() if event.pod == ""]
    reason = "could not be stored: cannot write the journal: No space left on device; make room on that disk"
    assert told == [
        ("source-error", f"what the files say {reason}"),
        ("source-error", f"what the seeds say {reason}"),
        ("source-recovered", "what the files say is stored again"),
        ("source-recovered", "what the seeds say is stored again"),
    ]
