"""The ownership rules as a state machine against a model that is as simple as the rules are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tank_agent.errors import OwnedElsewhere, PodNotFound, Problem, Stalled
from tank_agent.journal import ownership
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, PodStatus, Revision
from tank_agent.journal.store import MemoryStore
from tank_agent.journal.transitions import Applied
from tank_agent.source.snapshot import Declared, Snapshot
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
