"""The journal of the agent: reads come from memory, and many writers share one commit of the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from tank_agent.errors import Problem, Retry, TankError
from tank_agent.journal import stops
from tank_agent.journal.formats import NEWEST, OLDEST
from tank_agent.journal.records import DesiredPod, Event, NewEvent, PodStatus, Revision, Verdict
from tank_agent.journal.stops import Wish
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
    revision_key,
)
from tank_agent.source.kinds import is_mirrored
from tank_agent.source.snapshot import Elsewhere, Snapshot
from tank_agent.spec.model import Pod

T = TypeVar("T")
R = TypeVar("R")
# A change that waits for the next commit, the user who asked for it, and where its result goes.
_Queued: TypeAlias = tuple[Callable[[Draft], Any], str, Future[Any]]

_EVENTS_AT_ONCE = 500
_EMPTY_STATUS = PodStatus()
_RETENTION = Retention()
_NO_DATA: Mapping[str, str] = MappingProxyType({})
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
        self._queue: list[_Queued] = []
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

    def elsewhere(self) -> Mapping[str, tuple[Elsewhere, ...]]:
        """Return by source the pods that its last snapshot declares for other machines."""
        return MappingProxyType(self._now().elsewhere)

    def overlooked(self) -> Mapping[str, tuple[str, ...]]:
        """Return by source the files that look like pod files and are none."""
        return MappingProxyType(self._now().overlooked)

    def status(self, name: str) -> PodStatus:
        """Return a pod's status; an empty one if nothing was recorded."""
        return self._now().statuses.get(name, _EMPTY_STATUS)

    def statuses(self) -> Mapping[str, PodStatus]:
        """Return every recorded status by pod name."""
        return MappingProxyType(self._now().statuses)

    def history(self, name: str) -> Sequence[Revision]:
        """Return the kept revisions of a pod, oldest first; also of a pod that is gone."""
        self._now()
        first, last = name.encode() + b"\0", name.encode() + b"\1"
        verdicts = dict(self._store.scan(Table.VERDICTS, first, last))
        found = self._store.scan(Table.REVISIONS, first, last)
        return [self._revision(key, value, verdicts.get(key)) for key, value in found]

    def revision(self, name: str, generation: int) -> Revision | None:
        """Return one kept revision of a pod."""
        self._now()
        key = revision_key(name, generation)
        found = self._store.get(Table.REVISIONS, key)
        return None if found is None else self._revision(key, found, self._store.get(Table.VERDICTS, key))

    def _revision(self, key: bytes, value: bytes, verdict: bytes | None) -> Revision:
        found = _decode(self._store, Table.REVISIONS, key, value, Revision)
        if verdict is None:
            return found
        return replace(found, verdict=_decode(self._store, Table.VERDICTS, key, verdict, Verdict))

    def events(self, after: int = 0, limit: int = 1000) -> Sequence[Event]:
        """Return up to `limit` events with a number above `after`, oldest first."""
        last = self._now().last_event
        if after >= last:
            return []
        start, stop = event_key(max(after, 0) + 1), event_key(last + 1)
        found = self._store.scan(Table.EVENTS, start, stop, max(limit, 0))
        return [_decode(self._store, Table.EVENTS, key, value, Event) for key, value in found]

    def latest_events(self, count: int) -> Sequence[Event]:
        """Return the last events, oldest first."""
        return self.events(max(0, self._now().last_event - count), count)

    def last_events(self, pod: str, count: int) -> Sequence[Event]:
        """Return the last events of a pod, oldest first."""
        state, found = self._now(), list[Event]()
        stop = state.last_event + 1
        while stop > state.first_event and len(found) < count:
            start = max(state.first_event, stop - _EVENTS_AT_ONCE)
            batch = self._store.scan(Table.EVENTS, event_key(start), event_key(stop))
            events = (_decode(self._store, Table.EVENTS, key, value, Event) for key, value in batch)
            found, stop = [*(event for event in events if event.pod == pod), *found], start
        return found[-count:]

    def last_event(self) -> int:
        """Return the number of the last event; 0 if there never was one."""
        return self._now().last_event

    def wait_for_events(
        self, after: int, timeout: float, *, or_if: Callable[[], bool] = lambda: False
    ) -> bool:
        """Block until there is an event above `after`, for at most `timeout` seconds or until it closes.

        Ends also if `or_if` is true, which is asked when `stir` is called.
        """
        self._now()
        with self._published:
            self._published.wait_for(
                lambda: self._closed or self._state.last_event > after or or_if(), timeout
            )
            return self._state.last_event > after

    def stir(self) -> None:
        """Let those who wait for events ask whether they still should."""
        with self._published:
            self._published.notify_all()

    def recall(self, key: str) -> bytes:
        """Return a fact that `remember` keeps; empty if there is none."""
        self._now()
        return self._store.get(Table.META, MEMORY_PREFIX + key.encode()) or b""

    def remember(self, key: str, value: bytes) -> None:
        """Keep a small fact of another room over restarts; empty forgets it."""
        if self.recall(key) != value:
            self._change(lambda draft: draft.remember(key, value))

    def keep_once(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Keep a small fact over restarts, unless one of that key is kept; return the one that is."""
        if not self.recall(key):

            def keep(draft: Draft) -> None:
                # Another thread may have been first.
                if not self.recall(key):
                    draft.remember(key, make())

            self._change(keep)
        return self.recall(key)

    def merge(self, snapshot: Snapshot, *, still: Callable[[], bool] = lambda: True) -> Applied:
        """Merge a source's snapshot by the ownership rules of DESIGN section 4, in one transaction.

        Nothing is merged if `still`, which is asked at that moment, says that it is out of date.
        """
        return self._change(lambda draft: draft.merge(snapshot) if still() else None)[1].applied

    def preview(self, snapshot: Snapshot) -> Outcome:
        """Return the outcome that `merge` would have with the snapshot, and do nothing."""
        draft = Draft(self._now(), self._clock(), self._kept)
        draft.merge(snapshot)
        return draft.finish()

    # Of the changes that a person asks for, `by` is the user: their events name them.

    def put(self, pod: Pod, revision: str, *, by: str = "") -> DesiredPod:
        """Create or replace a pod for `tank apply`; raises as `put_all`."""
        return self.put_all((pod,), revision, by=by)[0]

    def put_all(self, pods: Sequence[Pod], revision: str, *, by: str = "") -> Sequence[DesiredPod]:
        """Create or replace several pods in one transaction: all of them, or none.

        Raises:
            OwnedElsewhere: a file or git owns one of the names.
            InvalidSpec: pods would wait for each other; the problems' keys are of the pods that they name.
        """
        state = self._change(lambda draft: draft.put(pods, revision), by)[1].state
        return tuple(state.desired[pod.name] for pod in pods)

    def delete(self, name: str, *, by: str = "") -> bool:
        """Remove a pod for `tank delete`; False if there was none. A deleted seed stays deleted.

        Raises:
            OwnedElsewhere: a file that still exists, or a repository that is followed, owns that name.
        """
        pod = self.get(name)
        owner = pod.owner if pod is not None else ""
        # Wish before the commit lock is taken: a dead network file system can block for long.
        exists = is_mirrored(owner) and self._owner_exists(owner)
        return self._change(lambda draft: draft.delete(name, owner_seen=owner, owner_exists=exists), by)[0]

    def suspend(self, name: str, *, by: str = "") -> Applied:
        """Keep a pod as it is, whatever its file declares, until `resume`; raises as `ownership.suspend`."""
        return self._change(lambda draft: draft.suspend(name), by)[1].applied

    def roll_back(
        self, name: str, to: Revision, restore: Mapping[str, str] = MappingProxyType({}), *, by: str = ""
    ) -> Applied:
        """Give a pod an older spec; one that follows a file is pinned until `resume` or a change of the file.

        `restore` are snapshots, by volume, to put back before it starts. Raises as `ownership.roll_back`.
        """
        return self._change(lambda draft: draft.roll_back(name, to, restore), by)[1].applied

    def quarantine(self, name: str, generation: int, verdict: Verdict, to: Revision) -> Applied:
        """Give a pod, whose update to a generation failed, a good revision, and remember its own as bad.

        Does nothing if the pod has another generation by now, or is suspended.
        """
        return self._change(lambda draft: draft.quarantine(name, generation, verdict, to))[1].applied

    def move_images(self, name: str, images: Mapping[str, str], generation: int, *, by: str = "") -> Applied:
        """Make digests, by container, an update of a pod with the same spec; as `ownership.move_images`."""
        return self._change(lambda draft: draft.move_images(name, images, generation), by)[1].applied

    def ask_run(self, name: str, *, by: str = "") -> int:
        """Ask for a run of a job as soon as none is under way, and return the number that it will have.

        A run that is asked for and has not begun is that one; raises as `ownership.job`.
        """
        return self._change(lambda draft: draft.ask_run(name), by)[0]

    def stop(self, name: str, by: str) -> bool:
        """Let nothing of a pod run until `start`, over reboots, for the user `by`; False if it is stopped.

        Raises:
            PodNotFound: there is none of that name.
        """
        return bool(self._by_hand(name, partial(stops.stop, by=by), by))

    def start(self, name: str, wish: Wish) -> bool:
        """Let a stopped pod run again; False if it is not stopped; raises as `stop`."""
        return bool(self._by_hand(name, partial(stops.start, wish=wish), wish.by))

    def restart(self, name: str, container: str, wish: Wish) -> bool:
        """Give a container, or all ("") of a pod, fresh runs; True if it was stopped and starts as a whole.

        Raises as `stop` and `stops.check_restart`.
        """
        decide = partial(stops.restart, container=container, wish=wish)
        return self._by_hand(name, decide, wish.by) == stops.STARTED

    def _by_hand(self, name: str, decide: stops.Decide, by: str) -> str:
        return self._change(lambda draft: draft.by_hand(name, decide), by)[0]

    def resume(self, name: str, *, by: str = "") -> Applied:
        """Let a held pod follow its file again; one that follows none tries again the spec that failed.

        Raises as `ownership.resume`.
        """
        pod = self.get(name)
        failed = self.revision(name, pod.hold.failed) if pod is not None and pod.hold is not None else None
        return self._change(lambda draft: draft.resume(name, failed), by)[1].applied

    def record(self, name: str, status: PodStatus | None, events: Iterable[NewEvent] = ()) -> None:
        """Store a pod's status (None forgets it) and append events, in one transaction."""
        kept = tuple(events)
        if kept or status != self._now().statuses.get(name):
            self._change(lambda draft: draft.record(name, status, kept))

    def revise(
        self,
        name: str,
        change: Callable[[PodStatus], PodStatus | None],
        events: Iterable[NewEvent] = (),
        verdicts: Mapping[int, Verdict] | None = None,
    ) -> bool:
        """Store what `change` makes of a pod's status at that moment, with events and verdicts by generation.

        Nothing is stored, and False returned, if `change` returns None: what it was for stands no more.
        """
        kept, judged, before = tuple(events), verdicts or {}, self.status(name)
        after = change(before)
        if after is None:
            return False
        if not kept and not judged and after == before:
            return True

        def changed(draft: Draft) -> bool:
            status = change(draft.before.statuses.get(name, _EMPTY_STATUS))
            if status is None:
                return False
            for generation, verdict in judged.items():
                draft.decide(name, generation, verdict)
            draft.record(name, status, kept)
            return True

        return self._change(changed)[0]

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

    def _change(self, transition: Callable[[Draft], R], by: str = "") -> tuple[R, Outcome]:
        """Run a transition and make it durable, together with those that other threads queued meanwhile."""
        done: Future[tuple[R, Outcome]] = Future()
        with self._queue_lock:
            self._queue.append((transition, by, done))
        with self._commit_lock:
            if not done.done():
                with self._queue_lock:
                    batch, self._queue = self._queue, []
                self._commit(batch)
        return done.result()

    def _commit(self, batch: Sequence[_Queued]) -> None:
        writes: list[Write] = []
        results: list[tuple[Future[Any], tuple[Any, Outcome]]] = []
        try:
            state = self._now()
            for transition, by, done in batch:
                draft = Draft(state, self._clock(), self._kept, by)
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
            for *_, done in batch:
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
    format_ = _format(store)
    generations: dict[str, int] = {}
    for key in store.keys(Table.REVISIONS):
        name, _, generation = key.partition(b"\0")
        generations[name.decode()] = int.from_bytes(generation, "big")
    meta, events = store.keys(Table.META), store.keys(Table.EVENTS)
    return State(
        format=format_,
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


def _format(store: Store) -> int:
    value = store.get(Table.META, SCHEMA_KEY)
    if value is None:
        store.write([Write(Table.META, SCHEMA_KEY, msgspec.json.encode(OLDEST))])
        return OLDEST
    found = _decode(store, Table.META, SCHEMA_KEY, value, int)
    if found > NEWEST:
        raise UnreadableJournal(
            f"the journal was written by a newer tank-agent (format {found}; this one knows up to {NEWEST})",
            hint="install that version again; this one has changed nothing",
        )
    return found
