"""The journal of the agent: reads come from memory, and many writers share one commit of the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from tank_agent.errors import Problem, Retry, TankError
from tank_agent.journal.records import DesiredPod, Event, NewEvent, PodStatus, Revision
from tank_agent.journal.store import Store, Table, UnreadableJournal, Write, unreadable
from tank_agent.journal.transitions import (
    MEMORY_PREFIX,
    SCHEMA_KEY,
    SPENT_PREFIX,
    Applied,
    Draft,
    Outcome,
    Retention,
    State,
    event_key,
)
from tank_agent.source.kinds import is_mirrored
from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.model import Pod

T = TypeVar("T")
R = TypeVar("R")

SCHEMA = 1
_EMPTY_STATUS = PodStatus()
_RETENTION = Retention()
_log = structlog.get_logger()


class Journal:
    """Desired pods, their revisions, their status, and the events; durable when a call returns.

    Reads never block on a write in progress for longer than a commit. Every method may be called from any
    thread.

    Args:
        store: holds the tables; the journal closes it, also if it can't be read.
        clock: Unix time in seconds.
        kept: how much history stays; of events up to a tenth more, between two trims.
        owner_exists: returns whether a pod can be removed where its owner declares it.

    Raises:
        UnreadableJournal: the tables were written by a newer version, or can't be read.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float],
        kept: Retention = _RETENTION,
        owner_exists: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._store = store
        self._clock = clock
        self._kept = kept
        self._owner_exists = owner_exists
        try:
            self._state = _load(store)
        except BaseException:
            store.close()
            raise
        self._queue: list[tuple[Callable[[Draft], Any], Future[Any]]] = []
        self._queue_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._published = threading.Condition()
        self._closed = False

    def desired(self) -> Mapping[str, DesiredPod]:
        """Return all desired pods by name; an immutable snapshot, cheap enough to call in every pass."""
        return MappingProxyType(self._now().desired)

    def get(self, name: str) -> DesiredPod | None:
        """Return one desired pod."""
        return self._now().desired.get(name)

    def problems(self) -> tuple[Problem, ...]:
        """Return the problems of all sources now, in file order."""
        return self._now().all_problems()

    def sources_of_problems(self) -> Mapping[Problem, str]:
        """Return the problems of all sources, with the source that each came from."""
        state = self._now()
        groups = (*state.problems.items(), *state.outages.items())
        return {problem: source for source, problems in groups for problem in problems}

    def status(self, name: str) -> PodStatus:
        """Return a pod's status; an empty one if nothing was recorded."""
        return self._now().statuses.get(name, _EMPTY_STATUS)

    def statuses(self) -> Mapping[str, PodStatus]:
        """Return every recorded status by pod name."""
        return MappingProxyType(self._now().statuses)

    def history(self, name: str) -> Sequence[Revision]:
        """Return the kept revisions of a pod, oldest first; also of a pod that is gone."""
        self._now()
        found = self._store.scan(Table.REVISIONS, name.encode() + b"\0", name.encode() + b"\1")
        return [_decode(self._store, Table.REVISIONS, key, value, Revision) for key, value in found]

    def events(self, after: int = 0, limit: int = 1000) -> Sequence[Event]:
        """Return up to `limit` events with a number above `after`, oldest first."""
        last = self._now().last_event
        if after >= last:
            return []
        start, stop = event_key(max(after, 0) + 1), event_key(last + 1)
        found = self._store.scan(Table.EVENTS, start, stop, max(limit, 0))
        return [_decode(self._store, Table.EVENTS, key, value, Event) for key, value in found]

    def wait_for_events(self, after: int, timeout: float) -> bool:
        """Block until there is an event above `after`, for at most `timeout` seconds or until it closes."""
        self._now()
        with self._published:
            self._published.wait_for(lambda: self._closed or self._state.last_event > after, timeout)
            return self._state.last_event > after

    def recall(self, key: str) -> bytes:
        """Return a fact that `remember` keeps; empty if there is none."""
        self._now()
        return self._store.get(Table.META, MEMORY_PREFIX + key.encode()) or b""

    def remember(self, key: str, value: bytes) -> None:
        """Keep a small fact of another room over restarts; empty forgets it."""
        if self.recall(key) != value:
            self._change(lambda draft: draft.remember(key, value))

    def merge(self, snapshot: Snapshot) -> Applied:
        """Merge a source's snapshot by the ownership rules of DESIGN section 4, in one transaction."""
        return self._change(lambda draft: draft.merge(snapshot))[1].applied

    def preview(self, snapshot: Snapshot) -> Outcome:
        """Return the outcome that `merge` would have with the snapshot, and do nothing."""
        draft = Draft(self._now(), self._clock(), self._kept)
        draft.merge(snapshot)
        return draft.finish()

    def put(self, pod: Pod, revision: str) -> DesiredPod:
        """Create or replace a pod for `tank apply`; raises as `put_all`."""
        return self.put_all((pod,), revision)[0]

    def put_all(self, pods: Sequence[Pod], revision: str) -> Sequence[DesiredPod]:
        """Create or replace several pods in one transaction: all of them, or none.

        Raises:
            OwnedElsewhere: a file or git owns one of the names.
        """
        state = self._change(lambda draft: draft.put(pods, revision))[1].state
        return tuple(state.desired[pod.name] for pod in pods)

    def delete(self, name: str) -> bool:
        """Remove a pod for `tank delete`; False if there was none. A deleted seed stays deleted.

        Raises:
            OwnedElsewhere: a file that still exists, or a repository that is followed, owns that name.
        """
        pod = self.get(name)
        owner = pod.owner if pod is not None else ""
        # Asked before the commit lock is taken: a dead network file system can block for long.
        exists = is_mirrored(owner) and self._owner_exists(owner)
        return self._change(lambda draft: draft.delete(name, owner_seen=owner, owner_exists=exists))[0]

    def suspend(self, name: str) -> Applied:
        """Keep a pod as it is, whatever its file declares, until `resume`; raises as `ownership.suspend`."""
        return self._change(lambda draft: draft.suspend(name))[1].applied

    def roll_back(self, name: str, to: Revision) -> Applied:
        """Give a pod an older spec; one that follows a file is pinned until `resume` or a change of the file.

        Raises as `ownership.roll_back`.
        """
        return self._change(lambda draft: draft.roll_back(name, to))[1].applied

    def resume(self, name: str) -> Applied:
        """Let a suspended or pinned pod follow its file again; raises as `ownership.resume`."""
        return self._change(lambda draft: draft.resume(name))[1].applied

    def record(self, name: str, status: PodStatus | None, events: Iterable[NewEvent] = ()) -> None:
        """Store a pod's status (None forgets it) and append events, in one transaction."""
        kept = tuple(events)
        if kept or status != self._now().statuses.get(name):
            self._change(lambda draft: draft.record(name, status, kept))

    def try_to_record(self, events: Sequence[NewEvent]) -> None:
        """Append events that belong to no step of a pod; if they cannot be stored, log that."""
        try:
            self.record("", None, events)
        except TankError as error:
            _log.error("cannot record an event", error=str(error))

    def record_for_pods(self, pods: Collection[str], event: NewEvent) -> None:
        """Append an event in one transaction for each of the pods that is still desired, or log it."""
        desired = self.desired()
        found = [desired[pod] for pod in sorted(pods) if pod in desired]
        self.try_to_record([replace(event, pod=pod.name, revision=pod.revision) for pod in found])

    def close(self) -> None:
        """Close the store; later calls raise, and waiters return."""
        with self._commit_lock:
            if self._closed:
                return
            with self._published:
                self._closed = True
                self._published.notify_all()
            self._store.close()

    def _now(self) -> State:
        if self._closed:
            raise Retry("the journal is closed", hint="the agent is stopping; try again when it runs")
        return self._state

    def _change(self, transition: Callable[[Draft], R]) -> tuple[R, Outcome]:
        """Run a transition and make it durable, together with those that other threads queued meanwhile."""
        done: Future[tuple[R, Outcome]] = Future()
        with self._queue_lock:
            self._queue.append((transition, done))
        with self._commit_lock:
            if not done.done():
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._commit(batch)
        return done.result()

    def _commit(self, batch: Sequence[tuple[Callable[[Draft], Any], Future[Any]]]) -> None:
        writes: list[Write] = []
        results: list[tuple[Future[Any], tuple[Any, Outcome]]] = []
        try:
            state = self._now()
            for transition, done in batch:
                draft = Draft(state, self._clock(), self._kept)
                try:
                    answer, outcome = transition(draft), draft.finish()
                except Exception as error:
                    done.set_exception(error)
                    continue
                results.append((done, (answer, outcome)))
                writes += outcome.writes
                state = outcome.state
            if writes:
                self._store.write(writes)
        except BaseException as error:
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        has_events = state.last_event > self._state.last_event
        self._state = state
        if has_events:
            with self._published:
                self._published.notify_all()
        for done, result in results:
            done.set_result(result)


