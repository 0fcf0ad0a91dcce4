"""Pods that a person stops, starts and restarts: what the journal has of it, and what goes on meanwhile."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tank_agent.errors import PodNotFound, Stalled
from tank_agent.journal import stops
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import ContainerStatus, Exit, PodStatus, Rollout
from tank_agent.journal.stops import Wish
from tank_agent.journal.store import MemoryStore
from tank_agent.spec.model import Container, Pod
from tests.unit.journal.builders import FakeClock, declared, pod, snapshot

WISH = Wish(by="ann", boot_id="this", monotonic=50.0)
RUNS = ContainerStatus(hash="h", instance="app-1", boot_id="this", failures=3, restarts=2)
ENDED = ContainerStatus(
    hash="h", failures=4, retry_at=9e9, exit=Exit(at=1.0, code=3), ended_boot="this", restarts=5
)


class World:
    """A journal with a pod, and a store that outlives it."""

    def __init__(self, of: Pod | None = None, source: str = "dir") -> None:
        self.store, self.clock = MemoryStore(), FakeClock()
        self.journal = self.open()
        self.journal.merge(snapshot(declared(of or pod(), source=source), source=source))

    def open(self) -> Journal:
        return Journal(self.store, clock=self.clock)

    def with_status(self, status: PodStatus) -> PodStatus:
        self.journal.record("web", status)
        return self.status

    @property
    def status(self) -> PodStatus:
        return self.journal.status("web")

    @property
    def kinds(self) -> list[str]:
        return [event.type for event in self.journal.events(0, 100)]


@pytest.mark.parametrize("source", ["dir", "git", "seed"])
def test_a_stop_is_kept_and_is_one_event(source: str) -> None:
    world = World(source=source)
    world.with_status(PodStatus(replacing=("app-1",), released="this"))
    assert world.journal.stop("web", "ann")
    assert not world.journal.stop("web", "bob")
    assert world.kinds.count("stop-asked") == 1
    world.journal = world.open()
    assert (world.status.stopped, world.status.replacing) == (world.clock.now, ())
    assert world.journal.start("web", WISH)
    assert not world.journal.start("web", WISH)
    assert world.status.stopped is None
    assert world.kinds.count(stops.STARTED) == 1


def test_a_restart_is_the_runs_that_go_on_and_forgets_how_the_others_ended() -> None:
    world = World()
    world.with_status(PodStatus(containers={"app": RUNS, "side": ENDED}, error="x"))
    assert not world.journal.restart("web", "", WISH)
    assert not world.journal.restart("web", "app", WISH)
    status = world.status
    assert (status.replacing, status.error) == (("app-1",), None)
    assert status.containers["app"] == replace(RUNS, failures=0)
    assert status.containers["side"] == ContainerStatus(hash="h", restarts=5)
    assert world.journal.stop("web", "ann")
    assert world.journal.restart("web", "app", WISH)
    # All of it, since nothing ran.
    assert (world.status.stopped, world.status.replacing) == (None, ("app-1",))


def test_the_wait_of_an_update_begins_anew_and_a_verdict_stays() -> None:
    world = World()
    waiting = Rollout(generation=1, kind="update", boot_id="before", begun=7.0, ends=1)
    world.with_status(PodStatus(rollout=waiting))
    world.journal.restart("web", "", WISH)
    assert world.status.rollout == replace(waiting, begun=50.0, boot_id="this")
    for other in (replace(waiting, outcome="good"), replace(waiting, begun=None)):
        world.with_status(PodStatus(rollout=other))
        world.journal.restart("web", "", WISH)
        assert world.status.rollout == other


def test_who_is_nowhere_can_be_neither_stopped_nor_started() -> None:
    world = World()
    world.journal.stop("web", "ann")
    world.journal.merge(snapshot())
    for ask in (
        lambda: world.journal.stop("web", "ann"),
        lambda: world.journal.start("web", WISH),
        lambda: world.journal.restart("web", "", WISH),
    ):
        with pytest.raises(PodNotFound, match="no pod web"):
            ask()
    # It comes back from wherever it was, and nobody has stopped that one.
    world.journal.merge(snapshot(declared(pod())))
    assert world.status.stopped is None


def test_what_has_no_run_of_its_own_is_not_restarted() -> None:
    init = Container(name="init", rootfs="/r", init=True)
    world = World(replace(pod(), containers=(init, *pod().containers)))
    with pytest.raises(Stalled, match="init"):
        world.journal.restart("web", "init", WISH)
    with pytest.raises(PodNotFound, match="no container x") as caught:
        world.journal.restart("web", "x", WISH)
    assert caught.value.hint == "it has app"


def test_a_stop_outlives_all_that_changes_what_is_desired() -> None:
    world = World()
    world.journal.merge(snapshot(declared(pod(command="sleep 2"))))
    since = world.clock.now
    world.journal.stop("web", "ann")
    world.clock.now += 5
    journal = world.journal

    def generation() -> int:
        found = journal.get("web")
        assert found is not None
        assert world.status.stopped == since
        return found.generation

    assert journal.move_images("web", {"app": f"sha256:{'b' * 64}"}, 2).changed == ("web",)
    assert generation() == 3
    journal.suspend("web")
    journal.merge(snapshot(declared(pod(command="sleep 3"))))
    assert generation() == 3
    journal.resume("web")
    journal.merge(snapshot(declared(pod(command="sleep 3"))))
    assert generation() == 4
    old = journal.revision("web", 1)
    assert old is not None
    journal.roll_back("web", old)
    assert generation() == 5
    journal = world.journal = world.open()
    assert generation() == 5
    assert journal.start("web", WISH)
    assert world.status.stopped is None
