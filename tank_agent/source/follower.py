"""Followers: one thread for each source, which publishes snapshots to the agent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.settings.settings import Settings
from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.model import Host

_log = structlog.get_logger()
_JOIN_DEADLINE = 10.0
AGENT_START = "agent start"


class OwnedPod(Struct, frozen=True):
    """A desired pod as the budget of a source counts it; `hash` is of the spec that its file declared."""

    name: str
    owner: str
    hash: str


class Inbox(NamedTuple):
    """The agent as followers know it. All functions may be called from any thread.

    Args:
        settings, host: for making followers, and for the selectors of pods.
        publish: merges a snapshot into the journal and wakes the pods that it changes, with a cause; raises
            Stalled if sources are suspended, and TankError if the journal cannot store it.
        suspended: returns whether everything stays as it is for now.
        note_unstored: notes why a source's pods could not be stored, or (None) that they were; with a cause.
        owned: returns the pods that a source could change: no suspended ones, and pinned ones as declared.
        record_event: appends an event that concerns no single pod: its type, message and revision.
        remember: keeps a small fact over restarts; empty forgets it.
        recall: returns such a fact; empty if there is none.
    """

    settings: Settings
    host: Host
    publish: Callable[[Snapshot, str], None]
    suspended: Callable[[], bool]
    note_unstored: Callable[[str, str | None, str], None]
    owned: Callable[[], Sequence[OwnedPod]]
    record_event: Callable[[str, str, str], None]
    remember: Callable[[str, bytes], None]
    recall: Callable[[str], bytes]


class Follower:
    """Follows one source in a thread: `look` runs when the source may have changed, and after each `pause`.

    Attributes:
        place: the name in reports of problems that the source has as a whole; None: the follower has a report
            of its own.
        slow, slow_hint: message and hint of the error if a look does not end in time.
        at_once: the first look runs in `start`, before anything else is followed.
    """

    place: str | None = None
    slow = "is still being looked at"
    slow_hint = "what runs goes on"
    at_once = False

    def __init__(
        self, source: str, *, wait: Callable[[threading.Event, float], bool] = threading.Event.wait
    ) -> None:
        self.source = source
        self._wait = wait
        self._changed = threading.Event()
        self._stopped = False
        self._looked = threading.Condition()
        # Numbers of the last look asked for, and of the last one answered: a look that began before it was
        # asked for may have missed the change.
        self._asked = 0
        self._answered = 0
        self._unsettled: float | None = None
        self._thread = threading.Thread(target=self._run, name=source, daemon=True)

    def look(self, cause: str) -> float | None:
        """Publish changes of the source; return in how many seconds it may be at rest, or None: it is now."""
        raise NotImplementedError

    def pause(self) -> float:
        """Return in how many seconds to look again without a wake."""
        raise NotImplementedError

    def reload(self, settings: Settings) -> None:
        """Apply new settings, as far as that needs no restart."""

    def start(self) -> None:
        """Begin to follow."""
        if self.at_once:
            self._look(AGENT_START)
        self._thread.start()

    def wake(self) -> None:
        """Look soon; returns at once, from any thread."""
        self._changed.set()

    def ask(self) -> int:
        """Look soon, and return a number for `answered`."""
        with self._looked:
            self._asked += 1
            ticket = self._asked
        self.wake()
        return ticket

    def answered(self, ticket: int, timeout: float) -> bool:
        """Wait until a look that began after `ask` has ended with the source at rest; False: not in time."""
        with self._looked:
            self._looked.wait_for(lambda: self._stopped or self._answered >= ticket, timeout)
            return self._answered >= ticket

    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread."""
        self._stopped = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join(_JOIN_DEADLINE)
        with self._looked:
            self._looked.notify_all()

    def _look(self, cause: str) -> None:
        self._changed.clear()
        with self._looked:
            asked = self._asked
        self._unsettled = None
        try:
            self._unsettled = self.look(cause)
        except Exception:
            _log.exception("following a source failed by a bug; what runs goes on", source=self.source)
        if self._unsettled is None:
            with self._looked:
                self._answered = asked
                self._looked.notify_all()

    def _run(self) -> None:
        if not self.at_once:
            self._look(AGENT_START)
        while not self._stopped:
            pause = self.pause()
            seconds = pause if self._unsettled is None else min(self._unsettled, pause)
            woken = self._wait(self._changed, seconds)
            if not self._stopped:
                self._look("source changed" if woken or self._unsettled is not None else "resync")


class ReadingFollower(Follower):
    """Follows a source by reading all of it at each look, the first time while the agent starts.

    Args:
        read: returns a snapshot, fast; the same object while nothing changed.
        settle_after: returns in how many seconds to read again even without an event; None: no need.
    """

    at_once = True

    def __init__(
        self,
        source: str,
        read: Callable[[], Snapshot],
        inbox: Inbox,
        *,
        settle_after: Callable[[], float | None] = lambda: None,
    ) -> None:
        super().__init__(source)
        self._read = read
        self._settle_after = settle_after
        self._inbox = inbox
        self._resync = inbox.settings.reconcile.resync
        self._published: Snapshot | None = None

    def pause(self) -> float:
        """Return the time between two resyncs."""
        return self._resync

    def reload(self, settings: Settings) -> None:
        """Apply the new time between two resyncs."""
        self._resync = settings.reconcile.resync
        self.wake()

    def look(self, cause: str) -> float | None:
        """Read the source, and publish its snapshot if that is new."""
        if self._inbox.suspended():
            return None
        try:
            snapshot = self._read()
            # A resync without changes merges nothing.
            if snapshot is not self._published:
                self._inbox.publish(snapshot, cause)
                self._published = snapshot
        except TankError as error:
            self._inbox.note_unstored(self.source, str(error), cause)
        else:
            self._inbox.note_unstored(self.source, None, cause)
        return self._settle_after()
