"""Events of visits: the first at once, then ever fewer, whatever a script does."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import pytest

from tank_agent.control.visits import MOST, PACES, Tally, Visit, Visits
from tank_agent.journal.records import NewEvent
from tank_agent.linux.users import user_name
from tests.support.agent import wait_for

DAY = 86_400.0
VISIT = Visit(kind="exec", uid=0, pod="web", container="app", program="sh")


def messages(tally: Tally, now: float) -> list[str]:
    return [message for _, message in tally.take(now)]


def test_the_first_is_told_at_once_and_the_next_ones_are_counted() -> None:
    tally = Tally()
    assert tally.due() is None
    tally.add(VISIT, 0.0)
    due = tally.due()
    assert due is not None and 0.0 < due < 1.0
    assert messages(tally, 0.0) == []
    assert messages(tally, due) == ["ran sh"]
    for second in range(1, 50):
        tally.add(VISIT, second)
    assert messages(tally, due + 59) == []
    assert messages(tally, due + 60) == ["ran sh, 49 more times within 1m"]
    tally.add(VISIT, 100.0)
    assert messages(tally, due + 660) == ["ran sh, 1 more time within 10m"]
    # Nobody came for an hour, so the next one is a first one again.
    assert messages(tally, due + 660 + 3600) == []
    assert tally.due() is None
    tally.add(VISIT, 9000.0)
    assert messages(tally, 9001.0) == ["ran sh"]


def test_others_are_told_apart() -> None:
    tally = Tally()
    for change in (
        {},
        {"kind": "attach"},
        {"uid": 1000},
        {"pod": "db"},
        {"container": "b"},
        {"program": "ps"},
    ):
        values = {name: getattr(VISIT, name) for name in VISIT.__struct_fields__}
        tally.add(Visit(**{**values, **change}), 0.0)
    assert len(tally.take(1.0)) == 6


@pytest.mark.parametrize("scripts", [1, 100])
def test_a_script_each_second_pushes_out_no_history(scripts: int) -> None:
    """The journal keeps 10,000 events; a month of a program each second in each container takes a part."""
    tally, written, now = Tally(), 0, 0.0
    visits = [
        Visit(kind="exec", uid=0, pod=f"p{number}", container="app", program="check")
        for number in range(scripts)
    ]
    step = 1.0 if scripts == 1 else 30.0
    while now < 30 * DAY:
        for visit in visits:
            tally.add(visit, now)
        due = tally.due()
        if due is not None and due <= now:
            written += len(tally.take(now))
        # Most of the time, nothing is due, and only counting goes on.
        now += step if now < 2 * PACES[2] else PACES[2]
    assert written <= 35 * scripts < 10_000


def test_programs_with_any_names_take_no_more_memory_than_some() -> None:
    tally = Tally()
    for number in range(3 * MOST):
        tally.add(Visit(kind="exec", uid=7, pod="web", container="app", program=f"p{number}"), 0.0)
    found = tally.take(1.0)
    assert len(found) == MOST + 1
    visit, message = found[-1]
    assert (visit.pod, visit.uid, message) == (
        "",
        7,
        f"ran programs, in several containers, {2 * MOST} times",
    )


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("/usr/bin/psql", "ran /usr/bin/psql"),
        ("a\x1b[31mb\nc", r"ran a\x1b[31mb\nc"),
        ("x" * 4000, f"ran {'x' * 59}…"),
        ("\udcff", r"ran \udcff"),
        ("", "ran programs"),
    ],
)
def test_any_name_of_a_program_is_shown_short_and_harmless(program: str, shown: str) -> None:
    events = list[NewEvent]()
    visits = Visits(events.extend)
    visits.note("exec", 0, "web", "app", program)
    visits.close()
    assert [event.message for event in events] == [shown]


class Written:
    """What was recorded, and by which threads."""

    def __init__(self) -> None:
        self.events, self.threads = list[NewEvent](), set[str]()

    def __call__(self, events: Sequence[NewEvent]) -> None:
        self.events.extend(events)
        self.threads.add(threading.current_thread().name)


def visits_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "visits"]


def test_a_thread_writes_them_and_is_there_only_meanwhile() -> None:
    written = Written()
    times = [0.0]
    visits = Visits(written, clock=lambda: times[0])
    assert visits_threads() == []
    # The thread can't take the first before the second is there.
    with visits._changed:
        visits.note("attach", os.getuid(), "web", "app")
        assert len(visits_threads()) == 1
        times[0] = 1.0
        visits.note("attach", os.getuid(), "web", "app")
    wait_for(lambda: written.events, "it is written")
    event = written.events[0]
    assert (event.type, event.pod, event.container, event.by) == (
        "attach",
        "web",
        "app",
        user_name(os.getuid()),
    )
    assert event.message == "attached to its terminal, 2 times"
    assert written.threads == {"visits"}
    # Nothing came in the minute after it.
    times[0] = 100.0
    with visits._changed:
        visits._changed.notify_all()
    wait_for(lambda: not visits_threads(), "the thread has ended")
    visits.note("files-read", 0, "web", "app")
    visits.close()
    assert [one.message for one in written.events[1:]] == ["copied files out of it"]
    wait_for(lambda: not visits_threads(), "the thread has ended")
    visits.note("files-read", 0, "web", "app")
    assert visits_threads() == []
