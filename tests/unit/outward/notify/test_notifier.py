"""The thread of notifications with a real journal, and receivers of the test's own; time stands still."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tank_agent.control.pods import Service
from tank_agent.errors import Retry
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent
from tank_agent.journal.store import MemoryStore
from tank_agent.outward.notify import notifier
from tank_agent.outward.notify.channels import Body, Delivery
from tank_agent.outward.notify.memory import WAITING_MAX, Facts, Remembered
from tank_agent.outward.notify.notifier import KEY, Notifications
from tank_agent.settings.notify import NotifySettings
from tests.support.agent import wait_for

BEGIN = 1_800_000_000.0


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = BEGIN

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Told:
    """A receiver that answers as the test says, and keeps what it got."""

    def __init__(self, name: str = "webhook") -> None:
        self.name = name
        self.got: list[Body] = []
        self.answer: Callable[[], Delivery] = Delivery

    def send(self, body: Body) -> Delivery:
        self.got.append(body)
        return self.answer()


class World:
    """An agent's notifications, one turn at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *receivers: Told) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.journal = Journal(self.store, clock=self.clock.wall)
        self.receivers = receivers or (Told(),)
        monkeypatch.setattr(notifier, "read_facts", lambda *_: Facts())
        self.begin()

    def begin(self, pause: float = 0.0) -> None:
        """Make notifications as a new agent does."""
        machine = SimpleNamespace(clock=self.clock)
        service = cast("Service", SimpleNamespace(journal=self.journal, machine=machine))
        settings = NotifySettings(webhook="http://127.0.0.1:1/canary", pause=pause)
        self.notifications = Notifications(service, settings, "edge-1")
        cast("Any", self.notifications.receivers).read = lambda: self.receivers
        self.notifications._recall()

    def fails(self, pod: str = "backup", kind: str = "job-failed") -> None:
        self.journal.record("", None, [NewEvent(pod=pod, type=kind, message="why")])

    def turn(self, after: float = 0.0) -> None:
        """Let a turn pass, and all that it sends end."""
        self.clock.now += after
        self.notifications.turn()
        for line in self.notifications._lines.values():
            for thread in line.threads:
                thread.join(10)

    def types(self) -> list[str]:
        return [event.type for event in self.journal.events() if event.type.startswith("notify-")]

    def kept(self) -> Remembered:
        return msgspec.json.decode(self.journal.recall(KEY), type=Remembered)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield World(monkeypatch)


def test_what_happened_before_the_first_start_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.journal.remember(KEY, b"")
    world.fails()
    world.begin()
    world.turn()
    assert world.receivers[0].got == []


def test_what_happens_is_kept_sent_and_forgotten(world: World) -> None:
    world.turn()
    world.fails()
    kept: list[int] = []

    def look() -> Delivery:
        kept.append(len(world.kept().queue))
        return Delivery()

    world.receivers[0].answer = look
    world.turn()
    assert kept == [1] and world.receivers[0].got[0].title == "edge-1: backup: a run failed"
    world.turn()
    assert world.kept().queue == () and world.kept().topics["job/backup/"].told
    world.begin()
    world.turn()
    assert len(world.receivers[0].got) == 1


def test_a_turn_without_news_writes_nothing(world: World) -> None:
    world.turn()
    before = world.journal.recall(KEY)
    for _ in range(100):
        world.journal.record("", None, [NewEvent(pod="web", type="started", message="m")])
        world.turn(1)
    assert world.journal.recall(KEY) is before


def test_tries_have_a_pace_and_are_told_once(world: World) -> None:
    world.turn()
    receiver = world.receivers[0]
    receiver.answer = lambda: Delivery(error="HTTP 500")
    world.fails()
    times = []
    for _ in range(4000):
        before = len(receiver.got)
        world.turn(1)
        if len(receiver.got) > before:
            times.append(world.clock.now - BEGIN)
    gaps = [round(after - before) for before, after in itertools.pairwise(times)]
    assert gaps[:9] == [3, 5, 9, 17, 33, 65, 129, 257, 513] and all(gap <= 901 for gap in gaps)
    assert world.types() == ["notify-failed"]
    assert world.notifications.untold() == ["webhook can't be told: HTTP 500"]
    report = world.notifications.report()
    assert (report.receivers[0].waiting, report.receivers[0].error) == (1, "HTTP 500")
    receiver.answer = Delivery
    world.turn(1000)
    world.turn(1)
    assert world.types() == ["notify-failed", "notify-recovered"] and not world.notifications.untold()
    assert world.kept().queue == ()


def test_a_receiver_that_wants_to_be_left_alone_is(world: World) -> None:
    world.turn()
    receiver = world.receivers[0]
    receiver.answer = lambda: Delivery(error="HTTP 429", wait=500.0)
    world.fails()
    world.turn()
    world.turn(1)
    world.turn(498)
    assert len(receiver.got) == 1
    world.turn(3)
    assert len(receiver.got) == 2


def test_what_a_receiver_refuses_three_times_is_dropped(world: World) -> None:
    world.turn()
    world.receivers[0].answer = lambda: Delivery(error="HTTP 400", refused=True)
    world.fails()
    for _ in range(6):
        world.turn(10)
    assert world.types() == ["notify-failed", "notify-dropped"] and world.kept().queue == ()


