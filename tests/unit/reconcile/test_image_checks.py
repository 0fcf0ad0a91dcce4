"""Newer images are found gently, fetched beside what runs, and become updates only of pods at rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from tank_agent.errors import PodNotFound, Retry, Stalled
from tank_agent.image.config import Image
from tank_agent.image.registry.client import BusyError
from tank_agent.image.store.files import ReferenceRecord
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import Bad, Good, PodStatus, Rollout, Verdict
from tank_agent.journal.stops import Wish
from tank_agent.journal.store import MemoryStore
from tank_agent.reconcile.image_checks import ImageChecks
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Container, Pod, Update
from tests.support.agent import wait_for
from tests.unit.reconcile.test_troubles import StillClock

HOUR = 3600.0
CHECK = 6 * HOUR
IMAGE = "registry.lan/app:1"
OTHER = "registry.lan/other:1"


def digest_of(name: str) -> str:
    return f"sha256:{name:0>64}"


class Store:
    """Tags of a registry, each an index and a manifest; the images that are here; what was asked."""

    def __init__(self) -> None:
        self.tags: dict[str, tuple[str, str]] = {}
        self.records: dict[str, ReferenceRecord] = {}
        self.here: set[str] = set()
        self.dates: dict[str, float] = {}
        self.asked: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.pull_fails: Exception | None = None
        self.says: dict[str, str] = {}

    def push(self, image: str, name: str, index: str = "", created: float = 1000.0) -> str:
        digest = digest_of(name)
        self.tags[image] = (digest_of(index) if index else "", digest)
        self.dates[digest] = created
        return digest

    def have(self, image: str, at: float) -> None:
        index, digest = self.tags[image]
        self.records[image] = ReferenceRecord(image, digest, index, pulled_at=at)
        self.here.add(digest)

    def recorded(self, image: str) -> ReferenceRecord | None:
        return self.records.get(image)

    def created(self, digest: str) -> float | None:
        return self.dates.get(digest) if digest in self.here else None

    def stands_for(self, image: str, cancelled: Any) -> str:
        self.asked.append(f"head {image}")
        if image in self.fails:
            raise self.fails[image]
        index, digest = self.tags[image]
        return self.says.get(image) or index or digest

    def look(self, image: str, cancelled: Any) -> Any:
        self.asked.append(f"look {image}")
        index, digest = self.tags[image]
        return SimpleNamespace(
            index=index, digest=digest, configuration=SimpleNamespace(created=self.dates[digest])
        )

    def note_index(self, image: str, index: str) -> None:
        self.asked.append(f"note {image}")
        found = self.records[image]
        self.records[image] = ReferenceRecord(image, found.digest, index, pulled_at=found.pulled_at)

    def cached(self, image: str, digest: str = "") -> Image | None:
        return Image(reference=image, digest=digest, layers=()) if digest in self.here else None

    def pull_newer(self, image: str, digest: str, **given: Any) -> Image:
        self.asked.append(f"pull {image}")
        if self.pull_fails is not None:
            raise self.pull_fails
        self.here.add(digest)
        return Image(reference=image, digest=digest, layers=(Path("/layer"),))


class World:
    """A journal with pods that follow their tags, whose containers run the first image of theirs."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.store = Store()
        self.journal = Journal(MemoryStore(), clock=self.clock.wall)
        self.woken: list[tuple[str, str]] = []
        self.suspended = False
        self.runs: dict[str, dict[str, str]] = {}
        self.checks = self.make()

    def make(self, check: float = CHECK) -> ImageChecks:
        pulls = SimpleNamespace(wait=lambda _: True, pulled=lambda _: None)
        return ImageChecks(
            self.journal,
            cast(Any, self.store),
            cast(Any, pulls),
            clock=self.clock,
            check=check,
            wake=lambda pod, cause: self.woken.append((pod, cause)),
            suspended=lambda: self.suspended,
            runs=lambda name: self.runs.get(name, {}),
            chance=lambda: 0.5,
        )

    def restart(self) -> None:
        self.checks.close()
        self.checks = self.make()
        self.start()

    def start(self) -> None:
        """Read the looks of before, as `start` does, with no thread: the test makes the turns."""
        self.checks.reload(0)
        self.checks.start()
        self.checks._check = CHECK

    def put(self, name: str = "web", follows: str = "digest", **images: str) -> None:
        images = images or {"app": IMAGE}
        containers = tuple(Container(name=one, image=image) for one, image in images.items())
        update = Update(image=cast(Any, follows))
        self.journal.put(Pod(name=name, containers=containers, update=update), "r1")
        for image in images.values():
            if image in self.store.tags and image not in self.store.records:
                self.store.have(image, self.clock.wall())
        self.good(name, {one: self.store.tags[image][1] for one, image in images.items()})

    def good(self, name: str, images: dict[str, str]) -> None:
        pod = self.pod(name)
        rollout = Rollout(generation=pod.generation, kind="first", begun=1.0, boot_id="boot", outcome="good")
        good = Good(generation=pod.generation, hash=pod.hash, at=1.0, images=images)
        self.record(name, rollout=rollout, good=good)
        self.runs[name] = images

    def record(self, name: str = "web", **changes: Any) -> None:
        self.journal.record(name, replace(self.journal.status(name), **changes))

    def pod(self, name: str = "web") -> Any:
        found = self.journal.get(name)
        assert found is not None
        return found

    def turn(self, hours: float = 0.0) -> list[str]:
        """Let time pass and do what is due, pulls included; return what was asked."""
        self.clock.now += hours * HOUR
        self.store.asked.clear()
        for _ in range(8):
            before = len(self.store.asked)
            self.checks.turn()
            wait_for(lambda: not self.checks._fetching, "pulls")
            self.clock.now += 1.0
            if len(self.store.asked) == before:
                break
        return list(self.store.asked)

    def moved(self, name: str = "web") -> dict[str, str]:
        return dict(self.pod(name).images)


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    found.store.push(IMAGE, "1", "a1", created=100.0)
    found.store.push(OTHER, "b1", created=100.0)
    yield found
    found.checks.close()


