"""What sources publish reaches the journal and wakes pods; what cannot be stored is reported until it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from tank_agent.control.sources import Sources
from tank_agent.errors import Problem, Retry
from tank_agent.intake.intake import Intake
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent, PodStatus
from tank_agent.journal.store import MemoryStore
from tank_agent.journal.transitions import Applied
from tank_agent.runtime.secrets.secrets import Secrets
from tank_agent.settings.git import GitSettings
from tank_agent.settings.settings import ReconcileSettings, Settings
from tank_agent.source.follower import Follower, Inbox, ReadingFollower
from tank_agent.source.kinds import SOURCES, SourceKind
from tank_agent.source.seed import SeedFollower, read_seeds
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Host
from tests.support.age import secrets_of
from tests.unit.journal.builders import pod

DEADLINE = 60.0


class Woken:
    """Collects the pods that were woken."""

    def __init__(self) -> None:
        self.pods: set[str] = set()
        self._changed = threading.Condition()

    def __call__(self, pod: str, cause: str) -> None:
        with self._changed:
            self.pods.add(pod)
            self._changed.notify_all()

    def wait(self, pods: set[str]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: pods <= self.pods, DEADLINE)


class OneSource:
    """A source whose snapshot the test sets."""

    def __init__(self, *words: str) -> None:
        self.set(*words)
        self.settle: float | None = None
        self.looks = 0

    def set(self, *words: str, problems: tuple[Problem, ...] = ()) -> None:
        self.pods = [pod(word) for word in words]
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


def kind(follower: Follower, name: str = "dir") -> SourceKind:
    return SourceKind(name=name, called=name, describe=str, follow=lambda _: follower)


def make_intake(
    source: OneSource,
    woken: Woken,
    resyncs: list[int],
    resync: float = 60.0,
    journal: Journal | None = None,
    *others: SourceKind,
    secrets: Secrets | None = None,
) -> Intake:
    def follow(inbox: Inbox) -> Follower:
        return ReadingFollower("dir", source.snapshot, inbox, settle_after=source.settle_after)

    return Intake(
        Settings(reconcile=ReconcileSettings(resync=resync)),
        Host(name="x"),
        journal if journal is not None else Journal(MemoryStore(), clock=time.time),
        wake=woken,
        resync=lambda: resyncs.append(1),
        secrets=secrets or secrets_of(),
        kinds=(SourceKind(name="dir", called="the files", describe=str, follow=follow), *others),
    )


def test_a_change_wakes_its_pods_only() -> None:
    source, woken = OneSource("a", "b"), Woken()
    intake = make_intake(source, woken, [])
    intake.start()
    assert woken.pods == {"a", "b"}
    woken.pods.clear()
    source.set("a", "c")
    intake.followers[0].wake()
    woken.wait({"b", "c"})
    assert woken.pods == {"b", "c"}
    intake.close()


def test_a_look_waits_until_the_sources_are_at_rest_and_then_for_all_pods() -> None:
    source, woken, resyncs = OneSource("a"), Woken(), list[int]()
    intake = make_intake(source, woken, resyncs)
    intake.start()
    source.settle = 0.01
    assert intake.look(DEADLINE) is None
    assert source.settle is None
    assert source.looks == 3
    assert resyncs == [1]
    intake.close()


class SlowFollower(Follower):
    """A source that does not answer."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.gate = threading.Event()

    def look(self, cause: str) -> None:
        self.gate.wait(DEADLINE)

    def pause(self) -> float:
        return 60.0


def test_one_deadline_counts_for_all_sources_and_one_that_is_slow_holds_up_no_other() -> None:
    source, slow = OneSource("a"), SlowFollower()
    intake = make_intake(source, Woken(), [], 60.0, None, kind(slow, "slow"))
    intake.start()
    looks, began = source.looks, time.monotonic()
    # As much as the thread of the one that answers needs on a busy machine.
    assert intake.look(2.0) is slow
    assert time.monotonic() - began < DEADLINE / 2
    assert source.looks > looks
    slow.gate.set()
    intake.close()


