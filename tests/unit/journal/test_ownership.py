"""The ownership rules as a state machine against a model that is as simple as the rules are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given as given_
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from tank_agent.errors import InvalidSpec, OwnedElsewhere, PodNotFound, Problem, Stalled
from tank_agent.journal import ownership
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, PodStatus, Revision, Verdict
from tank_agent.journal.store import MemoryStore
from tank_agent.journal.transitions import Applied
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec import order
from tank_agent.spec.model import Pod
from tests.unit.journal.builders import FakeClock, declared, pod, snapshot

Mirror = Literal["dir", "git"]

names = st.sampled_from(["a", "b", "c"])
files = st.sampled_from(["/1.toml", "/2.toml", "/3.toml"])
commands = st.sampled_from(["x", "y"])
mirrors = st.sampled_from(["dir", "git"])


@dataclass
class Running:
    owner: str
    command: str
    generation: int
    hold: str | None = None
    # What its file declared when it was pinned.
    declared: str = ""


@dataclass
class Tree:
    """What stands in a source: pods by file, and the files that are broken."""

    files: dict[str, dict[str, str]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def copy(self) -> Tree:
        return Tree({file: dict(pods) for file, pods in self.files.items()}, set(self.broken))

    def claims(self, name: str) -> list[tuple[str, str]]:
        return sorted(
            (file, pods[name])
            for file, pods in self.files.items()
            if file not in self.broken and name in pods
        )


class Ownership(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.existing: set[str] = set()
        self.clock = FakeClock()
        self.journal = self.open()
        self.trees: dict[str, Tree] = {"dir": Tree(), "git": Tree()}
        self.seen: dict[str, Tree] = {}
        self.running: dict[str, Running] = {}
        self.generations: dict[str, int] = {}
        self.spent: set[str] = set()
        self.leaving: dict[str, Running] = {}

    def open(self) -> Journal:
        return Journal(self.store, clock=self.clock, owner_exists=lambda owner: owner in self.existing)

    # The world changes.

    @rule(source=mirrors, file=files, pods=st.dictionaries(names, commands, min_size=1))
    def write(self, source: str, file: str, pods: dict[str, str]) -> None:
        self.trees[source].files[file] = pods
        self.trees[source].broken.discard(file)
        self.existing.add(f"{source}:{file}")

    @rule(source=mirrors, file=files)
    def spoil(self, source: str, file: str) -> None:
        if file in self.trees[source].files:
            self.trees[source].broken.add(file)

    @rule(source=mirrors, file=files)
    def remove(self, source: str, file: str) -> None:
        self.trees[source].files.pop(file, None)
        self.trees[source].broken.discard(file)
        self.existing.discard(f"{source}:{file}")

    @rule(source=mirrors, old=files, new=files)
    def rename(self, source: str, old: str, new: str) -> None:
        tree = self.trees[source]
        if old == new or old not in tree.files:
            return
        tree.files[new] = tree.files.pop(old)
        tree.broken = (tree.broken - {new}) | ({new} if old in tree.broken else set())
        tree.broken.discard(old)
        self.existing.discard(f"{source}:{old}")
        self.existing.add(f"{source}:{new}")

    # The journal hears of it.

    @rule(source=mirrors)
    def merge(self, source: Mirror) -> None:
        before = {name: (one.owner, one.command) for name, one in self.running.items()}
        tree = self.trees[source].copy()
        self.seen[source] = tree
        freed = self.model_merge(source, tree)
        other = "git" if source == "dir" else "dir"
        if other in self.seen and any(self.seen[other].claims(name) for name in freed):
            self.model_merge(other, self.seen[other])
        self.leaving.clear()
        applied = self.journal.merge(self.snapshot(source, tree))
        after = {name: (one.owner, one.command) for name, one in self.running.items()}
        assert set(applied.removed) == before.keys() - after.keys()
        assert set(applied.changed) == {
            name for name, (_, command) in after.items() if name not in before or before[name][1] != command
        }
        self.every_declaration_that_lost_is_told(source, tree)

    @rule(source=mirrors)
    def merge_again(self, source: Mirror) -> None:
        self.merge(source)
        again = self.journal.merge(self.snapshot(source, self.seen[source]))
        assert again == Applied()

    @rule(source=mirrors)
    def outage(self, source: Mirror) -> None:
        self.seen.pop(source, None)
        applied = self.journal.merge(snapshot(source=source, available=False))
        assert (applied.changed, applied.removed) == ((), ())

    @rule(name=names, command=commands)
    def seed(self, name: str, command: str) -> None:
        if name not in self.running and name not in self.spent:
            self.start(name, "seed", command)
            self.spent.add(name)
        self.journal.merge(snapshot(declared(pod(name, command), "/seed.toml", "seed"), source="seed"))

    @rule(name=names, command=commands)
    def apply(self, name: str, command: str) -> None:
        current = self.running.get(name)
        if current is not None and current.owner.startswith(("dir", "git")):
            with pytest.raises(OwnedElsewhere):
                self.journal.put(pod(name, command), "r")
            return
        self.start(name, "api", command)
        self.journal.put(pod(name, command), "r")

    @rule(name=names)
    def delete(self, name: str) -> None:
        current = self.running.get(name)
        if current is None:
            assert self.journal.delete(name) is False
            return
        source = current.owner.partition(":")[0]
        if current.owner in self.existing:
            with pytest.raises(OwnedElsewhere):
                self.journal.delete(name)
            return
        self.leaving[name] = self.running.pop(name)
        self.spent.add(name)
        for mirror in ("dir", "git"):
            tree = self.seen.get(mirror)
            if mirror != source and tree is not None and name not in self.running and tree.claims(name):
                self.model_merge(mirror, tree)
        self.leaving.clear()
        assert self.journal.delete(name) is True

    @rule(name=names)
    def suspend(self, name: str) -> None:
        current = self.running.get(name)
        if current is None or not current.owner.startswith(("dir", "git")):
            with pytest.raises(PodNotFound if current is None else Stalled):
                self.journal.suspend(name)
            return
        current.hold = "suspended"
        assert self.journal.suspend(name).changed == ()

    @rule(name=names, command=commands)
    def roll_back(self, name: str, command: str) -> None:
        current = self.running.get(name)
        to = Revision(generation=1, pod=pod(name, command), owner="", revision="old", hash="", changed_at=1.0)
        if current is None or current.command == command:
            with pytest.raises(PodNotFound if current is None else Stalled):
                self.journal.roll_back(name, to)
            return
        if current.owner.startswith(("dir", "git")) and current.hold != "suspended":
            current.declared = current.declared if current.hold else current.command
            current.hold = "pinned"
        current.command = command
        current.generation += 1
        self.generations[name] = current.generation
        assert self.journal.roll_back(name, to).changed == (name,)

    @rule(name=names)
    def resume(self, name: str) -> None:
        current = self.running.get(name)
        if current is None:
            with pytest.raises(PodNotFound):
                self.journal.resume(name)
            return
        source = current.owner.partition(":")[0]
        if current.hold is not None:
            current.hold = None
            freed = self.model_merge(source, self.seen[source], only=name) if source in self.seen else set()
            other = "git" if source == "dir" else "dir"
            if freed and other in self.seen and self.seen[other].claims(name):
                self.model_merge(other, self.seen[other])
            self.leaving.clear()
        self.journal.resume(name)

    @rule()
    def restart(self) -> None:
        self.journal.close()
        self.journal = self.open()
        self.seen.clear()

    # The model.

    def model_merge(self, source: str, tree: Tree, only: str | None = None) -> set[str]:
        freed = set()
        for name in ("a", "b", "c") if only is None else (only,):
            claims = tree.claims(name)
            current = self.running.get(name)
            if current is None:
                if claims:
                    self.start(name, f"{source}:{claims[0][0]}", claims[0][1])
                continue
            owner_source, _, owner_file = current.owner.partition(":")
            if owner_source != source or current.hold == "suspended":
                continue
            own = [claim for claim in claims if claim[0] == owner_file]
            if own:
                self.start(name, current.owner, own[0][1])
            elif owner_file in tree.broken:
                continue
            elif claims:
                self.start(name, f"{source}:{claims[0][0]}", claims[0][1])
            else:
                self.leaving[name] = self.running.pop(name)
                freed.add(name)
        return freed

    def start(self, name: str, owner: str, command: str) -> None:
        # Where the next owner of a pod wants the same as the last, nothing restarts.
        current = self.running.get(name)
        if current is not None and current.hold == "pinned" and current.declared == command:
            current.owner = owner
            return
        current = current or self.leaving.get(name)
        generation = self.generations.get(name, 0)
        if current is None or current.command != command:
            generation += 1
        self.generations[name] = generation
        self.running[name] = Running(owner, command, generation)

    def snapshot(self, source: Mirror, tree: Tree) -> Snapshot:
        pods = [
            Declared(pod=pod(name, command), owner=f"{source}:{file}", revision=command, file=file)
            for file, declared_pods in tree.files.items()
            if file not in tree.broken
            for name, command in declared_pods.items()
        ]
        return snapshot(
            *pods,
            source=source,
            problems=tuple(Problem(file, 1, "", "is broken") for file in tree.broken),
            unreadable=tuple(f"{source}:{file}" for file in tree.broken),
        )

    @invariant()
    def the_journal_is_as_the_model(self) -> None:
        found = {
            name: (one.owner, " ".join(one.pod.containers[0].command or ()), one.generation, kind(one))
            for name, one in self.journal.desired().items()
        }
        assert found == {
            name: (one.owner, one.command, one.generation, one.hold) for name, one in self.running.items()
        }

    def every_declaration_that_lost_is_told(self, source: str, tree: Tree) -> None:
        told = {(problem.file, problem.pod) for problem in self.journal.problems() if problem.key == "name"}
        for name, one in self.running.items():
            if one.hold == "suspended" and one.owner.startswith(source):
                continue
            for file, _ in tree.claims(name):
                assert ((file, name) in told) or one.owner == f"{source}:{file}"

    @invariant()
    def every_problem_of_a_running_pod_shows_there(self) -> None:
        for problem in self.journal.problems():
            found = self.journal.get(problem.pod or "")
            if found is not None:
                assert found.error is not None and str(problem) in found.error.splitlines()


def kind(one: DesiredPod) -> str | None:
    return None if one.hold is None else one.hold.kind


Ownership.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestOwnership = Ownership.TestCase


def test_the_error_names_owner_and_way_out() -> None:
    a, b = declared(pod(), "a.toml"), declared(pod(command="other"), "b.toml", line=7)
    merged = ownership.merge(ownership.Known(), snapshot(a, b), 1.0)
    (problem,) = merged.problems
    assert str(problem) == (
        "/etc/tank/pods.d/b.toml:7: name: pod web already belongs to /etc/tank/pods.d/a.toml;"
        " rename or remove one of the two"
    )


def test_one_name_twice_in_one_file_is_told_at_the_second() -> None:
    first, second = declared(pod(), line=1), declared(pod(command="other"), line=9)
    merged = ownership.merge(ownership.Known(), snapshot(second, first), 1.0)
    assert [one.pod for one in merged.changed] == [first.pod]
    assert [problem.line for problem in merged.problems] == [9]


def test_a_status_of_a_removed_pod_stays_until_it_is_forgotten() -> None:
    journal = Journal(MemoryStore(), clock=FakeClock())
    journal.merge(snapshot(declared(pod())))
    journal.record("web", PodStatus(error="running"))
    journal.merge(snapshot())
    assert journal.status("web").error == "running"


def waiting(name: str, *after: str, command: str = "sleep 1") -> Pod:
    return replace(pod(name, command), after=after)


def known_to(journal: Journal) -> dict[str, tuple[str, ...]]:
    return {name: found.pod.after for name, found in sorted(journal.desired().items())}


def test_a_pod_that_would_wait_for_itself_keeps_its_last_good_spec() -> None:
    journal = Journal(MemoryStore(), clock=FakeClock())
    a, b = declared(waiting("a", "b"), "a.toml"), declared(waiting("b"), "b.toml")
    journal.merge(snapshot(a, b))
    wrong = replace(declared(waiting("b", "a", command="new"), "b.toml", line=1), after_line=4)
    journal.merge(snapshot(a, wrong))
    assert known_to(journal) == {"a": ("b",), "b": ()}
    found = journal.get("b")
    assert found is not None and found.pod == b.pod
    assert found.error == (
        "/etc/tank/pods.d/b.toml:4: after: b → a → b: each waits for the next one, so none would start;"
        " remove one of these from its after"
    )
    # Either end of it may be mended.
    journal.merge(snapshot(replace(a, pod=waiting("a")), wrong))
    assert known_to(journal) == {"a": (), "b": ("a",)}
    assert journal.problems() == ()


def test_of_new_pods_in_a_circle_none_is_taken_and_all_are_told() -> None:
    ring = [declared(waiting(name, after), f"{name}.toml") for name, after in ("ab", "bc", "ca", "dx", "ed")]
    merged = ownership.merge(ownership.Known(), snapshot(*ring), 1.0)
    # Who waits for a pod that is not there waits, and that is no error.
    assert [one.name for one in merged.changed] == ["d", "e"]
    assert [problem.message.partition(":")[0] for problem in merged.problems] == [
        "a → b → c → a",
        "b → c → a → b",
        "c → a → b → c",
    ]
    assert {problem.pod for problem in merged.problems} == {"a", "b", "c"}


def test_a_seed_in_a_circle_is_not_spent() -> None:
    journal = Journal(MemoryStore(), clock=FakeClock())
    journal.merge(snapshot(declared(waiting("a", "b"))))
    seed = declared(waiting("b", "a"), "b.toml", source="seed")
    journal.merge(snapshot(seed, source="seed"))
    assert known_to(journal) == {"a": ("b",)}
    journal.merge(snapshot())
    journal.merge(snapshot(seed, source="seed"))
    assert known_to(journal) == {"b": ("a",)}


def test_one_snapshot_may_turn_an_order_round_or_remove_what_was_waited_for() -> None:
    journal = Journal(MemoryStore(), clock=FakeClock())
    files = ("a.toml", "b.toml")
    first, second = (waiting("a", "b"), waiting("b")), (waiting("a"), waiting("b", "a"))
    for pods in (first, second, first):
        journal.merge(snapshot(*(declared(one, file) for one, file in zip(pods, files, strict=True))))
        assert known_to(journal) == {one.name: one.after for one in pods}
        assert journal.problems() == ()
    journal.merge(snapshot(declared(waiting("b", "a"), "b.toml")))
    assert known_to(journal) == {"b": ("a",)}


def test_who_keeps_its_old_order_may_be_in_the_way_of_another() -> None:
    journal = Journal(MemoryStore(), clock=FakeClock())
    journal.merge(snapshot(declared(waiting("a", "b"), "a.toml"), declared(waiting("b"), "b.toml")))
    # a waits for itself by way of c, so it stays as it is; then b may not wait for it.
    changed = (waiting("a", "c"), waiting("b", "a"), waiting("c", "a"))
    journal.merge(snapshot(*(declared(one, f"{one.name}.toml") for one in changed)))
    assert known_to(journal) == {"a": ("b",), "b": ()}
    assert [problem.pod for problem in journal.problems()] == ["a", "b", "c"]


ORDERS = st.dictionaries(st.sampled_from("abcde"), st.lists(st.sampled_from("abcdex"), max_size=3).map(tuple))


@settings(max_examples=400, deadline=None)
@given_(st.lists(ORDERS, max_size=4))
def test_no_snapshot_closes_a_circle_and_none_is_merged_anew_for_nothing(
    orders: list[dict[str, tuple[str, ...]]],
) -> None:
    journal = Journal(MemoryStore(), clock=FakeClock())
    for after in orders:
        given = {name: tuple(other for other in row if other != name) for name, row in after.items()}
        pods = [declared(waiting(name, *row), f"{name}.toml") for name, row in given.items()]
        journal.merge(snapshot(*pods))
        found, problems = known_to(journal), journal.problems()
        assert order.find_cycle(found) is None
        refused = {problem.pod for problem in problems}
        assert all(found[name] == row for name, row in given.items() if name not in refused)
        if order.find_cycle(given) is None:
            assert not refused
        # As each resync does, with another snapshot of the same.
        journal.merge(snapshot(*pods))
        assert (known_to(journal), journal.problems()) == (found, problems)


def test_a_pinned_pod_counts_with_the_spec_that_it_is_pinned_to() -> None:
    journal = Journal(MemoryStore(), clock=FakeClock())
    journal.merge(snapshot(declared(waiting("a"), "a.toml")))
    (revision,) = journal.history("a")
    journal.merge(snapshot(declared(waiting("a", "b"), "a.toml")))
    journal.roll_back("a", revision)
    both = snapshot(declared(waiting("a", "b"), "a.toml"), declared(waiting("b", "a"), "b.toml"))
    journal.merge(both)
    assert known_to(journal) == {"a": (), "b": ("a",)}
    # Its own file would have it wait again.
    journal.resume("a")
    assert known_to(journal) == {"a": (), "b": ("a",)}
    assert [problem.pod for problem in journal.problems()] == ["a"]


def test_tank_apply_and_tank_rollback_refuse_a_circle() -> None:
    journal = Journal(MemoryStore(), clock=FakeClock())
    journal.put_all((waiting("a", "b"), waiting("b")), "one")
    with pytest.raises(InvalidSpec) as refused:
        journal.put_all((waiting("b", "a"), waiting("c")), "two")
    (problem,) = refused.value.problems
    assert (problem.pod, problem.key) == ("b", "after")
    assert problem.message.startswith("b → a → b: ")
    assert known_to(journal) == {"a": ("b",), "b": ()}
    journal.put_all((waiting("b", "a"), waiting("a")), "three")
    assert known_to(journal) == {"a": (), "b": ("a",)}
    first = next(found for found in journal.history("a") if found.pod.after)
    with pytest.raises(Stalled, match="a → b → a"):
        journal.roll_back("a", first)
    assert known_to(journal) == {"a": (), "b": ("a",)}


def test_pods_without_order_ask_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "closed_by", None)
    journal = Journal(MemoryStore(), clock=FakeClock())
    journal.merge(snapshot(declared(pod("a"), "a.toml")))
    journal.merge(snapshot(declared(pod("a", "other"), "a.toml")))
    journal.put(pod("b"), "one")
    assert known_to(journal) == {"a": (), "b": ()}


def test_the_way_back_to_what_the_file_declares_needs_no_hold() -> None:
    journal = Journal(MemoryStore(), clock=FakeClock())
    for command in ("good", "bad", "good"):
        journal.merge(snapshot(declared(pod(command=command))))
    good, bad = journal.history("web")[:2]
    # A person asks for the other one, which fails.
    journal.roll_back("web", bad)
    journal.record("web", PodStatus())
    journal.quarantine("web", 4, Verdict(outcome="failed", at=1.0, reason="boom"), good)
    found = journal.get("web")
    assert found is not None
    assert (found.generation, found.hash, found.hold) == (5, good.hash, None)
    assert journal.status("web").bad[0].hash == bad.hash


def test_what_is_declared_again_and_good_recovers_a_pod() -> None:
    journal = Journal(MemoryStore(), clock=FakeClock())
    for command in ("good", "bad"):
        journal.merge(snapshot(declared(pod(command=command))))
    journal.record("web", PodStatus())
    good = journal.history("web")[0]
    journal.quarantine("web", 2, Verdict(outcome="failed", at=1.0, reason="boom"), good)
    held = journal.get("web")
    assert held is not None and held.hold is not None
    journal.merge(snapshot(declared(pod(command="good"))))
    found = journal.get("web")
    assert found is not None
    assert (found.generation, found.hold) == (held.generation, None)
    assert [event.type for event in journal.events()][-1] == "recovered"
