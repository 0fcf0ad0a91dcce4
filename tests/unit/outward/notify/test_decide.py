"""Transitions are told, each once; what was known, what passes by itself, and what a person did, is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tank_agent.journal.records import GOING_BACK, Event
from tank_agent.linux.clock import rfc3339
from tank_agent.outward.notify.decide import Wants, look, moment, needs_look, take
from tank_agent.outward.notify.memory import Facts, Note, PodFacts, Remembered, SourceFacts
from tank_agent.outward.notify.rules import RULES, SILENT
from tank_agent.settings.notify import KINDS

ALL = Wants(kinds=frozenset(KINDS), after=300.0)
BEGIN = 1_800_000_000.0
PROOF = " (0123456789abcdef)"
BACK = f"container app ended with exit code 3; {GOING_BACK} 1{PROOF}"
STAYS = f"generation 2: it crashes; there is nothing to go back to{PROOF}"
WELL = PodFacts(well=True, health="healthy")
BAD = PodFacts(bad=True, error="container app: ended with exit code 3", container="app", revision="r2")
SICK = PodFacts(health="unhealthy")


class World:
    """A memory, and a clock that the test sets."""

    def __init__(self, wants: Wants = ALL) -> None:
        self.memory, self.now, self.seq, self.wants = Remembered(), BEGIN, 0, wants

    def happens(self, kind: str, pod: str = "web", message: str = "why", revision: str = "r1") -> World:
        self.seq += 1
        event = Event(
            seq=self.seq, at=rfc3339(self.now), pod=pod, type=kind, message=message, revision=revision
        )
        self.memory = take(self.memory, event, self.wants, self.now)
        return self

    def looks(self, after: float = 0.0, pod: PodFacts | None = None, **facts: Any) -> World:
        self.now += after
        pods = {} if pod is None else {"web": pod}
        self.memory = look(self.memory, Facts(pods=pods, **facts), self.wants, self.now)
        return self

    def restarts(self) -> World:
        self.memory = msgspec.json.decode(msgspec.json.encode(self.memory), type=Remembered)
        return self

    @property
    def told(self) -> list[str]:
        return [note.title for note in self.memory.notes]

    @property
    def last(self) -> Note:
        return self.memory.notes[-1]


class TestAnUpdate:
    def test_that_is_rolled_back_is_told_once_with_why(self) -> None:
        world = (
            World()
            .happens("update-started")
            .happens("exited")
            .happens("update-failed", message=BACK, revision="r2")
        )
        assert world.looks(1, BAD).told == []
        world.happens("healthy").happens("rolled-back", message=f"generation 3 is good: it is healthy{PROOF}")
        assert world.told == ["web: its update failed, and was rolled back"]
        assert (
            world.last.message == "container app ended with exit code 3\ngeneration 3 is good: it is healthy"
        )
        assert world.last.revision == "r2" and world.last.state == "bad"
        assert world.looks(1000, WELL).restarts().looks(1000, WELL).told == world.told[:1]

    def test_whose_rollback_fails_is_told_once(self) -> None:
        world = World().happens("update-failed", message=BACK).happens("rollback-failed", message=STAYS)
        world.happens("exited").looks(400, BAD).looks(400, BAD)
        assert world.told == ["web: its update failed, and so did going back"]

    def test_that_stays_is_told_at_once_and_covers_that_its_pod_fails(self) -> None:
        world = World().happens("exited").happens("update-failed", message=STAYS)
        assert world.told == ["web: its update failed"]
        world.happens("unhealthy").looks(400, replace(BAD, health="unhealthy")).looks(400, BAD)
        assert len(world.told) == 1
        world.happens("recovered", message="generation 2 is good: it is healthy")
        assert world.told[1:] == ["web: it is good again"]

    def test_whose_rollback_takes_long_is_told(self) -> None:
        world = World().happens("update-failed", message=BACK).looks(899)
        assert world.told == [] and world.looks(1).told == ["web: its update failed"]

    def test_of_a_revision_that_was_told_is_not_told_again_unless_a_person_tries_it_again(self) -> None:
        world = World()
        for _ in range(2):
            world.happens("update-failed", message=BACK).happens("rolled-back")
        assert len(world.told) == 1
        world.happens("resumed").happens("update-failed", message=BACK).happens("rolled-back")
        assert len(world.told) == 2
        world.happens("update-failed", message=BACK, revision="r3").happens("rolled-back")
        assert len(world.told) == 3

    def test_that_is_good_is_told_only_after_one_that_was_not(self) -> None:
        world = World().happens("update-started").happens("update-good").happens("rolled-back")
        assert world.told == []
        world.happens("update-failed", message=BACK).happens("rolled-back").happens("update-good")
        assert [note.state for note in world.memory.notes] == ["bad", "good"]
        assert world.happens("update-good").told == world.told[:2]


class TestAPodThatFails:
    def test_is_told_once_when_it_has_lasted(self) -> None:
        world = World().happens("exited").looks(299, BAD)
        assert world.told == [] and needs_look(world.memory)
        world.looks(1, BAD).happens("exited").looks(500, BAD)
        assert world.told == ["web is failing"]
        assert world.last.message == "for 5m: container app: ended with exit code 3"
        assert (world.last.container, world.last.revision) == ("app", "r2")
        world.looks(60, PodFacts())
        assert len(world.told) == 1
        world.looks(60, WELL)
        assert world.told[1] == "web runs again" and world.last.message == "after 15m20s"

    def test_is_told_at_once_if_it_is_not_tried_again(self) -> None:
        assert World().happens("exited").looks(0, replace(BAD, final=True)).told == ["web is failing"]

    def test_is_not_told_if_it_is_well_by_then(self) -> None:
        world = World().happens("exited").looks(200, WELL).looks(200, WELL)
        assert world.told == [] and not world.memory.topics

    def test_on_its_way_waits(self) -> None:
        assert World().happens("exited").looks(1000, PodFacts()).looks(10, BAD).told == ["web is failing"]

    @pytest.mark.parametrize("facts", [PodFacts(excused=True, bad=True), None])
    def test_that_a_person_stopped_or_removed_is_not_told(self, facts: PodFacts | None) -> None:
        world = World().happens("exited").looks(400, facts)
        assert world.told == [] and not world.memory.topics

    def test_that_is_gone_is_forgotten(self) -> None:
        world = World().happens("exited").looks(400, BAD).happens("removed").looks(10, WELL)
        assert world.told == ["web is failing"]

    def test_and_is_unhealthy_is_told_once(self) -> None:
        both = replace(BAD, health="unhealthy")
        world = World().happens("exited").happens("unhealthy").looks(400, both).looks(400, both)
        assert len(world.told) == 1

    def test_is_not_told_again_after_a_restart_of_the_agent(self) -> None:
        world = World().happens("exited").looks(400, BAD).restarts().happens("exited").looks(400, BAD)
        assert len(world.told) == 1 and world.restarts().looks(5, WELL).told[1:] == ["web runs again"]


class TestHealth:
    def test_is_told_when_it_was_bad_for_long(self) -> None:
        world = World().happens("unhealthy").looks(299, SICK)
        assert world.told == []
        assert world.looks(1, SICK).told == ["web is unhealthy"]
        assert world.happens("healthy").looks(1, WELL).told[1:] == ["web is healthy again"]

    def test_of_one_container_does_not_hide_that_of_another(self) -> None:
        assert World().happens("unhealthy").happens("healthy").looks(300, SICK).told == ["web is unhealthy"]

    def test_that_never_came_back_over_restarts_of_the_container_is_told(self) -> None:
        world = World().happens("unhealthy").looks(299, PodFacts(health="starting"))
        world.now += 10
        assert world.happens("unhealthy").told == ["web is unhealthy"]

    def test_after_a_boot_waits_for_the_first_answer(self) -> None:
        world = World().happens("unhealthy").restarts().looks(4000, PodFacts(health="starting"))
        assert world.told == [] and world.looks(1, WELL).told == [] and not world.memory.topics


class TestTheMachine:
    def test_a_job_is_told_when_it_begins_to_fail_and_when_it_succeeds(self) -> None:
        world = (
            World()
            .happens("job-failed")
            .happens("job-failed")
            .happens("job-succeeded")
            .happens("job-succeeded")
        )
        assert world.told == ["web: a run failed", "web: its runs succeed again"]

    def test_git_is_told_when_it_has_lasted_and_is_known_again(self) -> None:
        world = World().happens("git-error", "", "fetch: gone").looks(299, git="fetch: gone")
        assert world.told == []
        world.looks(1, git="fetch: gone").restarts().happens("git-error", "", "fetch: gone").looks(
            400, git=None
        )
        assert world.told == ["the git repository can't be followed"]
        assert world.looks(1, git="").told[1:] == ["the git repository is followed again"]

    def test_a_blink_of_git_is_not_told(self) -> None:
        world = World().happens("git-error", "").looks(200, git="").looks(200, git="")
        assert world.told == []

    def test_a_held_commit_is_told_once_and_the_next_one_too(self) -> None:
        world = World().happens("git-held", "", "a waits").restarts().happens("git-held", "", "a waits")
        assert len(world.told) == 1
        assert len(world.happens("git-held", "", "b waits").told) == 2
        assert len(world.happens("git-applied", "").happens("git-held", "", "b waits").told) == 3

    def test_a_file_is_told_after_a_moment_and_not_forgotten_before_sources_were_read(self) -> None:
        wrong = {"/etc/tank/pods.d/web.toml": SourceFacts(text="web.toml:1: x: unknown key", pod="web")}
        world = World().looks(0, sources=wrong).looks(29, sources=wrong)
        assert world.told == []
        world.looks(1, sources=wrong).looks(60, sources=wrong)
        assert world.told == ["/etc/tank/pods.d/web.toml has errors"]
        assert (world.last.pod, world.last.file) == ("web", "/etc/tank/pods.d/web.toml")
        assert len(world.restarts().looks(60).looks(60, sources=wrong, sources_read=True).told) == 1
        assert world.looks(60, sources_read=True).told[1:] == [
            "/etc/tank/pods.d/web.toml has no errors any more"
        ]

    def test_a_file_stays_wrong_when_its_pod_goes(self) -> None:
        wrong = {"web.toml": SourceFacts(text="web.toml:1: x: unknown key", pod="web")}
        world = World().looks(0, sources=wrong).looks(30, sources=wrong).happens("removed")
        assert world.looks(60, sources=wrong).looks(60, sources=wrong).told == ["web.toml has errors"]

    def test_a_slip_of_the_pen_is_not_told(self) -> None:
        wrong = {"web.toml": SourceFacts(text="web.toml:1: x: unknown key")}
        assert (
            World().looks(0, sources=wrong).looks(10, sources_read=True).looks(100, sources_read=True).told
            == []
        )

    def test_a_disk_is_told_when_it_is_full_and_when_there_is_room(self) -> None:
        world = World().looks(0, no_room="full").looks(1, no_room="full").looks(1, no_room=None)
        assert world.told == ["there is no room left"]
        assert world.restarts().looks(1, no_room="").looks(1, no_room="").told[1:] == ["there is room again"]

    def test_what_is_older_than_a_day_is_no_news(self) -> None:
        world = World()
        event = Event(seq=1, at=rfc3339(BEGIN - 90_000), pod="web", type="job-failed", message="m")
        world.memory = take(world.memory, event, ALL, BEGIN)
        assert world.told == []


def test_what_comes_and_goes_is_told_as_that_and_then_when_it_stays() -> None:
    world = World()
    for _ in range(10):
        world.now += 60
        world.happens("job-failed")
        world.now += 60
        world.happens("job-succeeded")
    bad = [note for note in world.memory.notes if note.state == "bad"]
    assert len(bad) == 4 and bad[-1].title == "web: a run failed, again and again"
    assert world.last is bad[-1]
    world.looks(1799)
    assert world.last is bad[-1]
    assert world.looks(1).last.title == "web: its runs succeed again"
    assert len(world.happens("job-failed").told) == len(world.told)


def test_only_the_kinds_that_are_wanted_are_told() -> None:
    world = World(Wants(kinds=frozenset({"job"}), after=1.0))
    for kind in RULES:
        world.happens(kind, message=BACK)
    wrong = {"web.toml": SourceFacts(text="x")}
    world.looks(500, BAD, sources=wrong, git="gone", no_room="full")
    assert {note.kind for note in world.memory.notes} == {"job"}


EVENTS = st.sampled_from(sorted({*RULES, *SILENT}))
PODS = st.sampled_from([WELL, BAD, SICK, PodFacts(), PodFacts(excused=True), None])
STEPS = st.lists(
    st.tuples(EVENTS, st.sampled_from(["web", "db"]), st.sampled_from(["r1", "r2"]), PODS, st.floats(0, 400)),
    max_size=60,
)


@given(STEPS, st.sets(st.integers(0, 59)))
def test_whatever_happens_nothing_is_told_twice_in_a_row_nor_good_that_was_not_bad(
    steps: Sequence[tuple[str, str, str, PodFacts | None, float]], restarts: set[int]
) -> None:
    world, same = World(), World()
    for number, (kind, pod, revision, facts, after) in enumerate(steps):
        for one in (world, same):
            one.happens(kind, pod, BACK, revision).looks(after, facts, git="" if revision == "r1" else "gone")
        if number in restarts:
            world.restarts()
    assert world.memory == same.memory
    states: dict[tuple[str, str, str], Note] = {}
    for note in world.memory.notes:
        key = (note.kind, note.pod, note.title if "held" in note.title else "")
        before = states.get(key)
        if note.state == "good":
            assert before is not None and before.state == "bad", note
        elif before is not None and before.state == "bad" and note.kind != "update" and not key[2]:
            # The same trouble again only with another revision, or as one that comes and goes.
            assert note.revision != before.revision or "again and again" in note.title
        states[key] = note
    assert all(moment(rfc3339(note.at)) <= world.now + 1 for note in world.memory.notes)
