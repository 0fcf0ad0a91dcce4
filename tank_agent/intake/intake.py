"""The intake: start the followers, merge their snapshots into the journal, and wake the pods that change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from tank_agent.errors import Problem, Stalled, TankError, one_line
from tank_agent.intake.seal import sealed_snapshot
from tank_agent.journal import ownership
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, NewEvent
from tank_agent.journal.transitions import Applied
from tank_agent.linux.whole_files import BEING_WRITTEN
from tank_agent.runtime.secrets.secrets import Secrets
from tank_agent.settings.settings import Settings
from tank_agent.source.follower import AGENT_START, Follower, Inbox, OwnedPod
from tank_agent.source.kinds import BY_NAME, SOURCES, SourceKind
from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.model import Host

_log = structlog.get_logger()
_SUSPENDED = "sources.suspended"
_MOST_OWED = 20


class Unstored:
    """Keeps the errors of sources whose pods the journal could not store, and records them once it can."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._errors: dict[str, str] = {}
        # Events wait here: a disk that has no room for pods often has none for events.
        self._owed: list[NewEvent] = []

    def errors(self) -> dict[str, str]:
        """Return the errors by source."""
        with self._lock:
            return dict(self._errors)

    def note(self, source: str, error: str | None, cause: str) -> None:
        """Note why the pods of a source could not be stored, or (None) that they were."""
        with self._lock:
            former = self._errors.pop(source, None)
            if error is not None:
                self._errors[source] = error
            # If there was an error before and now, only its text may differ.
            if (former is None) != (error is None):
                self._owed.append(_event_of(source, error, cause))
                if error is not None:
                    _log.error("cannot store what a source says; what runs goes on", error=error, cause=cause)
            owed, self._owed = self._owed[-_MOST_OWED:], []
        try:
            self._journal.record("", None, owed)
        except TankError:
            with self._lock:
                self._owed = owed + self._owed


def _event_of(source: str, error: str | None, cause: str) -> NewEvent:
    called = BY_NAME[source].called
    if error is None:
        kind, message = "source-recovered", f"what {called} say is stored again"
    else:
        kind, message = "source-error", f"what {called} say could not be stored: {one_line(error)}"
    return NewEvent(pod="", type=kind, message=message, cause=cause)


