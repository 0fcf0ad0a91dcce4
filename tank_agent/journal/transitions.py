"""The journal's state, and every change of it: pure, from one state to the next state and its writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from tank_agent.errors import Problem
from tank_agent.journal import ownership
from tank_agent.journal.ownership import Known
from tank_agent.journal.records import DesiredPod, Event, NewEvent, PodStatus, Revision
from tank_agent.journal.store import Table, Write
from tank_agent.linux.clock import rfc3339
from tank_agent.source.kinds import MIRRORS
from tank_agent.source.snapshot import Snapshot, source_of
from tank_agent.spec.model import Pod

SCHEMA_KEY = b"schema"
SPENT_PREFIX = b"spent:"
MEMORY_PREFIX = b"memory:"


class Applied(Struct, frozen=True, kw_only=True):
    """The names of pods that one change made or changed, and of those that are no longer desired.

    `updated` are pods with the same spec but another owner, file, revision or error, which is only shown.
    """

    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()


class Retention(Struct, frozen=True, kw_only=True):
    """The length of the history: revisions of one pod, and events in all."""

    revisions: int = 20
    events: int = 10_000


class State(Known, frozen=True, kw_only=True):
    """All that is read without the store. Nothing in it is ever changed in place.

    Events have the numbers `first_event` to `last_event`. `problems` are of each source's last snapshot,
    `outages` of sources that could not be read at all at their last try. `snapshots` are the last ones of the
    mirrors that are available now; `merged` has each source's last snapshot and the pods after its merge.
    """

    statuses: Mapping[str, PodStatus] = msgspec.field(default_factory=dict)
    first_event: int = 1
    last_event: int = 0
    problems: Mapping[str, tuple[Problem, ...]] = msgspec.field(default_factory=dict)
    outages: Mapping[str, tuple[Problem, ...]] = msgspec.field(default_factory=dict)
    snapshots: Mapping[str, Snapshot] = msgspec.field(default_factory=dict)
    merged: Mapping[str, tuple[Snapshot, Mapping[str, DesiredPod]]] = msgspec.field(default_factory=dict)

    def all_problems(self) -> tuple[Problem, ...]:
        """Return the problems of all sources, each once, in file order."""
        groups = (*self.problems.values(), *self.outages.values())
        found = {problem for group in groups for problem in group}
        return tuple(
            sorted(found, key=lambda problem: (problem.file, problem.line, problem.key, problem.message))
        )


class Outcome(Struct, frozen=True):
    """The outcome of a transition: the next state, the writes, and the names of changed pods."""

    state: State
    writes: Sequence[Write]
    applied: Applied


class Draft:
    """The next state while one transition makes it: copies tables at their first change, collects writes."""

    def __init__(self, before: State, now: float, limits: Retention) -> None:
        self.before = before
        self._now = now
        self._limits = limits
        self._changes: dict[str, Any] = {}
        self._writes: list[Write] = []
        self._removed: set[str] = set()
        self._merged: Snapshot | None = None

    @property
    def state(self) -> State:
        """Return the state as it is so far."""
        return replace(self.before, **self._changes)

    def merge(self, snapshot: Snapshot) -> None:
        """Merge a snapshot, and give the names that become free to the other mirror, if it declares them."""
        last = self.before.merged.get(snapshot.source)
        if last is not None and last[0] is snapshot and last[1] is self.before.desired:
            return
        if snapshot.available:
            self._merge(snapshot)
            self._offer_removed(skip=snapshot.source)
            self._own("outages").pop(snapshot.source, None)
        else:
            # The problems of single pods stay until the source can be read again.
            self._own("outages")[snapshot.source] = snapshot.problems
            self._own("snapshots").pop(snapshot.source, None)
        self._merged = snapshot
        after = self.state.desired
        for name, pod in self.before.desired.items():
            if pod.hold is not None and name in after and after[name].hold is None:
                self._event(after[name], "resumed", "its file changed: it follows that again")

    def put(self, pods: Sequence[Pod], revision: str) -> None:
        """Create or replace pods for `tank apply`; raises as `ownership.put`."""
        for pod in pods:
            self._store(ownership.put(self.state, pod, revision, self._now))

    def delete(self, name: str, *, owner_seen: str, owner_exists: bool) -> bool:
        """Remove a pod for `tank delete`; False if there was none.

        `owner_exists`: the owner `owner_seen` is there; raises as `ownership.refuse_deletion`.
        """
        pod = self.before.desired.get(name)
        if pod is None:
            return False
        # An owner that took over since the caller looked is not known to be gone.
        ownership.refuse_deletion(pod, owner_exists or pod.owner != owner_seen)
        self._remove(name)
        self._spend({name})
        self._offer_removed(skip=source_of(pod.owner))
        return True

    def suspend(self, name: str) -> None:
        """Keep a pod as it is, and ignore its file; raises as `ownership.suspend`."""
        pod = ownership.suspend(self.state, name, self._now)
        if pod is not self.before.desired[name]:
            self._store(pod)
            self._event(pod, "suspended", "no longer follows its file")

    def roll_back(self, name: str, to: Revision) -> None:
        """Give a pod an older spec; raises as `ownership.roll_back`."""
        pod = ownership.roll_back(self.state, name, to, self._now)
        self._store(pod, restored=to.generation or None)
        what = f"generation {to.generation}" if to.generation else f"commit {to.revision[:12]}"
        there = "" if pod.hold is None else f", and {pod.hold.kind} there"
        self._event(pod, "rolled-back", f"rolled back to {what}{there}")

    def resume(self, name: str) -> None:
        """Let a pod follow its file again, at once if the snapshot is known; raises as `ownership.resume`."""
        pod = ownership.resume(self.state, name)
        if pod is self.before.desired[name]:
            return
        self._store(pod)
        source = source_of(pod.owner)
        snapshot = self.before.snapshots.get(source)
        if snapshot is not None:
            self._merge(snapshot, only=name)
            self._offer_removed(skip=source)
        self._event(pod, "resumed", "follows its file again")

    def record(self, name: str, status: PodStatus | None, events: Iterable[NewEvent] = ()) -> None:
        """Store a status (None forgets it) and append events; no write if neither is new."""
        if status != self.before.statuses.get(name):
            if status is None:
                del self._own("statuses")[name]
            else:
                self._own("statuses")[name] = status
            value = None if status is None else msgspec.json.encode(status)
            self._writes.append(Write(Table.STATUS, name.encode(), value))
        for event in events:
            self._append(event)

    def remember(self, key: str, value: bytes) -> None:
        """Keep a small fact of another room; empty forgets it."""
        self._writes.append(Write(Table.META, MEMORY_PREFIX + key.encode(), value or None))

    def finish(self) -> Outcome:
        """Return the outcome, with the errors of pods brought up to date."""
        if not self._changes.keys() & {"desired", "problems", "outages"}:
            return Outcome(self.state, self._writes, Applied())
        state = self.state
        for pod in ownership.with_errors(state.desired, state.all_problems(), state.problems):
            self._own("desired")[pod.name] = pod
        before, after = self.before.desired, self.state.desired
        if self._merged is not None:
            self._own("merged")[self._merged.source] = (self._merged, after)
        touched = [name for name, pod in after.items() if before.get(name) is not pod]
        removed = [name for name in before if name not in after]
        for name in touched:
            self._writes.append(Write(Table.DESIRED, name.encode(), msgspec.json.encode(after[name])))
        for name in removed:
            self._writes.append(Write(Table.DESIRED, name.encode(), None))
        changed = {
            name
            for name in touched
            if name not in before or before[name].generation != after[name].generation
        }
        applied = Applied(
            changed=tuple(sorted(changed)),
            removed=tuple(sorted(removed)),
            updated=tuple(sorted(set(touched) - changed)),
        )
        return Outcome(self.state, self._writes, applied)

    def _own(self, field: str) -> dict[str, Any]:
        """Return a table of the next state, to be changed in place."""
        if field not in self._changes:
            self._changes[field] = dict(getattr(self.before, field))
        found: dict[str, Any] = self._changes[field]
        return found

    def _merge(self, snapshot: Snapshot, *, only: str | None = None) -> None:
        """Merge a snapshot, or only its declaration of one pod."""
        merged = ownership.merge(self.state, snapshot, self._now)
        for pod in merged.changed:
            if only in (None, pod.name):
                self._store(pod)
        for name in merged.removed:
            if only in (None, name):
                self._remove(name)
        self._spend(merged.seeded)
        self._own("problems")[snapshot.source] = merged.problems
        if snapshot.source in MIRRORS:
            self._own("snapshots")[snapshot.source] = snapshot

    def _offer_removed(self, *, skip: str) -> None:
        """Merge the other mirrors' last snapshots again if they declare a name that has become free."""
        for source in MIRRORS:
            snapshot = self.state.snapshots.get(source)
            if source == skip or snapshot is None or not self._removed:
                continue
            if any(declared.pod.name in self._removed for declared in snapshot.pods):
                self._merge(snapshot)

    def _store(self, pod: DesiredPod, *, restored: int | None = None) -> None:
        current = self._changes.get("desired", self.before.desired).get(pod.name)
        if current is pod:
            return
        freed = self.before.desired.get(pod.name) if pod.name in self._removed else None
        if freed is not None and freed.pod == pod.pod:
            # Its next owner declares the same spec: the pod only changes its owner.
            current = freed
            pod = replace(pod, generation=freed.generation, changed_at=freed.changed_at)
        self._own("desired")[pod.name] = pod
        if current is None or current.generation != pod.generation:
            self._own("generations")[pod.name] = pod.generation
            self._add_revision(pod, restored)
        self._removed.discard(pod.name)

    def _remove(self, name: str) -> None:
        del self._own("desired")[name]
        self._removed.add(name)

    def _spend(self, names: Iterable[str]) -> None:
        spent = self.state.spent
        for name in sorted(set(names) - spent):
            self._writes.append(Write(Table.META, SPENT_PREFIX + name.encode(), b"{}"))
        self._changes["spent"] = spent | frozenset(names)

    def _add_revision(self, pod: DesiredPod, restored: int | None) -> None:
        shared = {name: getattr(pod, name) for name in Revision.__struct_fields__ if name != "restored"}
        revision = msgspec.json.encode(Revision(**shared, restored=restored))
        self._writes.append(Write(Table.REVISIONS, revision_key(pod.name, pod.generation), revision))
        expired = pod.generation - self._limits.revisions
        if expired > 0:
            self._writes.append(Write(Table.REVISIONS, revision_key(pod.name, expired), None))

    def _event(self, pod: DesiredPod, kind: str, message: str) -> None:
        self._append(NewEvent(pod=pod.name, type=kind, message=message, revision=pod.revision))

    def _append(self, new: NewEvent) -> None:
        state, limit = self.state, self._limits.events
        seq, first = state.last_event + 1, state.first_event
        event = Event(seq=seq, at=rfc3339(self._now), **asdict(new))
        self._writes.append(Write(Table.EVENTS, event_key(seq), msgspec.json.encode(event)))
        # In chunks, because deleting one key with every event would double the pages that each commit writes.
        if seq - first + 1 > limit + max(1, limit // 10):
            until = seq - limit + 1
            self._writes += [Write(Table.EVENTS, event_key(old), None) for old in range(first, until)]
            first = until
        self._changes |= {"last_event": seq, "first_event": first}


def revision_key(name: str, generation: int) -> bytes:
    """Return the key of one revision: name, NUL, generation as 8 bytes, so that they sort by age."""
    return name.encode() + b"\0" + generation.to_bytes(8, "big")


def event_key(seq: int) -> bytes:
    """Return the key of one event."""
    return seq.to_bytes(8, "big")
