"""The journal's part of updates: the way back, quarantine, moved images, and verdicts that outlive it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.errors import Stalled
from tank_agent.journal.journal import Journal
from tank_agent.journal.ownership import MOST_BAD, is_stuck, note_failure
from tank_agent.journal.records import (
    Bad,
    ContainerStatus,
    DesiredPod,
    Exit,
    Good,
    PodStatus,
    Rollout,
    Verdict,
)
from tank_agent.journal.store import MemoryStore
from tank_agent.journal.transitions import Retention
from tank_agent.spec.model import Pod
from tests.unit.journal.builders import FakeClock, declared, pod, snapshot

DAY = 86_400.0
FAILED = Verdict(outcome="failed", at=1.0, reason="boom", images={"app": "sha256:bad"})


class World:
    """A journal whose pod has an owner that says what it should be, and updates that the test judges."""

    def __init__(self, owner: str = "dir", revisions: int = 20) -> None:
        self.store, self.clock, self.owner = MemoryStore(), FakeClock(), owner
        self.kept = Retention(revisions=revisions)
        self.journal = self.open()

    def open(self) -> Journal:
        return Journal(self.store, clock=self.clock, kept=self.kept)

    def declare(self, command: str | Pod) -> DesiredPod:
        """Declare a spec where the pod comes from, and return what is desired then."""
        spec = pod(command=command) if isinstance(command, str) else command
        if self.owner == "dir":
            self.journal.merge(snapshot(declared(spec)))
        else:
            self.journal.put(spec, "r")
        return self.desired

    @property
    def desired(self) -> DesiredPod:
        found = self.journal.get("web")
        assert found is not None
        return found

    @property
    def status(self) -> PodStatus:
        return self.journal.status("web")

    def good(self, **changes: Any) -> None:
        """Let the desired generation be good."""
        now = self.desired
        good = replace(Good(generation=now.generation, hash=now.hash, at=self.clock()), **changes)
        rollout = Rollout(generation=now.generation, kind="update", boot_id="b", outcome="good")
        verdict = Verdict(outcome="good", at=self.clock())
        status = replace(self.status, good=good, rollout=rollout)
        self.journal.revise("web", lambda _: status, verdicts={now.generation: verdict})

    def fail(self, verdict: Verdict = FAILED) -> DesiredPod:
        """Let the desired generation fail, and return what is desired then."""
        good = self.status.good
        assert good is not None
        to = self.journal.revision("web", good.generation)
        assert to is not None
        target = replace(to, images=good.images, verdict=None)
        self.journal.quarantine("web", self.desired.generation, verdict, target)
        return self.desired

    def events(self) -> list[str]:
        return [event.type for event in self.journal.events(limit=10_000)]


def failed(owner: str = "dir") -> World:
    """Return a world in which "good" runs again, since "bad" failed."""
    world = World(owner)
    world.declare("good")
    world.good()
    world.declare("bad")
    world.fail()
    return world


@pytest.mark.parametrize("owner", ["dir", "api"])
def test_new_revision_while_quarantined(owner: str) -> None:
    world = failed(owner)
    after = world.declare("third")
    assert (after.generation, after.hold, after.images) == (4, None, {})
    assert world.status.good is not None
    assert world.status.good.generation == 1, "it is still what is gone back to"


def test_the_same_text_or_a_comment_while_quarantined() -> None:
    world = failed()
    before = world.desired
    assert world.declare("bad") == before
    moved = declared(pod(command="bad"), "other.toml")
    world.journal.merge(snapshot(moved))
    after = world.desired
    assert (after.generation, after.hold, after.owner) == (before.generation, before.hold, moved.owner)
    # A new agent that reads the file for the first time knows as much.
    world.journal = world.open()
    world.journal.merge(snapshot(moved))
    assert world.desired == after


def test_the_good_text_while_quarantined_drops_the_hold_and_changes_nothing() -> None:
    world = failed()
    after = world.declare("good")
    assert (after.generation, after.hold) == (3, None)
    assert world.events()[-1] == "recovered"


def test_the_good_text_means_the_images_that_it_was_good_with() -> None:
    world = World()
    world.declare("good")
    world.good(images={"app": "sha256:good"})
    world.declare("other")
    assert world.declare("good").images == {"app": "sha256:good"}


def again_and_again(world: World, seconds: float) -> list[int]:
    """Let "bad" be declared anew after something else, and fail, three times; return the attempts."""
    for _ in range(2):
        world.clock.now += seconds
        world.declare("other")
        world.good()
        world.declare("bad")
        assert world.desired.hold is None, "a push is a wish"
        world.fail()
    return [bad.attempts for bad in world.status.bad]


def test_a_bad_text_is_tried_again_but_sticks_after_three_failures_in_a_day() -> None:
    world = failed()
    assert again_and_again(world, 60) == [3]
    other = world.declare("other")
    stuck = world.declare("bad")
    assert stuck.hold is not None
    assert (stuck.hold.kind, stuck.hold.failed, stuck.generation) == (
        "quarantined",
        world.status.bad[-1].generation,
        other.generation,
    )
    assert stuck.pod == other.pod, "what runs goes on"
    # A day later it is worth another try.
    world.clock.now += DAY + 1
    world.declare("other")
    assert world.declare("bad").hold is None


def test_failures_that_are_days_apart_do_not_add_up() -> None:
    assert again_and_again(failed(), DAY + 1) == [1]


def test_a_person_who_resumes_has_it_tried_at_once_and_counted_anew() -> None:
    world = failed()
    again_and_again(world, 60)
    world.declare("other")
    world.declare("bad")
    before = world.desired.generation
    assert world.journal.resume("web").changed == ("web",)
    after = world.desired
    assert (after.pod, after.generation, after.hold) == (pod(command="bad"), before + 1, None)
    assert world.status.bad == ()


def test_resume_of_a_quarantined_pod_that_follows_no_file() -> None:
    world = failed("api")
    world.journal.resume("web")
    after = world.desired
    assert (after.pod, after.generation, after.hold, after.images) == (pod(command="bad"), 4, None, {})
    assert world.status.bad == ()
    # Once: there is nothing more to resume.
    assert world.journal.resume("web").changed == ()


def test_apply_of_what_is_quarantined_is_refused_with_what_to_do() -> None:
    world = failed("api")
    before = world.desired
    with pytest.raises(Stalled, match="pod web is quarantined") as refused:
        world.declare("bad")
    assert "tank resume web" in (refused.value.hint or "")
    assert world.desired == before
    # Several in one transaction: all of them, or none.
    with pytest.raises(Stalled):
        world.journal.put_all([pod("db"), pod(command="bad")], "r")
    assert world.journal.get("db") is None
    assert world.declare("third").hold is None


def test_a_third_failure_of_what_is_applied_sticks_too() -> None:
    world = failed("api")
    again_and_again(world, 60)
    world.declare("other")
    with pytest.raises(Stalled, match="quarantined"):
        world.declare("bad")


@pytest.mark.parametrize("why", ["gone", "another generation", "suspended", "no status"])
def test_a_failure_that_means_nothing_any_more_does_nothing(why: str) -> None:
    world = World()
    world.declare("good")
    world.good()
    world.declare("bad")
    to = world.journal.history("web")[0]
    match why:
        case "gone":
            world.journal.merge(snapshot())
        case "another generation":
            world.declare("third")
        case "suspended":
            world.journal.suspend("web")
        case "no status":
            world.journal.record("web", None)
    before, status, events = world.journal.get("web"), world.status, world.events()
    assert world.journal.quarantine("web", 2, FAILED, to).changed == ()
    assert (world.journal.get("web"), world.status, world.events()) == (before, status, events)


def test_the_way_back_starts_at_once_and_leaves_alone_what_is_finished() -> None:
    world = World()
    world.declare("good")
    world.good()
    world.declare("bad")
    done, crashed = Exit(at=1.0, code=0), Exit(at=2.0, code=3)
    containers = {
        "once": ContainerStatus(hash="h", exit=done, ended_boot="b"),
        "app": ContainerStatus(hash="h", exit=crashed, failures=3, retry_at=9e9, error="x"),
        "runs": ContainerStatus(hash="h", instance="runs-1", exit=crashed),
    }
    world.journal.record("web", replace(world.status, containers=containers))
    world.fail()
    found = world.status.containers
    assert (found["once"].exit, found["once"].ended_boot) == (done, "b")
    assert (found["app"].exit, found["app"].failures, found["app"].retry_at, found["app"].error) == (
        None,
        0,
        None,
        None,
    )
    assert (found["runs"].instance, found["runs"].exit) == ("runs-1", crashed)


def test_a_bad_image_behind_the_same_spec_needs_no_hold_and_the_next_one_is_tried() -> None:
    world = World()
    world.declare("good")
    world.good(images={"app": "sha256:1"})
    world.journal.move_images("web", {"app": "sha256:2"}, 1)
    assert (world.desired.generation, world.desired.images) == (2, {"app": "sha256:2"})
    after = world.fail(replace(FAILED, images={"app": "sha256:2"}))
    assert (after.generation, after.hold, after.images) == (3, None, {"app": "sha256:1"})
    assert world.status.bad[0].images == {"app": "sha256:2"}
    # The text of its file is what runs, and is not tried again.
    assert world.declare("good") == after
    assert world.journal.move_images("web", {"app": "sha256:3"}, 3).changed == ("web",)


def test_moved_images_keep_the_pins_of_others_and_forgive_failures() -> None:
    world = World()
    world.declare("good")
    world.journal.move_images("web", {"app": "sha256:1", "b": "sha256:2"}, 1)
    status = ContainerStatus(hash="h", failures=4, retry_at=9e9)
    world.journal.record("web", PodStatus(containers={"app": status}))
    world.journal.move_images("web", {"app": "sha256:3"}, 2)
    assert world.desired.images == {"app": "sha256:3", "b": "sha256:2"}
    assert world.status.containers["app"].retry_at is None
    for hold in ("suspend", "roll_back"):
        held = World()
        held.declare("one")
        held.declare("two")
        if hold == "suspend":
            held.journal.suspend("web")
        else:
            held.journal.roll_back("web", held.journal.history("web")[0])
        with pytest.raises(Stalled, match="pod web is"):
            held.journal.move_images("web", {"app": "sha256:1"}, held.desired.generation)


def test_a_rollback_by_hand_runs_what_a_revision_ran() -> None:
    world = World()
    world.declare("one")
    verdict = Verdict(outcome="good", at=1.0, images={"app": "sha256:1"})
    world.journal.revise("web", lambda _: PodStatus(), verdicts={1: verdict})
    world.declare("two")
    world.journal.roll_back("web", world.journal.history("web")[0])
    assert world.desired.images == {"app": "sha256:1"}


@pytest.mark.parametrize("outcome", [None, "good", "failed"])
def test_a_rollback_by_hand_ends_a_wait_and_no_verdict(outcome: Any) -> None:
    world = World()
    world.declare("one")
    world.declare("two")
    rollout = Rollout(generation=2, kind="update", boot_id="b", outcome=outcome, restore={"a": "0"})
    world.journal.record("web", PodStatus(rollout=rollout))
    world.journal.roll_back("web", world.journal.history("web")[0], {"data": "1"})
    found = world.open().status("web").rollout
    assert found is not None
    assert (found.generation, found.outcome) == (2, outcome or "superseded")
    assert found.restore == {"a": "0", "data": "1"}


def test_verdicts_are_part_of_the_history_of_the_next_agent() -> None:
    world = failed()
    world.declare("third")
    outcomes = [found.outcome for found in world.open().history("web")]
    assert outcomes == ["good", "failed", None, None]
    one = world.open().revision("web", 2)
    assert one is not None
    assert (one.verdict, one.ran) == (FAILED, {"app": "sha256:bad"})
    # A later verdict takes the place of the first: it failed, and then it was well.
    world.journal.revise("web", lambda status: status, verdicts={2: replace(FAILED, outcome="good")})
    assert world.open().history("web")[1].outcome == "good"
    # Of a pod that is gone, nothing is added.
    world.journal.merge(snapshot())
    world.journal.revise("web", lambda status: status, verdicts={3: FAILED})
    assert world.open().history("web")[2].outcome is None


def test_the_last_good_revision_is_kept_until_another_one_is_good() -> None:
    world = World(revisions=3)
    world.declare("good")
    world.good()
    for number in range(6):
        world.declare(f"try-{number}")
    assert [found.generation for found in world.journal.history("web")] == [1, 5, 6, 7]
    after = world.fail()
    assert (after.pod, after.generation) == (pod(command="good"), 8)
    assert [found.generation for found in world.open().history("web")] == [1, 6, 7, 8]
    world.good()
    assert [found.generation for found in world.open().history("web")] == [6, 7, 8]
    # The verdicts of those that are no longer kept are gone as well.
    world.declare("last")
    assert world.open().revision("web", 1) is None
    kept = [found.generation for found in world.open().history("web") if found.verdict is not None]
    assert kept == [7, 8]


def test_failures_of_a_spec_are_counted_by_what_ran_and_only_the_last_are_kept() -> None:
    def bad(hash_: str, at: float, **changes: Any) -> Bad:
        return replace(Bad(hash=hash_, generation=1, revision="r", at=at, reason="x"), **changes)

    found = note_failure((), bad("a", 0.0))
    found = note_failure(found, bad("b", 1.0))
    found = note_failure(found, bad("a", 2.0))
    assert [(one.hash, one.attempts) for one in found] == [("b", 1), ("a", 2)]
    found = note_failure(found, bad("a", 3.0, images={"app": "sha256:1"}))
    assert [(one.hash, one.attempts) for one in found] == [("b", 1), ("a", 2), ("a", 1)]
    assert not is_stuck(replace(found[1], attempts=2), 4.0)
    assert is_stuck(replace(found[1], attempts=3), 4.0)
    assert not is_stuck(replace(found[1], attempts=3), 2.0 + DAY)
    for number in range(40):
        found = note_failure(found, bad(str(number), 5.0))
    assert len(found) == MOST_BAD
    assert found[-1].hash == "39"


def test_changes_of_a_status_that_come_together_are_all_there() -> None:
    journal = Journal(MemoryStore(), clock=lambda: 1.0)
    journal.put(pod(), "r")
    threads = [
        threading.Thread(
            target=lambda name=name: journal.revise(
                "web",
                lambda status: replace(
                    status, containers={**status.containers, name: ContainerStatus(hash=name)}
                ),
            )
        )
        for name in map(str, range(40))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(journal.status("web").containers) == 40
    events = len(journal.events())
    journal.revise("web", lambda status: status)
    assert len(journal.events()) == events


def test_what_a_removed_pod_had_goes_with_it_and_its_volume_is_not_the_journals() -> None:
    world = failed()
    world.journal.merge(snapshot())
    world.journal.record("web", None)
    again = world.declare("bad")
    assert (again.generation, again.hold) == (4, None)
    assert world.status == PodStatus()