def test_a_tag_is_asked_once_for_all_its_pods_and_a_newer_image_is_an_update_of_each(world: World) -> None:
    world.put("web")
    world.put("api")
    world.put("old", follows="pinned")
    assert world.turn() == []
    assert world.turn(5.9) == []
    assert world.turn(0.2) == [f"head {IMAGE}"]
    second = world.store.push(IMAGE, "2", "a2", created=200.0)
    assert world.turn(5.9) == []
    assert world.turn(0.2) == [f"head {IMAGE}", f"look {IMAGE}", f"pull {IMAGE}"]
    assert (world.moved("web"), world.moved("api"), world.moved("old")) == ({"app": second},) * 2 + ({},)
    assert sorted(world.woken) == [("api", "image moved"), ("web", "image moved")]
    assert world.checks.newer("old") == {"app": second}
    events = [(one.pod, one.type) for one in world.journal.events() if one.type != "applied"]
    told = [(name, kind) for kind in ("image-moved", "pulled") for name in ("api", "web")]
    assert sorted(events) == sorted(told)
    # The update is under way, then good: the same image is no news.
    assert world.turn(6.1) == [f"head {IMAGE}"]
    world.good("web", {"app": second})
    assert world.turn(6.1) == [f"head {IMAGE}"]
    assert world.pod().generation == 2


def test_an_index_whose_image_for_this_machine_is_the_same_is_no_update(world: World) -> None:
    world.put()
    world.store.push(IMAGE, "1", "a2")
    assert world.turn(6.1) == [f"head {IMAGE}", f"look {IMAGE}", f"note {IMAGE}"]
    assert world.store.records[IMAGE].index == digest_of("a2")
    assert world.turn(6.1) == [f"head {IMAGE}"]
    assert (world.moved(), world.checks.newer("web")) == ({}, {})


