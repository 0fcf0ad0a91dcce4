"""The journal's state, and every change of it: pure, from one state to the next state and its writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from tank_agent.errors import Problem, one_line
from tank_agent.journal import ownership, stops
from tank_agent.journal.formats import OLDEST, format_of
from tank_agent.journal.ownership import Known
from tank_agent.journal.records import (
    GOING_BACK,
    Bad,
    DesiredPod,
    Event,
    JobStatus,
    NewEvent,
    PodStatus,
    Revision,
    Rollout,
    Verdict,
)
from tank_agent.journal.store import Table, Write
from tank_agent.linux.clock import rfc3339
from tank_agent.source.kinds import MIRRORS
from tank_agent.source.snapshot import Elsewhere, Snapshot, source_of
from tank_agent.spec.model import Pod

SCHEMA_KEY = b"schema"
SPENT_PREFIX = b"spent:"
MEMORY_PREFIX = b"memory:"
# What the event of a deletion says.
DELETED = "deleted: nothing of it is to run any more"


class Applied(Struct, frozen=True, kw_only=True):
    """The names of pods that one change made or changed, and of those that are no longer desired.

    `updated` are pods with the same spec but another owner, file, revision or error, which is only shown.
    `elsewhere` are those of the removed that are declared for other machines now, with a sentence.
    """

    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    elsewhere: Mapping[str, str] = msgspec.field(default_factory=dict)


class Retention(Struct, frozen=True, kw_only=True):
    """The length of the history: revisions of one pod, and events in all."""

    revisions: int = 20
    events: int = 10_000


class State(Known, frozen=True, kw_only=True):
    """All that is read without the store. Nothing in it is ever changed in place.

    Events have the numbers `first_event` to `last_event`. `problems` are of each source's last snapshot,
    `outages` of sources that could not be read at all at their last try. `snapshots` are the last ones of the
    mirrors that are available now; `merged` has each source's last snapshot and the pods after its merge.
    `elsewhere` and `overlooked` are by source what its last snapshot says of them; an outage changes neither.
    `format` is that of the store: older agents refuse it.
    """

    format: int = OLDEST
    first_event: int = 1
    last_event: int = 0
    problems: Mapping[str, tuple[Problem, ...]] = msgspec.field(default_factory=dict)
    outages: Mapping[str, tuple[Problem, ...]] = msgspec.field(default_factory=dict)
    snapshots: Mapping[str, Snapshot] = msgspec.field(default_factory=dict)
    merged: Mapping[str, tuple[Snapshot, Mapping[str, DesiredPod]]] = msgspec.field(default_factory=dict)
    elsewhere: Mapping[str, tuple[Elsewhere, ...]] = msgspec.field(default_factory=dict)
    overlooked: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)

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
    """The next state while one transition makes it: copies tables at their first change, collects writes.

    `by` is the user who asks for it: all its events, and new revisions, name them.
    """

    def __init__(self, before: State, now: float, limits: Retention, by: str = "") -> None:
        self.before = before
        self._by = by
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
            self._own("elsewhere")[snapshot.source] = snapshot.elsewhere
            self._own("overlooked")[snapshot.source] = snapshot.overlooked
            self._offer_removed(skip=snapshot.source)
            self._own("outages").pop(snapshot.source, None)
        else:
            # The problems of single pods stay until the source can be read again.
            self._own("outages")[snapshot.source] = snapshot.problems
            self._own("snapshots").pop(snapshot.source, None)
        self._merged = snapshot
        self._tell_released()

    def put(self, pods: Sequence[Pod], revision: str) -> None:
        """Create or replace pods for `tank apply`; raises as `ownership.put` and `ownership.check_order`."""
        for pod in pods:
            former = self.state.desired.get(pod.name)
            after = ownership.put(self.state, pod, revision, self._now)
            self._store(after)
            if former is None or former.generation != after.generation:
                change = "created" if former is None else "changed"
                self._event(after, "applied", f"{change}: this is generation {after.generation}")
        ownership.check_order(self.before, pods)
        self._tell_released()

    def _tell_released(self) -> None:
        """Append an event for each pod that is no longer held."""
        after = self.state.desired
        for name, pod in self.before.desired.items():
            if pod.hold is None or name not in after or after[name].hold is not None:
                continue
            if pod.hold.kind == "quarantined" and after[name].hash == pod.hash:
                self._event(
                    after[name], "recovered", "what is declared is the good revision again, which runs"
                )
            else:
                self._event(after[name], "resumed", "its file changed: it follows that again")

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
        self._event(pod, "deleted", DELETED)
        self._spend({name})
        self._offer_removed(skip=source_of(pod.owner))
        return True

    def suspend(self, name: str) -> None:
        """Keep a pod as it is, and ignore its file; raises as `ownership.suspend`."""
        pod = ownership.suspend(self.state, name, self._now)
        if pod is not self.before.desired[name]:
            self._store(pod)
            self._event(pod, "suspended", "no longer follows its file")

    def roll_back(self, name: str, to: Revision, restore: Mapping[str, str]) -> None:
        """Give a pod an older spec, and snapshots of its volumes; raises as `ownership.roll_back`."""
        pod, status = ownership.roll_back(self.state, name, to, self._now), self.before.statuses.get(name)
        self._store(pod, restored=to.generation or None)
        if status is not None and status.rollout is not None:
            # The rollout of the new generation takes the snapshots over from the one before.
            former = replace(status.rollout, restore={**status.rollout.restore, **restore})
            if former.outcome is None:
                former = replace(former, outcome="superseded")
            self.record(name, replace(status, rollout=former))
        what = f"generation {to.generation}" if to.generation else f"commit {to.revision[:12]}"
        what += ", with the data that it had" if restore else ""
        there = "" if pod.hold is None else f", and {pod.hold.kind} there"
        self._event(pod, "rolled-back", f"rolled back to {what}{there}")

    def quarantine(self, name: str, generation: int, verdict: Verdict, to: Revision) -> None:
        """End a failed update: give the pod a good revision, and remember its own as bad.

        Does nothing if the pod is gone, has another generation by now, or is suspended.
        """
        pod, status = self.before.desired.get(name), self.before.statuses.get(name)
        if pod is None or status is None or pod.generation != generation or ownership.is_suspended(pod):
            return
        bad = Bad(
            hash=pod.hash,
            generation=generation,
            revision=pod.revision,
            at=self._now,
            reason=verdict.reason,
            images=verdict.images,
        )
        after = ownership.quarantine(self.state, pod, to, self._now)
        rollout = Rollout(
            generation=after.generation,
            kind="rollback",
            boot_id=status.rollout.boot_id if status.rollout is not None else "",
            replaced=generation,
            restore=status.good.snapshots if status.good is not None else {},
        )
        self._store(after, restored=to.generation)
        self._judge(name, generation, verdict)
        what = f"{verdict.reason}; {GOING_BACK} {to.generation}"
        self._event(pod, "update-failed", f"{what} ({verdict.proof})" if verdict.proof else what)
        failures = ownership.note_failure(status.bad, bad)
        self.record(name, replace(stops.without_failures(status), rollout=rollout, bad=failures))

    def decide(self, name: str, generation: int, verdict: Verdict) -> None:
        """Keep the verdict of a generation of a pod."""
        if name in self.before.desired:
            self._judge(name, generation, verdict)

    def move_images(self, name: str, images: Mapping[str, str], generation: int) -> None:
        """Give containers of a pod other digests; raises as `ownership.move_images`."""
        pod = ownership.move_images(self.state, name, images, generation, self._now)
        if pod is self.before.desired[name]:
            return
        self._store(pod)
        moved = ", ".join(f"{container} to {digest[:19]}" for container, digest in sorted(images.items()))
        self._event(pod, "image-moved", f"a newer image is behind the tag: {moved}")
        status = self.before.statuses.get(name)
        # The run of a job goes on with the images that it has, and what ended in it stays so.
        if status is not None and _runs(status) is None:
            self.record(name, stops.without_failures(status))

    def ask_run(self, name: str) -> int:
        """Ask for a run of a job, and return the number that it will have; raises as `ownership.job`."""
        pod, status = ownership.job(self.state, name), self.before.statuses.get(name, PodStatus())
        job = status.job or JobStatus()
        if job.asked is None:
            self.record(name, replace(status, job=replace(job, asked=self._now)))
            self._event(pod, "run-asked", "a run was asked for")
        return (job.runs[-1].number if job.runs else 0) + 1

    def by_hand(self, name: str, decide: stops.Decide) -> str:
        """Stop, start or restart a pod, and return the kind of the event; empty if it was so already.

        Raises as `stops.find` and `decide`.
        """
        pod = stops.find(self.state.desired, name)
        found = decide(pod, self.state.statuses.get(name, PodStatus()), self._now)
        if found is None:
            return ""
        status, event = found
        self.record(name, status, [event])
        return event.type

    def resume(self, name: str, failed: Revision | None = None) -> None:
        """Let a pod follow its file again, at once if the snapshot is known; raises as `ownership.resume`."""
        pod = ownership.resume(self.state, name, failed, self._now)
        if pod is self.before.desired[name]:
            return
        hold, status = self.before.desired[name].hold, self.before.statuses.get(name)
        if hold is not None and status is not None and hold.kind == "quarantined":
            # A person asks for it, so it counts as never tried.
            others = tuple(bad for bad in status.bad if bad.hash != hold.declared)
            self.record(name, replace(status, bad=others))
        self._store(pod)
        source = source_of(pod.owner)
        snapshot = self.before.snapshots.get(source)
        if snapshot is not None:
            self._merge(snapshot, only=name)
            self._offer_removed(skip=source)
        if hold is not None and hold.kind == "suspended":
            self._open_verdict(name)
        self._event(pod, "resumed", "follows its file again")

    def _open_verdict(self, name: str) -> None:
        """Let a failed update be judged again: it stayed only as long as its pod was suspended."""
        pod, status = self.state.desired.get(name), self.state.statuses.get(name)
        found = status.rollout if status is not None else None
        if status is None or found is None or (found.kind, found.outcome) != ("update", "failed"):
            return
        # Its file may say something else by now, or be gone.
        if pod is not None and pod.generation == found.generation:
            self.record(name, replace(status, rollout=replace(found, outcome=None, reason="")))

    def record(self, name: str, status: PodStatus | None, events: Iterable[NewEvent] = ()) -> None:
        """Store a status (None forgets it) and append events; no write if neither is new."""
        before = self.before.statuses.get(name)
        if status != before:
            former = _runs(before)
            if former is not None and former != _runs(status):
                # It was kept only as long as a run went on with it.
                newest = self.state.generations.get(name, 0)
                if former <= newest - self._limits.revisions:
                    self._forget_revision(name, former)
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
        removed = [name for name in before if name not in after]
        for name in removed:
            status = self.state.statuses.get(name)
            if status is not None:
                self.record(name, stops.as_new(status))
        elsewhere = self._tell_elsewhere(removed)
        touched = [name for name, pod in after.items() if before.get(name) is not pod]
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
            elsewhere=elsewhere,
        )
        return Outcome(self.state, self._writes, applied)

    def _tell_elsewhere(self, removed: Sequence[str]) -> dict[str, str]:
        """Append an event for each pod that its source took away, since it is for other machines now."""
        if self._merged is None or not removed:
            return {}
        found = {
            one.name: f"is for other machines now, so it ends here: {one}" for one in self._merged.elsewhere
        }
        told = {name: found[name] for name in removed if name in found}
        for name, message in told.items():
            self._event(self.before.desired[name], "elsewhere", message)
        return told

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
            replaced = current or self.before.desired.get(pod.name)
            self._add_revision(pod, restored, replaced.hash if replaced is not None else "")
        self._removed.discard(pod.name)

    def _remove(self, name: str) -> None:
        del self._own("desired")[name]
        self._removed.add(name)

    def _spend(self, names: Iterable[str]) -> None:
        spent = self.state.spent
        for name in sorted(set(names) - spent):
            self._writes.append(Write(Table.META, SPENT_PREFIX + name.encode(), b"{}"))
        self._changes["spent"] = spent | frozenset(names)

    def _add_revision(self, pod: DesiredPod, restored: int | None, before: str) -> None:
        shared = {
            name: getattr(pod, name)
            for name in Revision.__struct_fields__
            if name in DesiredPod.__struct_fields__
        }
        revision = msgspec.json.encode(Revision(**shared, restored=restored, before=before, by=self._by))
        self._writes.append(Write(Table.REVISIONS, revision_key(pod.name, pod.generation), revision))
        needed = format_of(pod.pod)
        if needed > self.state.format:
            self._writes.append(Write(Table.META, SCHEMA_KEY, msgspec.json.encode(needed)))
            self._changes["format"] = needed
        status = self.state.statuses.get(pod.name)
        good = status.good.generation if status is not None and status.good is not None else None
        expired = pod.generation - self._limits.revisions
        if expired > 0 and expired not in (good, _runs(status)):
            self._forget_revision(pod.name, expired)

    def _judge(self, name: str, generation: int, verdict: Verdict) -> None:
        key = revision_key(name, generation)
        self._writes.append(Write(Table.VERDICTS, key, msgspec.json.encode(verdict)))
        status = self.before.statuses.get(name)
        if verdict.outcome == "good" and status is not None and status.good is not None:
            # It was kept only as long as it was the last good one.
            former, newest = status.good.generation, self.state.generations.get(name, 0)
            if former != generation and former <= newest - self._limits.revisions:
                self._forget_revision(name, former)

    def _forget_revision(self, name: str, generation: int) -> None:
        key = revision_key(name, generation)
        self._writes += [Write(table, key, None) for table in (Table.REVISIONS, Table.VERDICTS)]

    def _event(self, pod: DesiredPod, kind: str, message: str) -> None:
        self._append(NewEvent(pod=pod.name, type=kind, message=message, revision=pod.revision))

    def _append(self, new: NewEvent) -> None:
        state, limit = self.state, self._limits.events
        seq, first = state.last_event + 1, state.first_event
        # Errors have their hint in a line of its own.
        fields = {**asdict(new), "message": one_line(new.message), "by": new.by or self._by}
        event = Event(seq=seq, at=rfc3339(self._now), **fields)
        self._writes.append(Write(Table.EVENTS, event_key(seq), msgspec.json.encode(event)))
        # In chunks, because deleting one key with every event would double the pages that each commit writes.
        if seq - first + 1 > limit + max(1, limit // 10):
            until = seq - limit + 1
            self._writes += [Write(Table.EVENTS, event_key(old), None) for old in range(first, until)]
            first = until
        self._changes |= {"last_event": seq, "first_event": first}


def _runs(status: PodStatus | None) -> int | None:
    """Return the generation that the run of a job goes on with; None if none is under way."""
    if status is None or status.job is None or status.job.current is None:
        return None
    return status.job.current.generation


def revision_key(name: str, generation: int) -> bytes:
    """Return the key of one revision: name, NUL, generation as 8 bytes, so that they sort by age."""
    return name.encode() + b"\0" + generation.to_bytes(8, "big")


def event_key(seq: int) -> bytes:
    """Return the key of one event."""
    return seq.to_bytes(8, "big")
