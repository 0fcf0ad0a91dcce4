"""Pure: the journal's state, and every change to it as a function from a state to the next.

A transition never touches the store: it returns the writes that make the next state durable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from tank_agent.errors import Problem
from tank_agent.journal import ownership
from tank_agent.journal.journal import Applied
from tank_agent.journal.records import DesiredPod, Event, NewEvent, PodStatus, Revision
from tank_agent.journal.store import Table, Write
from tank_agent.linux.clock import rfc3339
from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.model import Pod

T = TypeVar("T")

SCHEMA_KEY = b"schema"
SPENT_PREFIX = b"spent:"
MEMORY_PREFIX = b"memory:"


class Limits(Struct, frozen=True, kw_only=True):
    """How much history is kept: revisions of one pod, and events in all."""

    revisions: int = 20
    events: int = 10_000


class State(Struct, frozen=True, kw_only=True):
    """All that is read without asking the store. Nothing in it is ever changed in place.

    `spent` are names that no seed may write. Events have the numbers `first_event` to `last_event`.
    `snapshots` are the last ones of the mirrors that are available now; `merged` is what each source's last
    merge saw and left.
    `outages` are the problems of sources that could not be read at all at their last try.
    """

    desired: dict[str, DesiredPod] = msgspec.field(default_factory=dict)
    statuses: dict[str, PodStatus] = msgspec.field(default_factory=dict)
    generations: dict[str, int] = msgspec.field(default_factory=dict)
    spent: frozenset[str] = frozenset()
    first_event: int = 1
    last_event: int = 0
    problems: Mapping[str, tuple[Problem, ...]] = msgspec.field(default_factory=dict)
    outages: Mapping[str, tuple[Problem, ...]] = msgspec.field(default_factory=dict)
    snapshots: Mapping[str, Snapshot] = msgspec.field(default_factory=dict)
    merged: Mapping[str, tuple[Snapshot, Mapping[str, DesiredPod]]] = msgspec.field(default_factory=dict)


class Change(Struct, Generic[T], frozen=True):
    """A transition's outcome: the next state, what to write, and the caller's answer."""

    state: State
    writes: Sequence[Write]
    answer: T


def merge(state: State, snapshot: Snapshot, *, now: float, limits: Limits) -> Change[Applied]:
    """Merge a snapshot, and let the other mirror have the names that this one gave up."""
    last = state.merged.get(snapshot.source)
    if last is not None and last[0] is snapshot and last[1] is state.desired:
        return Change(state, (), Applied())
    draft = _Draft(state, now, limits)
    if snapshot.available:
        draft.merge(snapshot)
        draft.offer_removed(skip=snapshot.source)
        draft.outages.pop(snapshot.source, None)
    else:
        # What is known to be wrong with single pods stays true until the source can be read again.
        draft.outages[snapshot.source] = snapshot.problems
        draft.snapshots.pop(snapshot.source, None)
    change = _told(draft.finish(), _unpinned(state, draft.known().desired), now=now, limits=limits)
    merged = {**change.state.merged, snapshot.source: (snapshot, change.state.desired)}
    return Change(msgspec.structs.replace(change.state, merged=merged), change.writes, change.answer)


def put(
    state: State, pods: Sequence[Pod], revision: str, *, now: float, limits: Limits
) -> Change[tuple[DesiredPod, ...]]:
    """Create or replace pods for `tank apply`; raises OwnedElsewhere before anything changed."""
    draft = _Draft(state, now, limits)
    for pod in pods:
        draft.store(ownership.put(draft.known(), pod, revision, now))
    change = draft.finish()
    return Change(change.state, change.writes, tuple(change.state.desired[pod.name] for pod in pods))


def delete(
    state: State, name: str, *, owner_seen: str, owner_exists: bool, now: float, limits: Limits
) -> Change[bool]:
    """Remove a pod for `tank delete`; `owner_exists` tells whether what `owner_seen` names is there."""
    pod = state.desired.get(name)
    if pod is None:
        return Change(state, (), False)
    # An owner that took over since the caller looked is not known to be gone.
    ownership.refuse_deletion(pod, owner_exists or pod.owner != owner_seen)
    draft = _Draft(state, now, limits)
    draft.remove(name)
    draft.spend({name})
    draft.offer_removed(skip=ownership.source_of(pod.owner))
    change = draft.finish()
    return Change(change.state, change.writes, True)


def suspend(state: State, name: str, *, now: float, limits: Limits) -> Change[Applied]:
    """Let a pod stay as it is, whatever its file says; raises as `ownership.suspend`."""
    draft = _Draft(state, now, limits)
    pod = ownership.suspend(draft.known(), name, now)
    draft.store(pod)
    events = [] if pod is state.desired[name] else [_event(pod, "suspended", "no longer follows its file")]
    return _told(draft.finish(), events, now=now, limits=limits)


def roll_back(state: State, name: str, to: Revision, *, now: float, limits: Limits) -> Change[Applied]:
    """Give a pod an older spec; raises as `ownership.roll_back`."""
    draft = _Draft(state, now, limits)
    pod = ownership.roll_back(draft.known(), name, to, now)
    draft.store(pod, restored=to.generation or None)
    what = f"generation {to.generation}" if to.generation else f"commit {to.revision[:12]}"
    message = f"rolled back to {what}" + ("" if pod.hold is None else f", and {pod.hold.kind} there")
    return _told(draft.finish(), [_event(pod, "rolled-back", message)], now=now, limits=limits)


def resume(state: State, name: str, *, now: float, limits: Limits) -> Change[Applied]:
    """Let a pod follow its file again, as far as its source is known; raises as `ownership.resume`."""
    draft = _Draft(state, now, limits)
    pod = ownership.resume(draft.known(), name)
    if pod is state.desired[name]:
        return Change(state, (), Applied())
    draft.store(pod)
    source = ownership.source_of(pod.owner)
    snapshot = draft.snapshots.get(source)
    if snapshot is not None:
        draft.merge(snapshot, only=name)
        draft.offer_removed(skip=source)
    events = [_event(pod, "resumed", "follows its file again")]
    return _told(draft.finish(), events, now=now, limits=limits)


def record(
    state: State,
    name: str,
    status: PodStatus | None,
    events: Iterable[NewEvent],
    *,
    now: float,
    limits: Limits,
) -> Change[None]:
    """Store a status (None forgets it) and append events; no write if neither says anything new."""
    writes: list[Write] = []
    current = state.statuses.get(name)
    if status != current:
        statuses = dict(state.statuses)
        if status is None:
            del statuses[name]
        else:
            statuses[name] = status
        writes.append(
            Write(Table.STATUS, name.encode(), None if status is None else msgspec.json.encode(status))
        )
        state = msgspec.structs.replace(state, statuses=statuses)
    at = rfc3339(now)
    last = state.last_event
    for new in events:
        last += 1
        event = Event(seq=last, at=at, **msgspec.structs.asdict(new))
        writes.append(Write(Table.EVENTS, event_key(last), msgspec.json.encode(event)))
    first = state.first_event
    # In chunks, because deleting one key with every event would double the pages that each commit writes.
    if last - first + 1 > limits.events + max(1, limits.events // 10):
        until = last - limits.events + 1
        writes += [Write(Table.EVENTS, event_key(seq), None) for seq in range(first, until)]
        first = until
    if last != state.last_event:
        state = msgspec.structs.replace(state, last_event=last, first_event=first)
    return Change(state, writes, None)


def remember(state: State, key: str, value: bytes) -> Change[None]:
    """Keep a small fact of another room; empty forgets it."""
    return Change(state, (Write(Table.META, MEMORY_PREFIX + key.encode(), value or None),), None)


def all_problems(state: State) -> tuple[Problem, ...]:
    """Return the problems of all sources, each once, in file order."""
    found = {
        problem for group in (state.problems, state.outages) for some in group.values() for problem in some
    }
    return tuple(
        sorted(found, key=lambda problem: (problem.file, problem.line, problem.key, problem.message))
    )


def revision_key(name: str, generation: int) -> bytes:
    """Return the key of one revision: name, NUL, generation as 8 bytes, so that they sort by age."""
    return name.encode() + b"\0" + generation.to_bytes(8, "big")


def event_key(seq: int) -> bytes:
    """Return the key of one event."""
    return seq.to_bytes(8, "big")


def _event(pod: DesiredPod, kind: str, message: str) -> NewEvent:
    return NewEvent(pod=pod.name, type=kind, message=message, revision=pod.revision)


def _unpinned(before: State, after: Mapping[str, DesiredPod]) -> list[NewEvent]:
    """Return an event for every pod that was pinned until its file changed."""
    pinned = [pod.name for pod in before.desired.values() if pod.hold is not None]
    return [
        _event(after[name], "resumed", "its file changed: it follows that again")
        for name in pinned
        if name in after and after[name].hold is None
    ]


def _told(change: Change[T], events: Sequence[NewEvent], *, now: float, limits: Limits) -> Change[T]:
    """Append events to what a change writes."""
    if not events:
        return change
    name = events[0].pod
    told = record(change.state, name, change.state.statuses.get(name), events, now=now, limits=limits)
    return Change(told.state, [*change.writes, *told.writes], change.answer)


class _Draft:
    """A desired state under work, within one transition: copies on the first change, collects the writes."""

    def __init__(self, state: State, now: float, limits: Limits) -> None:
        self._state = state
        self._now = now
        self._limits = limits
        self._desired: dict[str, DesiredPod] | None = None
        self._generations: dict[str, int] | None = None
        self._spent = state.spent
        self._writes: list[Write] = []
        self._removed: set[str] = set()
        self.problems = dict(state.problems)
        self.outages = dict(state.outages)
        self.snapshots = dict(state.snapshots)

    def known(self) -> ownership.Known:
        return ownership.Known(
            desired=self._state.desired if self._desired is None else self._desired,
            generations=self._state.generations if self._generations is None else self._generations,
            spent=self._spent,
        )

    def merge(self, snapshot: Snapshot, *, only: str | None = None) -> None:
        """Merge a snapshot, or what it says of one pod."""
        merged = ownership.merge(self.known(), snapshot, self._now)
        for pod in (*merged.changed, *merged.updated):
            if only in (None, pod.name):
                self.store(pod)
        for name in merged.removed:
            if only in (None, name):
                self.remove(name)
        self.spend(merged.seeded)
        self.problems[snapshot.source] = merged.problems
        if snapshot.source in ownership.MIRRORS:
            self.snapshots[snapshot.source] = snapshot

    def offer_removed(self, *, skip: str) -> None:
        """Merge the other mirrors' last snapshots again if they declare a name that has become free."""
        for source in ownership.MIRRORS:
            snapshot = self.snapshots.get(source)
            if source == skip or snapshot is None or not self._removed:
                continue
            if any(declared.pod.name in self._removed for declared in snapshot.pods):
                self.merge(snapshot)

    def store(self, pod: DesiredPod, *, restored: int | None = None) -> None:
        current = self.known().desired.get(pod.name)
        if current is pod:
            return
        freed = self._state.desired.get(pod.name) if pod.name in self._removed else None
        if freed is not None and freed.pod == pod.pod:
            # Its next owner wants the same: the pod changes hands and goes on.
            current = freed
            pod = msgspec.structs.replace(pod, generation=freed.generation, changed_at=freed.changed_at)
        self._mutable()[pod.name] = pod
        if current is None or current.generation != pod.generation:
            if self._generations is None:
                self._generations = dict(self._state.generations)
            self._generations[pod.name] = pod.generation
            self._add_revision(pod, restored)
        self._removed.discard(pod.name)

    def remove(self, name: str) -> None:
        del self._mutable()[name]
        self._removed.add(name)

    def spend(self, names: Iterable[str]) -> None:
        for name in sorted(set(names) - self._spent):
            self._writes.append(Write(Table.META, SPENT_PREFIX + name.encode(), b"{}"))
        self._spent |= frozenset(names)

    def finish(self) -> Change[Applied]:
        state = msgspec.structs.replace(
            self._state,
            problems=self.problems,
            outages=self.outages,
            snapshots=self.snapshots,
            spent=self._spent,
        )
        problems = all_problems(state)
        for pod in ownership.with_errors(self.known().desired, problems, self.problems):
            self._mutable()[pod.name] = pod
        if self._desired is None:
            return Change(state, self._writes, Applied())
        before, after = self._state.desired, self._desired
        touched = [name for name, pod in after.items() if before.get(name) is not pod]
        removed = [name for name in before if name not in after]
        self._writes += [
            Write(Table.DESIRED, name.encode(), msgspec.json.encode(after[name])) for name in touched
        ] + [Write(Table.DESIRED, name.encode(), None) for name in removed]
        changed = {
            name
            for name in touched
            if name not in before or before[name].generation != after[name].generation
        }
        state = msgspec.structs.replace(
            state, desired=after, generations=self._generations or self._state.generations
        )
        applied = Applied(
            changed=tuple(sorted(changed)),
            removed=tuple(sorted(removed)),
            updated=tuple(sorted(name for name in touched if name not in changed)),
        )
        return Change(state, self._writes, applied)

    def _mutable(self) -> dict[str, DesiredPod]:
        if self._desired is None:
            self._desired = dict(self._state.desired)
        return self._desired

    def _add_revision(self, pod: DesiredPod, restored: int | None) -> None:
        revision = Revision(
            generation=pod.generation,
            pod=pod.pod,
            owner=pod.owner,
            revision=pod.revision,
            hash=pod.hash,
            changed_at=pod.changed_at,
            author=pod.author,
            subject=pod.subject,
            restored=restored,
        )
        key = revision_key(pod.name, pod.generation)
        self._writes.append(Write(Table.REVISIONS, key, msgspec.json.encode(revision)))
        expired = pod.generation - self._limits.revisions
        if expired > 0:
            self._writes.append(Write(Table.REVISIONS, revision_key(pod.name, expired), None))