def test_the_resync_comes_by_the_clock_whatever_events_come() -> None:
    source, woken, resyncs = OneSource("a"), Woken(), list[int]()
    intake = make_intake(source, woken, resyncs, resync=0.2)
    intake.start()
    end = time.monotonic() + DEADLINE
    while len(resyncs) < 2 and time.monotonic() < end:
        intake.followers[0].wake()
        threading.Event().wait(0.01)
    assert len(resyncs) >= 2
    intake.close()


class FullJournal(Journal):
    """A journal whose disk is full until the test makes room."""

    full = True

    def merge(self, snapshot: Snapshot, *, still: Callable[[], bool] = lambda: True) -> Applied:
        if self.full:
            raise Retry("cannot write the journal: No space left on device", hint="make room on that disk")
        return super().merge(snapshot, still=still)

    def record(self, name: str, status: PodStatus | None, events: Iterable[NewEvent] = ()) -> None:
        if self.full:
            raise Retry("cannot write the journal: No space left on device")
        super().record(name, status, events)


class Seeds(SeedFollower):
    """Seeds that the test gives."""

    def __init__(self, inbox: Inbox, *names: str) -> None:
        super().__init__(inbox)
        self._read = partial(read_seeds, None, pods=tuple(map(pod, names)))


def test_what_could_not_be_stored_is_reported_until_it_is_and_recorded_when_there_is_room() -> None:
    journal, source = FullJournal(MemoryStore(), clock=time.time), OneSource("a")
    seed = SourceKind(name="seed", called="the seeds", describe=str, follow=lambda inbox: Seeds(inbox, "s"))
    intake = make_intake(source, Woken(), [], 60.0, journal, seed)
    places = {"dir": "/pods.d", "seed": "/seed.d"}
    gitops = Sources(journal, intake, None, Host(name="x"), places=places)
    files, seeds = intake.followers

    def errors() -> list[str | None]:
        return [directory.error for directory in gitops.report().directories]

    assert errors() == [None, None]
    for _ in range(3):
        files.look("source changed")
        seeds.look("agent start")
        assert [str(error).splitlines()[0] for error in errors()] == [
            "cannot write the journal: No space left on device"
        ] * 2
    journal.full = False
    files.look("resync")
    seeds.look("resync")
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


def test_seeds_that_cannot_be_stored_are_stored_later_and_once() -> None:
    journal, woken = FullJournal(MemoryStore(), clock=time.time), list[str]()
    intake = Intake(
        Settings(),
        Host(name="x"),
        journal,
        wake=lambda name, _: woken.append(name),
        resync=list,
        secrets=secrets_of(),
        kinds=(),
    )
    seeds = Seeds(intake.inbox, "seed")
    seeds.look("agent start")
    seeds.look("resync")
    assert woken == []
    journal.full = False
    seeds.look("resync")
    assert woken == ["seed"]
    seeds.look("resync")
    assert woken == ["seed"]


@pytest.mark.parametrize("kind", SOURCES, ids=lambda kind: kind.name)
def test_the_follower_of_every_kind_can_be_made(kind: SourceKind, tmp_path: Path) -> None:
    git = GitSettings(url=str(tmp_path / "fleet.git"))
    settings = Settings(data_dir=tmp_path, pods_dir=tmp_path / "pods.d", seed_dir=tmp_path, git=git)
    intake = Intake(
        settings,
        Host(name="x"),
        Journal(MemoryStore(), clock=time.time),
        wake=lambda *_: None,
        resync=list,
        secrets=secrets_of(),
        kinds=[kind],
    )
    made = [follower.source for follower in intake.followers]
    # Other kinds may need a key of theirs to be followed.
    assert made == [kind.name] or (made == [] and kind.name not in ("dir", "seed", "git"))
