from __future__ import annotations

from collections.abc import Callable

import pytest

from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent, PodStatus, Verdict
from tank_agent.journal.store import MemoryStore
from tank_agent.journal.transitions import Retention
from tests.unit.journal.builders import FakeClock, Owners, pod
from tests.unit.journal.conformance import JournalConformance


class TestJournal(JournalConformance):
    @pytest.fixture
    def open_journal(self, clock: FakeClock, owners: Owners) -> Callable[[], Journal]:
        store = MemoryStore()
        return lambda: Journal(
            store, clock=clock, kept=Retention(revisions=3, events=10), owner_exists=owners
        )


def test_a_moved_image_is_a_generation_of_the_same_spec_and_counts_for_that_spec_only() -> None:
    journal = Journal(MemoryStore(), clock=lambda: 1.0)
    first = journal.put(pod("web"), "r1")
    applied = journal.move_images("web", {"app": "sha256:1"}, first.generation)
    found = journal.get("web")
    assert found is not None
    assert (found.generation, found.hash, found.images) == (2, first.hash, {"app": "sha256:1"})
    assert applied.changed == ("web",)
    assert [event.type for event in journal.events()][-1] == "image-moved"
    # Another change came before: the digest is of an image that the new spec may not name.
    assert journal.move_images("web", {"app": "sha256:2"}, 1).changed == ()
    assert journal.move_images("web", {"app": "sha256:1"}, 2).changed == ()
    assert journal.get("web") == found


@pytest.mark.parametrize("events", [3, 499, 500, 501, 1200])
def test_the_last_events_of_a_pod_are_found_among_those_of_others(events: int) -> None:
    journal = Journal(MemoryStore(), clock=lambda: 1.0)
    own = [NewEvent(pod="web", type="x", message=str(number)) for number in range(3)]
    others = [NewEvent(pod="db", type="x", message="y") for _ in range(events)]
    journal.record("", None, [own[0], *others, own[1], *others, own[2], *others])
    assert [event.message for event in journal.last_events("web", 2)] == ["1", "2"]
    assert [event.message for event in journal.last_events("web", 9)] == ["0", "1", "2"]
    assert journal.last_events("nobody", 2) == []
    assert Journal(MemoryStore(), clock=lambda: 1.0).last_events("web", 2) == []


def test_a_revision_knows_the_spec_that_it_took_the_place_of() -> None:
    journal = Journal(MemoryStore(), clock=lambda: 1.0)
    first, second = journal.put(pod("web"), "r1"), journal.put(pod("web", "sleep 2"), "r2")
    journal.delete("web")
    journal.put(pod("web", "sleep 3"), "r3")
    assert [one.before for one in journal.history("web")] == ["", first.hash, ""]
    assert second.hash != first.hash


def test_what_stands_no_more_is_stored_neither_as_status_nor_as_event_nor_as_verdict() -> None:
    journal = Journal(MemoryStore(), clock=lambda: 1.0)
    journal.put(pod("web"), "r1")
    answers = iter([PodStatus(error="seen"), None])
    event, verdict = NewEvent(pod="web", type="x", message="m"), Verdict(outcome="good", at=1.0)
    before = journal.events()
    # Another thread changes it between the look and the transaction.
    assert not journal.revise("web", lambda _: next(answers), [event], {1: verdict})
    assert (journal.events(), journal.status("web"), journal.history("web")[0].verdict) == (
        before,
        PodStatus(),
        None,
    )
