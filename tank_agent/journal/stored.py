"""The Journal over any store: reads come from memory, and many writers share one commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec

from tank_agent.errors import Problem, Retry
from tank_agent.journal import ownership, transitions
from tank_agent.journal.journal import Applied, Preview
from tank_agent.journal.records import DesiredPod, Event, NewEvent, PodStatus, Revision
from tank_agent.journal.store import HOW_TO_GO_ON, Store, Table, UnreadableJournal, Write
from tank_agent.journal.transitions import Change, Limits, State
from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.model import Pod

T = TypeVar("T")
R = TypeVar("R")

SCHEMA = 1
_EMPTY_STATUS = PodStatus()


def owner_is_there(owner: str, *, follows_git: bool = True) -> bool:
    """Return whether a pod can be removed where it is declared.

    That is the file of a `dir:` owner, be it only a dangling link, and the repository of a `git:` one.
    """
    if ownership.source_of(owner) == "git":
        return follows_git
    path = Path(ownership.place_of(owner))
    return path.is_symlink() or path.exists()


class StoredJournal:
    """Implements `Journal` over a `Store`, which it owns from then on.

    Args:
        store: where the tables live.
        clock: Unix time in seconds.
        max_revisions: kept of one pod.
        max_events: kept in all (up to a tenth more, between two trims).
        owner_exists: tells whether what a `dir:` or `git:` owner names is there now.

    Raises:
        UnreadableJournal: the tables were written by a newer version, or can't be read.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float],
        max_revisions: int = 20,
        max_events: int = 10_000,
        owner_exists: Callable[[str], bool] = owner_is_there,
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = Limits(revisions=max_revisions, events=max_events)
        self._owner_exists = owner_exists
        self._state = _load(store)
        self._queue: list[_Ticket[Any]] = []
        self._queue_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._published = threading.Condition()
        self._closed = False

    def desired(self) -> Mapping[str, DesiredPod]:
        """Return all desired pods by name."""
        return MappingProxyType(self._now().desired)

    def get(self, name: str) -> DesiredPod | None:
        """Return one desired pod."""
        return self._now().desired.get(name)

    def problems(self) -> tuple[Problem, ...]:
        """Return what is wrong in the sources now."""
        return transitions.all_problems(self._now())

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
        state = self._now()
        if after >= state.last_event:
            return []
        start, stop = transitions.event_key(max(after, 0) + 1), transitions.event_key(state.last_event + 1)
        found = self._store.scan(Table.EVENTS, start, stop, max(limit, 0))
        return [_decode(self._store, Table.EVENTS, key, value, Event) for key, value in found]

    def recall(self, key: str) -> bytes:
        """Return what was remembered; empty if nothing was."""
        self._now()
        return self._store.get(Table.META, transitions.MEMORY_PREFIX + key.encode()) or b""

    def merge(self, snapshot: Snapshot) -> Applied:
        """Merge a source's snapshot in one transaction."""
        return self._change(
            lambda state: transitions.merge(state, snapshot, now=self._clock(), limits=self._limits)
        )

    def preview(self, snapshot: Snapshot) -> Preview:
        """Return what `merge` would do with the snapshot, and do nothing."""
        change = transitions.merge(self._now(), snapshot, now=self._clock(), limits=self._limits)
        return Preview(
            desired=MappingProxyType(change.state.desired),
            applied=change.answer,
            problems=transitions.all_problems(change.state),
        )

    def put(self, pod: Pod, revision: str) -> DesiredPod:
        """Create or replace a pod for `tank apply`."""
        return self.put_all((pod,), revision)[0]

    def put_all(self, pods: Sequence[Pod], revision: str) -> Sequence[DesiredPod]:
        """Create or replace several pods in one transaction: all of them, or none."""
        return self._change(
            lambda state: transitions.put(state, pods, revision, now=self._clock(), limits=self._limits)
        )

    def delete(self, name: str) -> bool:
        """Remove a pod for `tank delete`; False if there was none."""
        pod = self.get(name)
        owner = pod.owner if pod is not None else ""
        # Asked before the commit lock is taken: a dead network file system can block for long.
        exists = ownership.source_of(owner) in ownership.MIRRORS and self._owner_exists(owner)
        return self._change(
            lambda state: transitions.delete(
                state, name, owner_seen=owner, owner_exists=exists, now=self._clock(), limits=self._limits
            )
        )

    def suspend(self, name: str) -> Applied:
        """Let a pod stay as it is, whatever its file says."""
        return self._change(
            lambda state: transitions.suspend(state, name, now=self._clock(), limits=self._limits)
        )

    def roll_back(self, name: str, to: Revision) -> Applied:
        """Give a pod an older spec, and pin it there if it follows a file."""
        return self._change(
            lambda state: transitions.roll_back(state, name, to, now=self._clock(), limits=self._limits)
        )

    def resume(self, name: str) -> Applied:
        """Let a pod follow its file again."""
        return self._change(
            lambda state: transitions.resume(state, name, now=self._clock(), limits=self._limits)
        )

    def record(self, name: str, status: PodStatus | None, events: Iterable[NewEvent] = ()) -> None:
        """Store a pod's status (None forgets it) and append events, in one transaction."""
        kept = tuple(events)
        if not kept and status == self._now().statuses.get(name):
            return
        self._change(
            lambda state: transitions.record(
                state, name, status, kept, now=self._clock(), limits=self._limits
            )
        )

    def remember(self, key: str, value: bytes) -> None:
        """Keep a small fact of another room over restarts; empty forgets it."""
        if self.recall(key) != value:
            self._change(lambda state: transitions.remember(state, key, value))

    def wait_for_events(self, after: int, timeout: float) -> bool:
        """Block until there is an event above `after`, for at most `timeout` seconds or until it closes."""
        self._now()
        with self._published:
            self._published.wait_for(lambda: self._closed or self._state.last_event > after, timeout)
            return self._state.last_event > after

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

    def _change(self, transition: Callable[[State], Change[R]]) -> R:
        """Run a transition and make it durable, together with those that other threads queued meanwhile."""
        ticket: _Ticket[R] = _Ticket(transition)
        with self._queue_lock:
            self._queue.append(ticket)
        with self._commit_lock:
            if not ticket.done:
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._commit(batch)
        return ticket.outcome()

    def _commit(self, batch: Sequence[_Ticket[Any]]) -> None:
        writes: list[Write] = []
        try:
            state = self._now()
            for ticket in batch:
                state = ticket.run(state, writes)
            if writes:
                self._store.write(writes)
        except BaseException as error:
            for ticket in batch:
                ticket.fail(error)
            if not isinstance(error, Exception):
                raise
        else:
            for ticket in batch:
                ticket.done = True
            self._publish(state)

    def _publish(self, state: State) -> None:
        news = state.last_event > self._state.last_event
        self._state = state
        if news:
            with self._published:
                self._published.notify_all()