def test_containers_with_one_tag_and_those_with_another_move_in_one_update(world: World) -> None:
    world.put(app=IMAGE, side=IMAGE, other=OTHER)
    second, other = world.store.push(IMAGE, "2"), world.store.push(OTHER, "b2")
    assert sorted(world.turn(6.1))[-2:] == [f"pull {IMAGE}", f"pull {OTHER}"]
    assert world.moved() == {"app": second, "side": second, "other": other}
    assert world.pod().generation == 2


def test_looks_at_one_registry_are_apart_and_wait_as_long_as_it_wishes(world: World) -> None:
    world.put(app=IMAGE, other=OTHER)
    world.clock.now += 6.1 * HOUR
    assert world.checks.turn() == pytest.approx(1.0)
    assert world.store.asked == [f"head {IMAGE}"]
    world.clock.now += 0.9
    world.checks.turn()
    assert world.store.asked == [f"head {IMAGE}"]
    world.clock.now += 0.2
    world.store.fails[OTHER] = BusyError("registry.lan answers with status 429", 1.5 * HOUR)
    world.checks.turn()
    assert world.store.asked == [f"head {IMAGE}", f"head {OTHER}"]
    assert world.checks.errors("web") == {"other": "registry.lan answers with status 429"}
    assert world.turn(1.4) == []
    world.store.fails.clear()
    assert world.turn(0.2) == [f"head {OTHER}"]
    assert world.checks.errors("web") == {}


def test_trouble_and_a_tag_that_is_gone_are_no_news_and_asked_again_ever_later(world: World) -> None:
    world.put()
    world.store.fails[IMAGE] = Stalled("no image", hint="check the name and the tag")
    assert world.turn(6.1) == [f"head {IMAGE}"]
    assert world.checks.errors("web") == {"app": "no image; check the name and the tag"}
    assert world.turn(0.1) == []
    assert world.turn(0.1) == [f"head {IMAGE}"]
    assert world.turn(0.2) == []
    assert world.turn(0.2) == [f"head {IMAGE}"]
    assert (world.moved(), world.checks.newer("web")) == ({}, {})
    world.restart()
    assert world.turn() == []
    assert world.checks.errors("web") != {}


def test_a_pull_that_fails_leaves_the_pod_as_it_is_and_is_tried_later(world: World) -> None:
    world.put()
    second = world.store.push(IMAGE, "2")
    world.store.pull_fails = Retry("it broke off")
    assert f"pull {IMAGE}" in world.turn(6.1)
    assert world.moved() == {}
    assert [event.type for event in world.journal.events()][-1] == "pull-failed"
    assert world.turn() == []
    world.store.pull_fails = None
    assert world.turn(0.05) == [f"pull {IMAGE}"]
    assert world.moved() == {"app": second}


def test_a_container_whose_image_is_here_does_not_wait_for_one_that_cannot_be_had(world: World) -> None:
    world.put(app=IMAGE, other=OTHER)
    second, _ = world.store.push(IMAGE, "2"), world.store.push(OTHER, "b2")
    world.store.here.add(second)
    world.store.pull_fails = Retry("it broke off")
    world.turn(6.1)
    assert world.moved() == {"app": second}


def test_an_update_waits_until_the_one_before_is_decided_and_the_newest_counts_then(world: World) -> None:
    world.put()
    second = world.store.push(IMAGE, "2")
    world.turn(6.1)
    world.store.push(IMAGE, "3")
    world.turn(6.1)
    fourth = world.store.push(IMAGE, "4")
    assert world.turn(6.1) == [f"head {IMAGE}", f"look {IMAGE}"]
    assert world.moved() == {"app": second}
    rollout = Rollout(generation=2, kind="update", begun=1.0, boot_id="boot")
    world.record(rollout=rollout)
    assert world.turn() == []
    world.record(rollout=replace(rollout, outcome="good"))
    assert world.turn() == [f"pull {IMAGE}"]
    assert world.moved() == {"app": fourth}


