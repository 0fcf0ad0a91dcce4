"""Looks at the sources whenever one of them may have changed, and merges what they say into the journal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from tank_agent.errors import Problem, Stalled, TankError, one_line
from tank_agent.intake.events import record_events
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent
from tank_agent.journal.transitions import Applied
from tank_agent.linux.clock import Clock
from tank_agent.source.snapshot import Snapshot

_log = structlog.get_logger()
_JOIN_DEADLINE = 10.0
_SUSPENDED = "sources.suspended"
_FILES = "dir"
_MOST_OWED = 20
_NAMES = {"dir": "the files", "seed": "the seeds"}


class Source(Protocol):
    """Something that declares pods."""

    def snapshot(self) -> Snapshot:
        """Return what it declares now; never raises for what it finds there."""
        ...

    def settle_after(self) -> float | None:
        """Return in how many seconds it should be looked at again, whatever events say."""
        ...


class Unstored:
    """Keep the errors of sources whose pods the journal could not store; recorded as events once it can.

    Args:
        journal: events go there.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._errors: dict[str, str] = {}
        # What cannot be stored can often not be recorded either.
        self._owed: list[NewEvent] = []

    def errors(self) -> dict[str, str]:
        """Return what could not be stored, by source."""
        with self._lock:
            return dict(self._errors)

    def note(self, source: str, error: str | None, cause: str) -> None:
        """Note why the pods of a source could not be stored, or (None) that they were."""
        with self._lock:
            former = self._errors.pop(source, None)
            if error is not None:
                self._errors[source] = error
            # Only the reason may have become another one.
            if (former is None) != (error is None):
                self._owed.append(_news_of(source, error, cause))
                if error is not None:
                    _log.error("cannot store what a source says; what runs goes on", error=error, cause=cause)
            owed, self._owed = self._owed[-_MOST_OWED:], []
        if not owed:
            return
        try:
            self._journal.record("", None, owed)
        except TankError:
            with self._lock:
                self._owed = owed + self._owed


def _news_of(source: str, error: str | None, cause: str) -> NewEvent:
    name = _NAMES.get(source, source)
    if error is None:
        message = f"what {name} say is stored again"
        return NewEvent(pod="", type="source-recovered", message=message, cause=cause)
    message = f"what {name} say could not be stored: {one_line(error)}"
    return NewEvent(pod="", type="source-error", message=message, cause=cause)