def _load(store: Store) -> State:
    _check_schema(store)
    generations: dict[str, int] = {}
    for key in store.keys(Table.REVISIONS):
        name, _, generation = key.partition(b"\0")
        generations[name.decode()] = int.from_bytes(generation, "big")
    meta, events = store.keys(Table.META), store.keys(Table.EVENTS)
    return State(
        desired=_table(store, Table.DESIRED, DesiredPod),
        statuses=_table(store, Table.STATUS, PodStatus),
        generations=generations,
        spent=frozenset(key[len(SPENT_PREFIX) :].decode() for key in meta if key.startswith(SPENT_PREFIX)),
        first_event=int.from_bytes(events[0], "big") if events else 1,
        last_event=int.from_bytes(events[-1], "big") if events else 0,
    )


def _table(store: Store, table: Table, kind: type[T]) -> dict[str, T]:
    return {key.decode(): _decode(store, table, key, value, kind) for key, value in store.scan(table)}


def _decode(store: Store, table: Table, key: bytes, value: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = f"entry {key!r} of its table {table.value} is damaged ({error})"
        raise unreadable(store.place, why) from error


def _check_schema(store: Store) -> None:
    value = store.get(Table.META, SCHEMA_KEY)
    if value is None:
        store.write([Write(Table.META, SCHEMA_KEY, msgspec.json.encode(SCHEMA))])
        return
    found = _decode(store, Table.META, SCHEMA_KEY, value, int)
    if found > SCHEMA:
        raise UnreadableJournal(
            f"the journal was written by a newer tank-agent (format {found}; this one knows up to {SCHEMA})",
            hint="install that version again; this one has changed nothing",
        )