def test_what_could_not_be_sent_for_a_day_is_given_up(world: World) -> None:
    world.turn()
    world.receivers[0].answer = lambda: Delivery(error="HTTP 500")
    world.fails()
    world.turn()
    world.turn(90_000)
    assert world.kept().queue == () and world.types()[-1] == "notify-dropped"
    for _ in range(10):
        world.turn(1)
    assert len(world.types()) <= 2


def test_one_that_is_dead_delays_no_other_and_only_its_own_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead, well = Told("dead"), Told("well")
    dead.answer = lambda: Delivery(error="no")
    world = World(monkeypatch, dead, well)
    world.turn()
    world.fails()
    for _ in range(5):
        world.turn(100)
    assert len(well.got) == 1 and len(dead.got) > 2


def test_one_that_hangs_is_given_up_and_at_most_two_threads_hang(world: World) -> None:
    free = threading.Event()
    world.turn()
    receiver = world.receivers[0]

    def hang() -> Delivery:
        free.wait(30)
        return Delivery()

    receiver.answer = hang
    world.fails()
    for _ in range(20):
        world.clock.now += 50
        world.notifications.turn()
    assert len(receiver.got) == 2
    assert world.notifications.report().receivers[0].error == "no end within 40 s"
    free.set()
    receiver.answer = Delivery
    world.turn(1000)
    world.turn(1)
    world.turn(1)
    assert world.kept().queue == ()


def test_a_thousand_events_in_a_second_are_ten_messages_and_a_digest(world: World) -> None:
    world.turn()
    events = [NewEvent(pod=f"job-{number}", type="job-failed", message="why") for number in range(1000)]
    world.journal.record("", None, events)
    for _ in range(30):
        world.turn(1)
    assert len(world.receivers[0].got) == 10
    for _ in range(40):
        world.turn(1)
    assert len(world.receivers[0].got) == 11
    assert world.receivers[0].got[-1].title == "edge-1: 90 more notifications about 90 pods and other things"
    # What had no room is counted by the first that was sent after.
    assert any("900 older notifications" in body.message for body in world.receivers[0].got)
    assert len(world.journal.recall(KEY)) < 400_000


def test_a_queue_without_end_is_bounded_and_says_what_is_missing(world: World) -> None:
    world.turn()
    receiver = world.receivers[0]
    receiver.answer = lambda: Delivery(error="no")
    for number in range(150):
        world.fails(f"job-{number}")
        world.turn(61)
    assert len(world.kept().queue) == WAITING_MAX
    assert len(world.journal.recall(KEY)) < 200_000
    receiver.answer = Delivery
    world.turn(1000)
    world.turn(1)
    assert "50 older notifications could not be sent" in receiver.got[-2].message + receiver.got[-1].message


def test_a_journal_without_room_keeps_nothing_from_being_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.turn()
    world.fails()

    def full(*_: object) -> None:
        raise Retry("no room")

    with monkeypatch.context() as patched:
        patched.setattr(world.journal, "remember", full)
        world.turn()
        world.turn()
    assert len(world.receivers[0].got) == 1
    world.turn()
    assert world.kept().topics["job/backup/"].told


def test_a_damaged_record_is_begun_anew(world: World) -> None:
    world.journal.remember(KEY, b"{")
    world.fails()
    world.begin()
    world.turn()
    assert world.receivers[0].got == [] and world.kept().cursor == world.journal.last_event()


def test_a_test_is_sent_to_all_at_once_and_names_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    well, broken = Told("well"), Told("broken")

    def bug() -> Delivery:
        raise ValueError("canary")

    broken.answer = bug
    world = World(monkeypatch, well, broken)
    answers = world.notifications.test("ann")
    assert [(one.name, one.error) for one in answers] == [
        ("well", ""),
        ("broken", "it could not be sent (ValueError)"),
    ]
    assert "ann asked for it" in well.got[0].message
    assert [(event.type, event.by) for event in world.journal.events()][-1] == ("notify-test", "ann")


def test_the_thread_sends_what_happens_and_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.notifications.start()
    wait_for(lambda: world.journal.recall(KEY), "it has begun")
    world.fails()
    wait_for(lambda: world.receivers[0].got, "it is told")
    begun = time.monotonic()
    world.notifications.close()
    assert time.monotonic() - begun < 3
    assert not world.notifications._thread.is_alive()


def test_what_is_on_its_way_as_the_agent_stops_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    receiver, asked = world.receivers[0], threading.Event()
    send = receiver.send

    def slow(body: Any) -> Any:
        asked.set()
        wait_for(lambda: world.notifications._closing, "the agent stops")
        return send(body)

    monkeypatch.setattr(receiver, "send", slow)
    world.notifications.start()
    wait_for(lambda: world.journal.recall(KEY), "it has begun")
    world.fails()
    assert asked.wait(30)
    world.notifications.close()
    assert len(receiver.got) == 1
    assert msgspec.json.decode(world.journal.recall(KEY), type=Remembered).queue == ()


def test_a_bug_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)

    def bug() -> None:
        raise ValueError

    monkeypatch.setattr(world.notifications, "turn", bug)
    world.notifications.start()
    time.sleep(0.2)
    assert world.notifications._thread.is_alive()
    world.journal.close()
    world.notifications._thread.join(10)
    assert not world.notifications._thread.is_alive()
