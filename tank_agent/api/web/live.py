"""The live stream: open pages are told what changed, by one thread that finds it out once for all of them."""

from __future__ import annotations

import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import structlog
from msgspec.structs import replace

from tank_agent import __version__
from tank_agent.api.reports import PodReport, SourcesReport
from tank_agent.api.request import Refused
from tank_agent.api.stream import CallerGone
from tank_agent.api.web.shown import Shown
from tank_agent.api.web.usage import INTERVAL, UsageHistory
from tank_agent.control.pods import Service
from tank_agent.errors import PodNotFound, Problem
from tank_agent.journal.records import DesiredPod
from tank_agent.linux.clock import rfc3339
from tank_agent.reconcile.core.phase import Phase

_log = structlog.get_logger()
STREAMS = 16
_EVENTS_SHOWN = 50
_EVENTS_AT_ONCE = 500
# Seconds of silence after which a beat shows that the agent is there.
_BEAT = 15.0
# Seconds until a stream notices that its reader has left.
_LOOK = 0.5
# Seconds between two looks at what has no event, such as files with errors, and the sources.
_LOOK_AROUND = 2.0
# The bytes that may wait for a reader, beside what it is being sent.
_QUEUED = 4 << 20
# Seconds in which events come together, and after which a pod is looked at again that had one.
_TOGETHER = 0.1
_AGAIN = 1.0
# A look at everything so many seconds ago is fresh enough for a page that opens.
_FRESH = 2.0


