"""People are told at a pace that they can bear, and what could not be sent is counted."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tank_agent.outward.notify.memory import WAITING_MAX, Note, Remembered
from tank_agent.outward.notify.pace import (
    MOST_A_MINUTE,
    delivered,
    enqueue,
    for_receivers,
    next_release,
    release,
)

NOW = 1_800_000_000.0
TO = ("webhook", "ntfy (line 1)")


def note(pod: str = "web", at: float = NOW, title: str = "it fails", kind: str = "failing") -> Note:
    return Note(at=at, kind=kind, state="bad", title=title, message="why", pod=pod)


def with_notes(memory: Remembered, *notes: Note) -> Remembered:
    return replace(memory, notes=(*memory.notes, *notes))


def test_a_note_becomes_a_message_to_everybody_at_once() -> None:
    memory = release(with_notes(Remembered(), note()), TO, 300, NOW)
    assert memory.notes == () and [one.left for one in memory.queue] == [TO]
    assert memory.queue[0].note == note()


def test_what_follows_about_the_same_pod_is_told_together_after_the_pause() -> None:
    memory = release(with_notes(Remembered(), note()), TO, 300, NOW)
    memory = with_notes(memory, note(title="web runs", at=NOW + 1), note(title="web: b", at=NOW + 2))
    assert len(release(memory, TO, 300, NOW + 299).queue) == 1
    assert next_release(memory, 300) == NOW + 300
    memory = release(memory, TO, 300, NOW + 300)
    assert len(memory.queue) == 2
    both = memory.queue[1].note
    assert both.title == "web: b, and what was before"
    assert both.message == "2027-01-15T08:00:01Z web runs: why\n2027-01-15T08:00:02Z web: b: why"


def test_other_pods_do_not_wait() -> None:
    memory = release(with_notes(Remembered(), note()), TO, 300, NOW)
    assert len(release(with_notes(memory, note("db")), TO, 300, NOW + 1).queue) == 2


def test_a_thousand_at_once_are_ten_messages_and_a_digest_a_minute_later() -> None:
    notes = [note(f"web-{number}") for number in range(1000)]
    memory = release(with_notes(Remembered(), *notes), TO, 300, NOW)
    assert len(memory.queue) == MOST_A_MINUTE
    assert next_release(memory, 300) == NOW + 60
    assert release(memory, TO, 300, NOW + 59) == memory
    memory = release(memory, TO, 300, NOW + 60)
    assert len(memory.queue) == MOST_A_MINUTE + 1 and memory.notes == ()
    digest = memory.queue[-1].note
    assert digest.title == "990 more notifications about 990 pods and other things"
    assert len(digest.message.splitlines()) == 20 and "and 971 more" in digest.message
    assert not release(memory, TO, 300, NOW + 61).over


def test_a_clock_that_is_set_back_makes_nobody_wait() -> None:
    memory = release(with_notes(Remembered(), note()), TO, 300, NOW)
    assert len(release(with_notes(memory, note()), TO, 300, NOW - 10_000).queue) == 2


def test_the_oldest_go_where_there_is_no_room_and_are_counted() -> None:
    memory = Remembered()
    for number in range(WAITING_MAX + 7):
        memory = enqueue(memory, note(f"web-{number}"), TO, NOW)
    assert len(memory.queue) == WAITING_MAX
    assert memory.queue[0].dropped == 7 and memory.queue[0].note.pod == "web-7"
    assert sum(one.dropped for one in memory.queue) == 7


def test_a_message_goes_when_all_have_it_or_are_there_no_more() -> None:
    memory = enqueue(enqueue(Remembered(), note(), TO, NOW), note("db"), TO, NOW)
    memory = delivered(memory, 1, "webhook")
    assert memory.queue[0].left == ("ntfy (line 1)",)
    assert [one.id for one in delivered(memory, 1, "ntfy (line 1)").queue] == [2]
    assert [one.id for one in for_receivers(memory, ["webhook"]).queue] == [2]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 200)), max_size=80),
    st.sampled_from([0.0, 60.0, 300.0]),
)
def test_no_note_is_lost_none_is_doubled_and_no_minute_has_more_than_ten(
    steps: Sequence[tuple[str, float]], pause: float
) -> None:
    memory, now, made = Remembered(), NOW, list[tuple[float, str]]()
    for number, (pod, after) in enumerate(steps):
        now += after
        memory = release(with_notes(memory, note(pod, now, f"note {number}.")), TO, pause, now)
        made += [(now, f"{one.note.title}\n{one.note.message}") for one in memory.queue]
        memory = replace(memory, queue=())
    for _ in range(20):
        due = next_release(memory, pause)
        if due is None:
            break
        now = max(now, due) + 0.01
        memory = release(memory, TO, pause, now)
        made += [(now, f"{one.note.title}\n{one.note.message}") for one in memory.queue]
        memory = replace(memory, queue=())
    assert memory.notes == ()
    text = "\n".join(one for _, one in made)
    long = any("more; `tank events`" in one for _, one in made)
    assert long or all(f"note {number}." in text for number in range(len(steps)))
    assert all(sum(at <= other < at + 59.9 for other, _ in made) <= MOST_A_MINUTE for at, _ in made)