def test_an_image_that_failed_is_never_tried_again_and_the_next_one_is(world: World) -> None:
    world.put()
    first, second = world.store.tags[IMAGE][1], world.store.push(IMAGE, "2")
    world.turn(6.1)
    assert world.moved() == {"app": second}
    # As after a rollback: the good spec with the good digests.
    bad = Bad(
        hash=world.pod().hash, generation=2, revision="r1", at=1.0, reason="exit 1", images={"app": second}
    )
    world.journal.move_images("web", {"app": first}, 2)
    world.good("web", {"app": first})
    world.record(bad=(bad,))
    assert world.turn(6.1) == [f"head {IMAGE}"]
    assert (world.moved(), world.checks.newer("web")) == ({"app": first}, {})
    with pytest.raises(Stalled, match="failed in pod web before: exit 1"):
        world.checks.check_now("web")
    pod, found = world.checks.check_now("web", force=True)
    assert [(one.before, one.after) for one in found] == [(first, second)]
    with pytest.raises(Stalled, match="tank image update web --force"):
        world.checks.move(pod, {"app": second})
    world.restart()
    assert world.turn(6.1) == [f"head {IMAGE}"]
    third = world.store.push(IMAGE, "3")
    world.turn(6.1)
    assert world.moved() == {"app": third}


def test_an_image_that_was_good_beside_a_bad_one_is_not_bad(world: World) -> None:
    world.put(app=IMAGE, other=OTHER)
    first, other = world.store.tags[IMAGE][1], world.store.tags[OTHER][1]
    verdict = Verdict(outcome="good", at=1.0, images={"app": first, "other": other})
    world.journal.revise("web", lambda status: status, verdicts={1: verdict})
    bad = Bad(
        hash=world.pod().hash,
        generation=2,
        revision="r1",
        at=1.0,
        reason="exit 1",
        images={"app": digest_of("2"), "other": other},
    )
    world.journal.move_images("web", {"app": first, "other": digest_of("b2")}, 1)
    world.good("web", {"app": first, "other": digest_of("b2")})
    world.record(bad=(bad,))
    world.turn(12.2)
    assert world.moved() == {"app": first, "other": other}


def test_an_older_image_is_taken_only_after_two_looks_that_agree(world: World) -> None:
    second = world.store.push(IMAGE, "2", created=200.0)
    world.put()
    first = world.store.push(IMAGE, "1", created=100.0)
    assert world.turn(6.1) == [f"head {IMAGE}", f"look {IMAGE}"]
    assert (world.moved(), world.checks.newer("web")) == ({}, {})
    # The registry has its newest state back.
    world.store.push(IMAGE, "2", created=200.0)
    world.turn(6.1)
    world.store.push(IMAGE, "1", created=100.0)
    world.turn(6.1)
    world.restart()
    assert world.moved() == {}
    assert world.turn(6.1) == [f"head {IMAGE}", f"pull {IMAGE}"]
    assert world.moved() == {"app": first} != {"app": second}


def test_an_image_without_a_date_is_not_older(world: World) -> None:
    world.store.push(IMAGE, "2", created=200.0)
    world.put()
    first = world.store.push(IMAGE, "1", created=cast(Any, None))
    world.turn(6.1)
    assert world.moved() == {"app": first}


def test_a_registry_that_names_another_digest_than_it_has_is_asked_in_full_each_time(world: World) -> None:
    world.put()
    world.store.says[IMAGE] = digest_of("lie")
    for _ in range(2):
        assert world.turn(6.1) == [f"head {IMAGE}", f"look {IMAGE}", f"note {IMAGE}"]
    second = world.store.push(IMAGE, "2", "a2")
    world.turn(6.1)
    assert world.moved() == {"app": second}


def test_held_pods_and_suspended_sources_stay_as_they_are(world: World) -> None:
    world.put()
    second = world.store.push(IMAGE, "2")
    world.suspended = True
    assert world.turn(7) == []
    world.suspended = False
    declared = Declared(pod=world.pod().pod, owner="dir", revision="r1", file="/web.toml")
    world.journal.delete("web")
    world.journal.merge(Snapshot(source="dir", revision="r1", pods=(declared,)))
    world.good("web", {"app": digest_of("1")})
    world.journal.suspend("web")
    assert world.turn(7) == []
    with pytest.raises(Stalled, match="pod web is suspended, so its images stay as they are"):
        world.checks.check_now("web")
    world.journal.resume("web")
    world.turn(7)
    assert world.moved() == {"app": second}
    with pytest.raises(PodNotFound):
        world.checks.check_now("nobody")