class _Ticket(Generic[T]):
    """One queued transition and, once it is done, its answer or its error."""

    def __init__(self, transition: Callable[[State], Change[T]]) -> None:
        self._transition = transition
        self._answer: list[T] = []
        self._error: BaseException | None = None
        self.done = False

    def run(self, state: State, writes: list[Write]) -> State:
        """Append the transition's writes and return the next state; the same state if it refused."""
        try:
            change = self._transition(state)
        except Exception as error:
            self._error = error
            return state
        self._answer = [change.answer]
        writes += change.writes
        return change.state

    def fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self.done = True

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._answer[0]


def _load(store: Store) -> State:
    _check_schema(store)
    generations: dict[str, int] = {}
    for key in store.keys(Table.REVISIONS):
        name, _, generation = key.partition(b"\0")
        generations[name.decode()] = int.from_bytes(generation, "big")
    meta = store.keys(Table.META)
    prefix = transitions.SPENT_PREFIX
    events = store.keys(Table.EVENTS)
    return State(
        desired=_table(store, Table.DESIRED, DesiredPod),
        statuses=_table(store, Table.STATUS, PodStatus),
        generations=generations,
        spent=frozenset(key[len(prefix) :].decode() for key in meta if key.startswith(prefix)),
        first_event=int.from_bytes(events[0], "big") if events else 1,
        last_event=int.from_bytes(events[-1], "big") if events else 0,
    )


def _table(store: Store, table: Table, kind: type[T]) -> dict[str, T]:
    return {key.decode(): _decode(store, table, key, value, kind) for key, value in store.scan(table)}


def _decode(store: Store, table: Table, key: bytes, value: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableJournal(
            f"the journal in {store.place} can't be read: entry {key!r} of its table {table.value} is damaged"
            f" ({error})",
            hint=HOW_TO_GO_ON.format(path=store.place),
        ) from error


def _check_schema(store: Store) -> None:
    value = store.get(Table.META, transitions.SCHEMA_KEY)
    if value is None:
        store.write([Write(Table.META, transitions.SCHEMA_KEY, msgspec.json.encode(SCHEMA))])
        return
    found = _decode(store, Table.META, transitions.SCHEMA_KEY, value, int)
    if found > SCHEMA:
        raise UnreadableJournal(
            f"the journal was written by a newer tank-agent (format {found}; this one knows up to {SCHEMA})",
            hint="install that version again; this one has changed nothing",
        )