class Intake:
    """Starts the followers of all sources, merges their snapshots, and resyncs all pods by the clock.

    Args:
        settings, host: for making followers, and for the selectors of pods.
        journal: stores what sources declare.
        wake: called for every pod that changed, with the cause.
        resync: looks at all pods; called by the clock and by `look`.
        secrets: decrypts those of pods.
        kinds: of the sources to follow, in the order in which they start.
    """

    def __init__(
        self,
        settings: Settings,
        host: Host,
        journal: Journal,
        *,
        wake: Callable[[str, str], None],
        resync: Callable[[], object],
        secrets: Secrets,
        kinds: Sequence[SourceKind] = SOURCES,
    ) -> None:
        self._journal = journal
        self._wake = wake
        self.secrets = secrets
        secrets.know(pod.pod for pod in journal.desired().values() if pod.pod.secrets)
        # The last snapshots of sources with pods that can't be sealed: as the source made it, and as merged.
        self._unsealed: dict[str, tuple[Snapshot, Snapshot]] = {}
        self.unstored = Unstored(journal)
        self._problems: frozenset[Problem] = frozenset()
        self._comparing = threading.Lock()
        self.inbox = Inbox(
            settings=settings,
            host=host,
            publish=self.publish,
            suspended=self.suspended,
            note_unstored=self.unstored.note,
            owned=lambda: owned_pods(journal.desired().values()),
            record_event=self._record_event,
            remember=journal.remember,
            recall=journal.recall,
        )
        followers = (kind.follow(self.inbox) for kind in kinds)
        self.followers = tuple(follower for follower in followers if follower is not None)

        def look_again() -> None:
            self._seal_again()
            resync()

        self._resync = _Resync(look_again, settings.reconcile.resync)

    def start(self) -> None:
        """Begin to follow: files and seeds are read before this returns."""
        for follower in self.followers:
            follower.start()
        self._resync.start()

    def close(self) -> None:
        """End all threads, a fetch that runs included."""
        for follower in reversed(self.followers):
            follower.close()
        self._resync.close()

    def alive(self) -> bool:
        """Return whether all threads run."""
        return all(follower.alive() for follower in (*self.followers, self._resync))

    def reload(self, settings: Settings) -> None:
        """Apply new settings, as far as that needs no restart."""
        self.secrets.identities = settings.secrets.identities
        for follower in (*self.followers, self._resync):
            follower.reload(settings)

    def look(self, within: float) -> Follower | None:
        """Look at all sources until they are at rest, then at all pods; return one that is not in time.

        A file that is being written, or has just gone and may come back, is waited for.
        """
        deadline = time.monotonic() + within

        def answered(follower: Follower, ticket: int) -> bool:
            return follower.answered(ticket, max(0.0, deadline - time.monotonic()))

        # All at once, so that files are looked at even if a repository does not answer.
        asked = [(follower, follower.ask()) for follower in self.followers]
        late = [follower for follower, ticket in asked if not answered(follower, ticket)]
        answered(self._resync, self._resync.ask())
        # The last one, since followers start in the order of their distance.
        return late[-1] if late else None

    def suspended(self) -> bool:
        """Return whether all sources are suspended; kept over restarts."""
        return bool(self._journal.recall(_SUSPENDED))

    def suspend(self) -> None:
        """Ignore all sources until `resume`, so that every pod stays as it is."""
        self._journal.remember(_SUSPENDED, b"yes")

    def resume(self) -> None:
        """Follow the sources again, now and from now on."""
        self._journal.remember(_SUSPENDED, b"")
        for follower in self.followers:
            follower.wake()

    def publish(self, snapshot: Snapshot, cause: str) -> None:
        """Merge a snapshot, and wake the pods that it changes.

        Raises:
            Stalled: sources are suspended.
            TankError: the journal cannot store it.
        """
        if self.suspended():
            raise Stalled("sources are suspended", hint="`tank resume` follows them again")
        sealed = sealed_snapshot(self.secrets, snapshot)
        # Noted before the merge: from now on, no older snapshot of this source is merged again.
        self._note_sealed(snapshot, sealed)
        applied = self._journal.merge(sealed)
        self._record_problems(cause)
        self.announce(applied, cause)

    def _note_sealed(self, snapshot: Snapshot, sealed: Snapshot) -> None:
        if len(sealed.pods) == len(snapshot.pods):
            self._unsealed.pop(snapshot.source, None)
        else:
            self._unsealed[snapshot.source] = (snapshot, sealed)

    def _seal_again(self) -> None:
        """Merge the last snapshots again of which more, or less, can be sealed now than before."""
        for source, known in tuple(self._unsealed.items()) if not self.suspended() else ():
            snapshot, before = known
            sealed = sealed_snapshot(self.secrets, snapshot)
            if sealed == before:
                continue

            def still(source: str = source, known: object = known) -> bool:
                return self._unsealed.get(source) is known

            cause = "sealed again"
            try:
                applied = self._journal.merge(sealed, still=still)
            except TankError as error:
                _log.error(
                    "cannot store what a source says; trying again at the next resync", error=str(error)
                )
                continue
            if still():
                self._note_sealed(snapshot, sealed)
            self._record_problems(cause)
            self.announce(applied, cause)

    def announce(self, applied: Applied, cause: str) -> None:
        """Wake the pods that a change of the journal concerns."""
        desired = self._journal.desired()
        for event, pods in (("pod changed", applied.changed), ("pod removed", applied.removed)):
            for pod in pods:
                revision = desired[pod].revision if pod in desired else ""
                if pod in applied.elsewhere:
                    _log.warning(event, pod=pod, why=applied.elsewhere[pod], cause=cause)
                else:
                    _log.info(event, pod=pod, revision=revision, cause=cause)
                self._wake(pod, cause)

    def _record_event(self, kind: str, message: str, revision: str) -> None:
        self._journal.try_to_record([NewEvent(pod="", type=kind, message=message, revision=revision)])

    def _record_problems(self, cause: str) -> None:
        """Log and record each new problem, also of a name that two sources declare, and each mended file."""
        # A file that is just being written is no trouble; `tank status` has it as long as that lasts.
        problems = frozenset(one for one in self._journal.problems() if one.message != BEING_WRITTEN)
        desired = self._journal.desired()
        with self._comparing:
            new, mended, self._problems = problems - self._problems, self._problems - problems, problems
        events = []
        for problem in sorted(new):
            pod = problem.pod or ""
            revision = desired[pod].revision if pod in desired else ""
            message = str(problem)
            _log.warning("problem in a source", pod=pod, revision=revision, problem=message, cause=cause)
            events.append(
                NewEvent(pod=pod, type="source-error", message=message, revision=revision, cause=cause)
            )
        for file in sorted({problem.file for problem in mended} - {problem.file for problem in problems}):
            message = f"{file}: nothing is wrong with it now"
            events.append(NewEvent(pod="", type="source-recovered", message=message, cause=cause))
        self._journal.try_to_record(events)


class _Resync(Follower):
    """Looks at all pods by the clock, even without an event."""

    def __init__(self, resync: Callable[[], object], seconds: float) -> None:
        super().__init__("resync")
        self._resync = resync
        self._seconds = seconds

    def look(self, cause: str) -> None:
        """Look at all pods, except at the agent's start, which does that by itself."""
        if cause != AGENT_START:
            self._resync()

    def pause(self) -> float:
        """Return the time between two resyncs."""
        return self._seconds

    def reload(self, settings: Settings) -> None:
        """Apply the new time between two resyncs."""
        self._seconds = settings.reconcile.resync
        self.wake()


def owned_pods(pods: Iterable[DesiredPod]) -> list[OwnedPod]:
    """Return the pods that a source could change: no suspended ones, and pinned ones as declared."""
    return [
        OwnedPod(pod.name, pod.owner, pod.hold.declared if pod.hold is not None else pod.hash)
        for pod in pods
        if not ownership.is_suspended(pod)
    ]
