"""The thread of notifications: reads events, decides, remembers, and lets receivers be sent to.

It waits for nobody: a message is sent by a thread of its own, which is given up after a deadline.
Before anything is sent, the journal has it; after it was sent, the journal forgets it. So a notification is
sent at least once, and after kill -9 at most once more. A disk without room keeps no notification from being
sent.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.api.reports import NotifyReceiver, NotifyReport, TestedReceiver
from tank_agent.control.pods import Service
from tank_agent.errors import TankError, one_line
from tank_agent.journal.records import NewEvent
from tank_agent.linux.clock import rfc3339
from tank_agent.linux.fault import point
from tank_agent.outward.notify import decide, pace
from tank_agent.outward.notify.channels import Delivery, Receiver, body_of, body_of_note
from tank_agent.outward.notify.decide import Wants
from tank_agent.outward.notify.facts import read_facts
from tank_agent.outward.notify.memory import Message, Note, Remembered
from tank_agent.outward.notify.receivers import Receivers
from tank_agent.outward.notify.rules import RULES
from tank_agent.retry import Pace
from tank_agent.settings.notify import NotifySettings

_log = structlog.get_logger()
KEY = "notify"
# Seconds between two looks at the machine: while something is wrong, and else, for the disk.
_LOOK, _LOOK_AT_DISK = 15.0, 60.0
_EVENTS_AT_ONCE = 500
# So many events are read again at most after the agent was killed.
_REMEMBER_AFTER = 2000
# A run that lasts so long is no part of a crash loop.
_STEADY = 60.0
# The tries of one receiver: the first three soon, the later ones at the longest after a quarter of an hour.
_PACE = Pace(base=2.0, cap=900.0)
_TRIES_SOON = 3
_GIVEN_UP_AFTER = 86_400.0
# Seconds for one message: apprise's own deadline and some more. So many threads may hang for one receiver.
_DEADLINE = 40.0
_HANGING_MAX = 2
# Seconds that an agent which stops waits for what is being sent; without it the next one sends it again.
_MOMENT = 2.0


class _Line(Struct):
    """How one receiver is doing; `try_` is the number of the try under way, whose thread is `thread`."""

    failures: int = 0
    error: str = ""
    since: float = 0.0
    retry_at: float = 0.0
    refused: int = 0
    try_: int = 0
    message: int | None = None
    begun: float = 0.0
    threads: list[threading.Thread] = msgspec.field(default_factory=list)


class Notifications:
    """The notifications of an agent; off by not being made. `report` and `test` may be called by any thread.

    Args:
        service: answers what the machine is like; its journal has the events.
        settings: of [notify].
        host: the machine's name in messages.
    """

    def __init__(self, service: Service, settings: NotifySettings, host: str) -> None:
        self._service, self._journal, self._clock = service, service.journal, service.machine.clock
        self._settings, self._host = settings, host
        self._wants = Wants(kinds=frozenset(settings.events), after=settings.after)
        self.receivers = Receivers(settings)
        self._lines: dict[str, _Line] = {}
        self._done: deque[tuple[str, int, int, Delivery]] = deque()
        self._closing = False
        self._memory, self._kept = Remembered(), Remembered()
        self._unkept = False
        self._look_at = 0.0
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; what is still being sent after a moment is sent again by the next agent."""
        self._closing = True
        self._journal.stir()
        self._thread.join(5.0)

    def report(self) -> NotifyReport:
        """Return who is told, what waits, and what does not work."""
        memory, receivers = self._memory, self.receivers.read()
        waiting = {one.name: sum(one.name in message.left for message in memory.queue) for one in receivers}
        lines = {one.name: self._lines.get(one.name) or _Line() for one in receivers}
        return NotifyReport(
            on=True,
            receivers=tuple(
                NotifyReceiver(
                    name=name,
                    waiting=waiting[name],
                    error=line.error,
                    since=rfc3339(line.since) if line.error else None,
                )
                for name, line in lines.items()
            ),
            problems=self.receivers.problems,
            held=len(memory.notes),
        )

    def untold(self) -> Sequence[str]:
        """Return sentences on receivers that are not reached, after the first few tries."""
        lines = [(name, line) for name, line in self._lines.copy().items() if line.failures >= _TRIES_SOON]
        return [*self.receivers.problems, *(f"{name} can't be told: {line.error}" for name, line in lines)]

    def test(self, by: str) -> Sequence[TestedReceiver]:
        """Send a test notification to each receiver now, all at once, and return what each said."""
        now = self._clock.wall()
        title, message = "a test notification", f"{by} asked for it with `tank notify test`; all is well"
        body = body_of_note(
            Note(at=now, kind="test", state="info", title=title, event="notify-test"), self._host, message
        )
        asked = "sent a test notification"
        event = NewEvent(pod="", type="notify-test", message=asked, cause="tank notify test", by=by)
        self._journal.try_to_record([event])
        found: dict[str, Delivery] = {}

        def send(one: Receiver) -> None:
            found[one.name] = _send(one, body)

        receivers = self.receivers.read()
        threads = [
            threading.Thread(target=send, args=(one,), name="notify-test", daemon=True) for one in receivers
        ]
        for thread in threads:
            thread.start()
        end = self._clock.monotonic() + _DEADLINE
        for thread in threads:
            thread.join(max(0.0, end - self._clock.monotonic()))
        late = Delivery(error=f"it did not answer within {_DEADLINE:g} s")
        answers = [TestedReceiver(name=one.name, error=found.get(one.name, late).error) for one in receivers]
        return [*answers, *(TestedReceiver(name="[notify]", error=one) for one in self.receivers.problems)]

    def _run(self) -> None:
        while not self._closing:
            try:
                self._recall()
                while not self._is_closing():
                    self.turn()
                    cursor, timeout = self._memory.cursor, self.pause()
                    self._journal.wait_for_events(cursor, timeout, or_if=self._stirred)
                self._finish()
            except TankError as error:
                if self._closing or not self._wait_after(error):
                    return
            except Exception as error:
                _log.exception("notifications stumbled over a bug; they go on in a minute")
                if not self._wait_after(error):
                    return

    def _finish(self) -> None:
        """Wait a moment for what is being sent, and remember what was."""
        end = self._clock.monotonic() + _MOMENT
        for line in self._lines.copy().values():
            for thread in line.threads:
                thread.join(max(0.0, end - self._clock.monotonic()))
        self._memory = self._take_results(self._memory, self._clock.wall())
        self._remember()

    def _wait_after(self, error: Exception) -> bool:
        """Wait a minute after an error; False if the agent ends."""
        try:
            self._journal.wait_for_events(1 << 62, 60.0, or_if=self._stirred)
        except TankError:
            _log.info("notifications end with the journal", error=one_line(str(error)))
            return False
        return not self._closing

    def _is_closing(self) -> bool:
        return self._closing

    def _stirred(self) -> bool:
        return self._closing or bool(self._done)

    def _recall(self) -> None:
        """Read what an earlier agent remembered; without that, only what happens from now on is told."""
        record = self._journal.recall(KEY)
        try:
            memory = msgspec.json.decode(record, type=Remembered) if record else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("what notifications remembered is damaged; they begin anew", error=str(error))
            memory = None
        last, is_kept = self._journal.last_event(), memory is not None
        if memory is None or memory.cursor > last:
            # The journal may have been lost, and begun anew.
            memory = replace(memory or Remembered(), cursor=last)
        self._memory = memory
        self._kept = memory if is_kept else Remembered(cursor=-_REMEMBER_AFTER)

    def turn(self) -> None:
        """Do all that is due now."""
        now = self._clock.wall()
        memory = self._take_results(self._memory, now)
        matters = False
        while events := self._journal.events(memory.cursor, _EVENTS_AT_ONCE):
            for event in events:
                matters = matters or event.type in RULES
                memory = decide.take(memory, event, self._wants, now)
        if matters or self._clock.monotonic() >= self._look_at:
            facts = read_facts(self._service, memory, min(_STEADY, self._wants.after))
            memory = decide.look(memory, facts, self._wants, now)
            needed = decide.needs_look(memory)
            self._look_at = self._clock.monotonic() + (
                min(_LOOK, self._wants.after) if needed else _LOOK_AT_DISK
            )
        receivers = self.receivers.read()
        names = [one.name for one in receivers]
        memory = pace.release(memory, names, self._settings.pause, now)
        memory = self._without_given_up(pace.for_receivers(memory, names), now)
        self._memory = memory
        self._remember()
        for one in receivers:
            self._send_next(one, now)

    def pause(self) -> float:
        """Return the seconds until something is due without an event."""
        now, memory = self._clock.wall(), self._memory
        waits = [self._look_at - self._clock.monotonic()]
        released = pace.next_release(memory, self._settings.pause)
        if released is not None:
            waits.append(released - now)
        waiting = {name for message in memory.queue for name in message.left}
        for name, line in self._lines.items():
            if line.message is not None:
                waits.append(line.begun + _DEADLINE - self._clock.monotonic())
            elif name in waiting:
                waits.append(line.retry_at - now)
        return max(0.01, min(waits))

    def _remember(self) -> None:
        """Keep what matters in the journal; where that has no room, go on, and keep it later."""
        memory = self._memory
        if not memory.differs(self._kept) and memory.cursor - self._kept.cursor < _REMEMBER_AFTER:
            return
        try:
            self._journal.remember(KEY, msgspec.json.encode(memory))
        except TankError as error:
            if not self._unkept:
                _log.warning("notifications can't be kept over a restart", error=one_line(str(error)))
            self._unkept = True
            return
        self._kept, self._unkept = memory, False
        point("notify:remembered")

    def _send_next(self, receiver: Receiver, now: float) -> None:
        """Begin to send the oldest message to a receiver that is free, and whose pause is over."""
        line = self._lines.setdefault(receiver.name, _Line())
        line.threads = [thread for thread in line.threads if thread.is_alive()]
        monotonic = self._clock.monotonic()
        if line.message is not None:
            if monotonic - line.begun < _DEADLINE:
                return
            self._done.append(
                (receiver.name, line.message, line.try_, Delivery(error=f"no end within {_DEADLINE:g} s"))
            )
            return
        message = next((one for one in self._memory.queue if receiver.name in one.left), None)
        # A clock that was set back makes nobody wait longer than the pace does.
        if message is None or now < line.retry_at <= now + _PACE.cap or len(line.threads) >= _HANGING_MAX:
            return
        line.message, line.begun, line.try_ = message.id, monotonic, line.try_ + 1
        self._begin(receiver, message, line)

    def _begin(self, receiver: Receiver, message: Message, line: _Line) -> None:
        body, number = body_of(message, self._host), line.try_

        def deliver() -> None:
            sent = _send(receiver, body)
            if not sent.error:
                point("notify:sent")
            self._done.append((receiver.name, message.id, number, sent))
            self._journal.stir()

        thread = threading.Thread(target=deliver, name="notify-send", daemon=True)
        line.threads.append(thread)
        thread.start()

    def _take_results(self, memory: Remembered, now: float) -> Remembered:
        while self._done:
            name, message, number, sent = self._done.popleft()
            line = self._lines[name]
            if number != line.try_ or line.message is None:
                # It was given up, and another try has begun since.
                continue
            line.message = None
            if not sent.error:
                memory = pace.delivered(memory, message, name)
                self._works(name, line)
                continue
            line.failures += 1
            line.since = line.since or now
            line.error = sent.error
            line.retry_at = now + max(sent.wait, _PACE.delay(line.failures - 1))
            line.refused = line.refused + 1 if sent.refused else 0
            if line.failures == _TRIES_SOON:
                self._event("notify-failed", f"{name} can't be told: {sent.error}; tries go on")
            if line.refused >= _TRIES_SOON:
                memory = pace.delivered(memory, message, name)
                line.refused = 0
                self._event(
                    "notify-dropped", f"{name} refuses a notification, which is dropped: {sent.error}"
                )
        return memory

    def _works(self, name: str, line: _Line) -> None:
        if line.failures >= _TRIES_SOON:
            self._event("notify-recovered", f"{name} takes notifications again")
        line.failures, line.error, line.since, line.retry_at, line.refused = 0, "", 0.0, 0.0, 0

    def _without_given_up(self, memory: Remembered, now: float) -> Remembered:
        """Give up what could not be sent for a day."""
        old = [one for one in memory.queue if now - one.queued > _GIVEN_UP_AFTER]
        if not old:
            return memory
        names = sorted({name for one in old for name in one.left})
        self._event(
            "notify-dropped", f"{len(old)} notifications could not be sent to {', '.join(names)} for a day"
        )
        return replace(memory, queue=tuple(one for one in memory.queue if one not in old))

    def _event(self, kind: str, message: str) -> None:
        _log.warning(message, event_type=kind)
        self._journal.try_to_record([NewEvent(pod="", type=kind, message=message)])


def _send(receiver: Receiver, body: object) -> Delivery:
    send: Callable[[object], Delivery] = receiver.send  # type: ignore[assignment]
    try:
        return send(body)
    except Exception as error:
        # Its text could hold an address.
        _log.warning(
            "a notification could not be sent by a bug", receiver=receiver.name, error=type(error).__name__
        )
        return Delivery(error=f"it could not be sent ({type(error).__name__})")