class SourceLoop:
    """One thread that owns all sources.

    Args:
        sources: looked at in this order; the first to declare a name owns it.
        journal: what they say goes there.
        wake: called for every pod that changed, with the cause.
        each_resync: called after the sources were looked at by the clock.
        resync: seconds between two looks at everything.
        clock: measures that.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        journal: Journal,
        *,
        wake: Callable[[str, str], None],
        each_resync: Callable[[], object],
        resync: float,
        clock: Clock,
    ) -> None:
        self._sources = sources
        self._journal = journal
        self._wake = wake
        self._each_resync = each_resync
        self._resync = resync
        self._clock = clock
        self._event = threading.Event()
        self._looked = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._stopped = False
        self._last: dict[str, Snapshot] = {}
        self.unstored = Unstored(journal)
        self._told: frozenset[Problem] = frozenset()
        self._telling = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="sources", daemon=True)

    def start(self) -> None:
        """Look at the sources once, then go on in the thread."""
        self.look("agent start")
        self._thread.start()

    def notify(self) -> None:
        """Say that a source may have changed; returns at once."""
        self._event.set()

    def sync(self, timeout: float) -> bool:
        """Look at the sources until they are at rest, then at all pods; False if not in `timeout` seconds.

        A file that is being written, or has just gone and may come back, is waited for.
        """
        with self._looked:
            self._asked += 1
            ticket = self._asked
        self._event.set()
        with self._looked:
            return self._looked.wait_for(lambda: self._answered >= ticket, timeout)

    def close(self) -> None:
        """End the thread."""
        self._stopped = True
        self._event.set()
        self._thread.join(_JOIN_DEADLINE)

    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def set_resync(self, seconds: float) -> None:
        """Change how often everything is looked at, from now on."""
        self._resync = seconds
        self._event.set()

    def look(self, cause: str) -> float | None:
        """Take and merge every snapshot; return in how many seconds a source wants to be looked at again."""
        if self.suspended():
            return None
        delays = []
        for source in self._sources:
            said = _FILES
            try:
                snapshot = source.snapshot()
                said = snapshot.source
                self._merge(snapshot, cause)
            except TankError as error:
                self.unstored.note(said, str(error), cause)
            else:
                self.unstored.note(said, None, cause)
            delay = source.settle_after()
            if delay is not None:
                delays.append(delay)
        return min(delays, default=None)

    def suspended(self) -> bool:
        """Return whether what sources say does not count for now; kept over restarts."""
        return bool(self._journal.recall(_SUSPENDED))

    def suspend(self) -> None:
        """Leave every pod as it is, whatever sources say, until `resume`."""
        self._journal.remember(_SUSPENDED, b"yes")

    def resume(self) -> None:
        """Look at the sources again, now and from now on."""
        self._journal.remember(_SUSPENDED, b"")
        self.notify()

    def publish(self, snapshot: Snapshot, cause: str) -> None:
        """Merge what a source in another thread says, and wake the pods that it changes.

        Raises:
            Stalled: sources are suspended.
            TankError: the journal cannot store it.
        """
        if self.suspended():
            raise Stalled("sources are suspended", hint="`tank resume` follows them again")
        applied = self._journal.merge(snapshot)
        self._tell_problems(cause)
        self.announce(applied, cause)

    def _merge(self, snapshot: Snapshot, cause: str) -> None:
        # Sources return the same object while nothing changed, so a quiet resync merges nothing.
        if self._last.get(snapshot.source) is snapshot:
            return
        self.publish(snapshot, cause)
        self._last[snapshot.source] = snapshot

    def announce(self, applied: Applied, cause: str) -> None:
        """Wake the pods that a change of the journal concerns."""
        desired = self._journal.desired()
        for pod in applied.changed:
            _log.info(
                "pod changed", pod=pod, revision=desired[pod].revision if pod in desired else "", cause=cause
            )
            self._wake(pod, cause)
        for pod in applied.removed:
            _log.info("pod removed", pod=pod, revision="", cause=cause)
            self._wake(pod, cause)

    def _tell_problems(self, cause: str) -> None:
        """Log and record each problem once, names that two sources claim among them."""
        problems = frozenset(self._journal.problems())
        desired = self._journal.desired()
        with self._telling:
            news, mended, self._told = problems - self._told, self._told - problems, problems
        events = []
        for problem in sorted(news):
            pod = problem.pod or ""
            revision = desired[pod].revision if pod in desired else ""
            _log.warning("problem in a source", pod=pod, revision=revision, problem=str(problem), cause=cause)
            found = NewEvent(
                pod=pod, type="source-error", message=str(problem), revision=revision, cause=cause
            )
            events.append(found)
        for file in sorted({problem.file for problem in mended} - {problem.file for problem in problems}):
            message = f"{file}: nothing is wrong with it now"
            events.append(NewEvent(pod="", type="source-recovered", message=message, cause=cause))
        record_events(self._journal, events)

    def _run(self) -> None:
        resync_at = self._clock.monotonic() + self._resync
        settle: float | None = None
        while True:
            left = max(0.0, resync_at - self._clock.monotonic())
            self._event.wait(left if settle is None else min(settle, left))
            self._event.clear()
            if self._stopped:
                return
            with self._looked:
                asked = self._asked
            # The pace may just have become shorter.
            resync_at = min(resync_at, self._clock.monotonic() + self._resync)
            due = self._clock.monotonic() >= resync_at
            settle = self._look_safely("resync" if due else "source changed")
            if due or (settle is None and asked > self._answered):
                self._resync_safely()
            if due:
                resync_at = self._clock.monotonic() + self._resync
            if settle is None:
                with self._looked:
                    self._answered = asked
                    self._looked.notify_all()

    def _resync_safely(self) -> None:
        try:
            self._each_resync()
        except Exception:
            _log.exception("a resync failed by a bug; the next one tries again")

    def _look_safely(self, cause: str) -> float | None:
        try:
            return self.look(cause)
        except Exception:
            _log.exception("looking at the sources failed by a bug; what runs goes on", cause=cause)
            return None
