"""Visits to containers, by `tank exec`, `attach` and `cp`: their events, written beside the sessions.

A session only counts itself: its user's name is looked up, and the event stored, by a thread that there is
while something is to be written or counted. The first visit is an event at once. Those of the same user to
the same container with the same program are counted from then on, and are one event at the end of a while,
which is longer from time to time: a script that enters a container each second takes no more of the journal,
which keeps a limited number of events, than some a day.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import Struct

from tank_agent.journal.records import NewEvent
from tank_agent.linux.users import user_name
from tank_agent.spec.printable import escape
from tank_agent.spec.quantities import format_duration

# Seconds after which the first one is written, so that it takes no time from the session's own start.
_SOON = 0.2
# Seconds for which the next ones are counted: at first, then as long as there are some in each.
PACES = (60.0, 600.0, 3600.0, 86_400.0)
# Visits that are told apart at a time; further ones are counted by user.
MOST = 500
# Characters of a program's name.
_SHOWN = 60
_SAYS = {
    "exec": "ran {program}",
    "attach": "attached to its terminal",
    "files-read": "copied files out of it",
    "files-written": "copied files into it",
}


class Visit(Struct, frozen=True, kw_only=True):
    """What is counted together: the kind of the event, the user, the container, and the program's name."""

    kind: str
    uid: int
    pod: str = ""
    container: str = ""
    program: str = ""


@dataclass
class _Count:
    """The number of visits since their last event; `due` is when to write that, `rounds` counts events."""

    due: float
    unwritten: int = 1
    rounds: int = 0
    since: float = 0.0


class Tally:
    """Counts visits, and says when which of them are to be written; times are of one monotonic clock."""

    def __init__(self) -> None:
        self._counts: dict[Visit, _Count] = {}

    def add(self, visit: Visit, now: float) -> None:
        """Count a visit."""
        if visit not in self._counts and len(self._counts) >= MOST:
            visit = Visit(kind=visit.kind, uid=visit.uid)
        known = self._counts.get(visit)
        if known is None:
            self._counts[visit] = _Count(due=now + _SOON)
        else:
            known.unwritten += 1

    def due(self) -> float | None:
        """Return when to call `take`; None while there is nothing to count."""
        return min((count.due for count in self._counts.values()), default=None)

    def take(self, now: float) -> Sequence[tuple[Visit, str]]:
        """Return the visits to write now, each with its message, and forget those that have ended."""
        found = []
        for visit, count in [*self._counts.items()]:
            if count.due > now:
                continue
            if not count.unwritten:
                del self._counts[visit]
                continue
            found.append((visit, _message(visit, count, now)))
            pace = PACES[min(count.rounds, len(PACES) - 1)]
            self._counts[visit] = _Count(due=now + pace, unwritten=0, rounds=count.rounds + 1, since=now)
        return found

    def rest(self, now: float) -> Sequence[tuple[Visit, str]]:
        """Return all that is not written yet, and count nothing any more."""
        counts, self._counts = self._counts, {}
        return [(visit, _message(visit, one, now)) for visit, one in counts.items() if one.unwritten]


class Visits:
    """Writes the events of visits. All methods may be called from any thread.

    Args:
        record: stores events.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self, record: Callable[[Sequence[NewEvent]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._record = record
        self._clock = clock
        self._tally = Tally()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def note(self, kind: str, uid: int, pod: str, container: str, program: str = "") -> None:
        """Count a visit that began; `program` is the name of what is run, which may be any text."""
        visit = Visit(kind=kind, uid=uid, pod=pod, container=container, program=program[: _SHOWN + 1])
        with self._changed:
            if self._closed:
                return
            self._tally.add(visit, self._clock())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="visits", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Write what is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            left, thread = self._tally.rest(self._clock()), self._thread
        if left:
            self._write(left)
        if thread is not None:
            thread.join(_SOON)

    def _run(self) -> None:
        while True:
            with self._changed:
                due = self._tally.due()
                if due is None:
                    self._thread = None
                    return
                if (left := due - self._clock()) > 0:
                    self._changed.wait(left)
                    continue
                found = self._tally.take(self._clock())
            self._write(found)

    def _write(self, found: Sequence[tuple[Visit, str]]) -> None:
        self._record(
            [
                NewEvent(
                    pod=visit.pod,
                    container=visit.container,
                    type=visit.kind,
                    message=message,
                    by=user_name(visit.uid),
                )
                for visit, message in found
            ]
        )


def _message(visit: Visit, count: _Count, now: float) -> str:
    program = escape(visit.program)
    program = program if len(program) <= _SHOWN else f"{program[: _SHOWN - 1]}…"
    text = _SAYS[visit.kind].format(program=program or "programs")
    if not visit.pod:
        text += ", in several containers"
    if not count.rounds:
        return text if count.unwritten == 1 else f"{text}, {count.unwritten} times"
    within = format_duration(max(1.0, round(now - count.since)))
    return f"{text}, {count.unwritten} more time{'s' if count.unwritten > 1 else ''} within {within}"