class Listener:
    """One open page: the messages that wait to be sent to it.

    It is an iterator of pieces of the stream, which `close` ends from any thread.
    """

    def __init__(self, ended: Callable[[], bool], left: Callable[[Listener], None]) -> None:
        self._ended = ended
        self._left = left
        self._changed = threading.Condition()
        # Set by the thread that tells pages, once it has said hello.
        self.greeted = False
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._over = False
        self._behind = False

    def put(self, message: bytes) -> None:
        """Queue a message, or drop the reader if it is too far behind: it will ask anew."""
        with self._changed:
            # One is always taken, however long it is.
            if self._queue and self._queued + len(message) > _QUEUED:
                self._behind = True
            elif not self._behind:
                self._queue.append(message)
                self._queued += len(message)
            self._changed.notify()

    def pending(self) -> Iterable[bytes]:
        """Take the messages that wait."""
        with self._changed:
            return self._take()

    def _take(self) -> Iterable[bytes]:
        taken, self._queue, self._queued = self._queue, deque(), 0
        return taken

    def end(self) -> None:
        """End the stream now."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def close(self) -> None:
        """Leave the pages that are told."""
        self._left(self)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """Return what comes next: messages, or a beat.

        Raises:
            CallerGone: it does not keep up.
        """
        silent_until = time.monotonic() + _BEAT
        with self._changed:
            while True:
                if self._behind:
                    raise CallerGone
                if self._over or self._ended():
                    raise StopIteration
                if self._queue:
                    return b"".join(self._take())
                if time.monotonic() >= silent_until:
                    return b": beat\n\n"
                self._changed.wait(_LOOK)


class Live:
    """Finds out what changes while a page is open, and samples usage always.

    `open` may be called from many threads, `turn` from one.

    Args:
        started: Unix time at which the agent started.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        service: Service,
        shown: Shown,
        *,
        started: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._shown = shown
        self._started = started
        self._clock = clock
        self._wall = wall
        self._history = UsageHistory()
        self._sampled_at = 0.0
        self._next_sample = clock()
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._wake = threading.Event()
        self._over = False
        self._forget()

    def _forget(self) -> None:
        self._known: dict[str, PodReport] = {}
        self._sources: SourcesReport | None = None
        self._seen = 0
        self._looked_at = -1e9
        self._desired: Mapping[str, DesiredPod] = {}
        self._problems: tuple[Problem, ...] = ()
        # Pods that are to be looked at again: when, and after how many seconds then.
        self._again: dict[str, tuple[float, float]] = {}

    def open(self, ended: Callable[[], bool]) -> Listener:
        """Return a new stream; `ended` is asked whether its reader has left.

        Raises:
            Refused: so many are open already.
        """
        listener = Listener(ended, self._leave)
        with self._lock:
            full = len(self._listeners) >= STREAMS
            if not full and not self._over:
                self._listeners.append(listener)
        if self._over:
            listener.end()
        if full:
            raise Refused(503, f"{STREAMS} pages are open already", hint="close one of them")
        self._rouse()
        return listener

    def _leave(self, listener: Listener) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def close(self) -> None:
        """End all streams at once, and `turn`."""
        with self._lock:
            self._over = True
            left = [*self._listeners]
        for listener in left:
            listener.end()
        self._rouse()

    def _rouse(self) -> None:
        self._wake.set()
        self._service.journal.stir()

    def turn(self, patience: float) -> None:
        """Do what is due, and then wait until more is, for at most `patience` seconds."""
        now = self._clock()
        due = now >= self._next_sample
        if due:
            self._sample(now)
        with self._lock:
            listeners = list(self._listeners)
        if not listeners:
            self._forget()
            self._wake.wait(min(patience, max(0.0, self._next_sample - now)))
            self._wake.clear()
            return
        self._wake.clear()
        if any(one.greeted for one in listeners):
            self._follow(now, everything=due)
        if due:
            self._tell("usage", {"at": rfc3339(self._sampled_at), "points": self._history.newest()})
        if new := [one for one in listeners if not one.greeted]:
            self._greet(new, now)
        soonest = min([self._next_sample, *(at for at, _ in self._again.values())])
        wait = max(0.0, min(patience, _LOOK_AROUND, soonest - self._clock()))
        if self._service.journal.wait_for_events(self._seen, wait, or_if=self._wake.is_set):
            self._wake.wait(_TOGETHER)

    def _sample(self, now: float) -> None:
        self._sampled_at = self._wall()
        self._history.add(self._service.machine.containers.samples(), now)
        # A late one moves none of the next.
        self._next_sample += INTERVAL
        if self._next_sample <= now:
            self._next_sample = now + INTERVAL

    def _greet(self, new: Sequence[Listener], now: float) -> None:
        """Send all that is known to pages that have opened."""
        if now - self._looked_at > _FRESH:
            if self._seen == 0:
                latest = self._service.latest_events(1)
                self._seen = latest[-1].seq if latest else 0
            self._declared_anew()
            self._look_at_all(now)
        events = [one for one in self._service.latest_events(_EVENTS_SHOWN) if one.seq <= self._seen]
        usage = {"interval": INTERVAL, "at": rfc3339(self._sampled_at), "points": self._history.all()}
        assert self._sources is not None
        hello = {
            "host": platform.node(),
            "version": __version__,
            "now": rfc3339(self._wall()),
            "started": rfc3339(self._started),
            "sources": self._shown.sources(self._sources),
            "pods": self._shown.pods(self._known[name] for name in sorted(self._known)),
            "events": events,
            "usage": usage,
        }
        message = self._message("hello", hello, self._seen)
        for listener in new:
            listener.put(message)
            listener.greeted = True

    def _follow(self, now: float, *, everything: bool) -> None:
        """Tell open pages of events, and of the pods that they are about."""
        events = self._service.events(self._seen, _EVENTS_AT_ONCE)
        for event in events:
            self._seen = event.seq
            self._tell("event", event, event.seq)
        if everything:
            self._look_at_all(now)
            return
        touched = {event.pod for event in events if event.pod} | self._declared_anew()
        if self._service.journal.problems() != self._problems and now - self._looked_at >= _AGAIN:
            # Files with errors are rows of their own, without an event.
            self._look_at_all(now)
            return
        due = touched | {name for name, (at, _) in self._again.items() if at <= now}
        if due:
            self._look_at(due, touched, now)
        self._look_at_sources()

    def _declared_anew(self) -> set[str]:
        """Return the pods whose declaration is another than at the last look."""
        former, self._desired = self._desired, self._service.journal.desired()
        return {
            name for name in {**former, **self._desired} if former.get(name) is not self._desired.get(name)
        }

    def _look_at_all(self, now: float) -> None:
        self._problems = self._service.journal.problems()
        found = {report.name: report for report in self._service.status()}
        self._looked_at = now
        changed = [name for name, report in found.items() if self._differs(report)]
        gone = [name for name in self._known if name not in found]
        self._known = found
        self._tell_of_pods(changed, gone)
        self._look_at_sources()

    def _look_at(self, names: set[str], touched: set[str], now: float) -> None:
        changed, gone = [], []
        for name in sorted(names):
            _, delay = self._again.pop(name, (0.0, _AGAIN))
            report = self._report(name)
            if report is None:
                if self._known.pop(name, None) is not None:
                    gone.append(name)
                continue
            differs = self._differs(report)
            if differs:
                self._known[name] = report
                changed.append(name)
            # What follows of an event, such as a pull's progress or readiness, has none of its own.
            delay = _AGAIN if differs or name in touched else 2 * delay
            if delay < INTERVAL:
                self._again[name] = (now + delay, delay)
        self._tell_of_pods(changed, gone)

    def _report(self, name: str) -> PodReport | None:
        try:
            found = self._service.status(name)[0]
        except PodNotFound:
            return None
        # By its name, a pod for other machines is found; it is none of this one's.
        return None if found.phase == Phase.ELSEWHERE else found

    def _differs(self, report: PodReport) -> bool:
        known = self._known.get(report.name)
        return known is None or _without_usage(known) != _without_usage(report)

    def _tell_of_pods(self, changed: Sequence[str], gone: Sequence[str]) -> None:
        if changed or gone:
            reports = self._shown.pods(self._known[name] for name in changed)
            self._tell("pods", {"changed": reports, "gone": gone})

    def _look_at_sources(self) -> None:
        report = self._service.sources.report()
        if report != self._sources:
            self._sources = report
            self._tell("sources", self._shown.sources(report))

    def _tell(self, kind: str, value: object, number: int | None = None) -> None:
        with self._lock:
            told = [one for one in self._listeners if one.greeted]
        message = self._message(kind, value, number) if told else b""
        for listener in told:
            listener.put(message)

    def _message(self, kind: str, value: object, number: int | None = None) -> bytes:
        """Return a message as the HTML standard has it: section 9.2, server-sent events."""
        identity = b"id: %d\n" % number if number is not None else b""
        return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), identity, self._shown.encode(value))


def _without_usage(report: PodReport) -> PodReport:
    containers = tuple(replace(one, usage=None) for one in report.containers)
    return replace(report, usage=None, containers=containers)