def test_a_stopped_pod_follows_no_tag_until_it_runs_again_but_does_what_a_person_says(world: World) -> None:
    world.put()
    world.journal.stop("web", "ann")
    second = world.store.push(IMAGE, "2")
    world.turn(7)
    assert world.moved() == {}
    pod, (found,) = world.checks.check_now("web")
    assert found.after == second
    world.journal.start("web", Wish(by="ann", boot_id="boot", monotonic=1.0))
    world.turn(7)
    assert world.moved() == {"app": second}
    world.good("web", {"app": second})
    world.journal.stop("web", "ann")
    third = world.store.push(IMAGE, "3")
    pod, _ = world.checks.check_now("web")
    assert world.checks.move(pod, {"app": third})
    assert world.moved() == {"app": third}
    assert world.journal.status("web").stopped is not None


def test_what_stands_for_one_image_only_or_was_never_pulled_is_not_looked_at(world: World) -> None:
    fixed = f"registry.lan/app@{digest_of('1')}"
    never = "registry.lan/never:1"
    world.journal.put(
        Pod(
            name="web",
            containers=(
                Container(name="a", image=fixed),
                Container(name="b", rootfs="/r", command=("x",)),
                Container(name="c", image=never),
            ),
            update=Update(image="digest"),
        ),
        "r1",
    )
    world.record(rollout=Rollout(generation=1, kind="first", begun=1.0, boot_id="b", outcome="good"))
    assert world.turn(100) == []


def test_looks_outlive_the_agent_and_a_clock_that_jumps(world: World) -> None:
    world.put()
    world.turn(6.1)
    world.restart()
    assert world.turn(5.8) == []
    world.clock.wall = lambda: 10.0  # type: ignore[method-assign]
    assert world.turn() == [f"head {IMAGE}"]
    assert world.turn() == []


def test_a_pod_that_ran_before_there_were_rollouts_follows_its_tag_once_it_says_so(world: World) -> None:
    world.put()
    world.journal.record("web", PodStatus())
    second = world.store.push(IMAGE, "2")
    world.turn(6.1)
    assert world.moved() == {"app": second}


def test_a_person_looks_and_moves_a_pod_that_follows_no_tag_at_once(world: World) -> None:
    world.put(follows="pinned")
    first, second = world.store.tags[IMAGE][1], world.store.push(IMAGE, "2")
    pod, (found,) = world.checks.check_now("web")
    assert (found.container, found.image, found.before, found.after) == ("app", IMAGE, first, second)
    world.journal.put(replace(pod.pod, update=Update(min_healthy=3.0)), "r2")
    assert not world.checks.move(pod, {"app": second})
    assert world.moved() == {}
    pod, _ = world.checks.check_now("web")
    assert world.checks.move(pod, {"app": second})
    assert world.moved() == {"app": second}
    pod, left = world.checks.check_now("web")
    assert left == []
    world.store.fails[IMAGE] = Retry("registry.lan is silent")
    with pytest.raises(Retry, match="is silent"):
        world.checks.check_now("web")


def test_a_thread_runs_only_if_a_pod_follows_its_tags(world: World) -> None:
    world.put(follows="pinned")
    world.checks.start()
    world.checks.resync()
    assert world.checks._thread is None and world.checks.alive()
    second = world.store.push(IMAGE, "2")
    world.put("api")
    world.store.records[IMAGE] = replace(world.store.records[IMAGE], digest=second, index="", pulled_at=0.0)
    world.runs["api"] = {"app": digest_of("1")}
    world.record("api", good=None)
    world.checks.reload(0)
    assert world.checks._thread is None
    world.checks.reload(CHECK)
    wait_for(lambda: world.moved("api") == {"app": second}, "the move")
    assert world.checks.alive()
    world.checks.close()
    assert not world.checks.alive()
    world.checks.resync()
