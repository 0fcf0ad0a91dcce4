"""Nothing is stuck without a word, and nothing spins: what fails waits, is shown, and keeps nothing else."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.image.config import Image
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import ContainerStatus, PodStatus
from tank_agent.journal.store import MemoryStore
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.core.actions import (
    Action,
    Begin,
    Decide,
    Follow,
    MakeNetwork,
    Pull,
    RemoveRun,
    Start,
)
from tank_agent.reconcile.core.hashes import container_hash
from tank_agent.reconcile.core.observed import ImageState, ObservedImage
from tank_agent.reconcile.core.phase import Phase
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.machine import Work
from tank_agent.reconcile.pulls import Pulls
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.reconcile.troubles import PACE, Troubles, foreseen
from tank_agent.reconcile.updates import Updates
from tank_agent.runtime.run import LiveRun, RunRecord, Stopping
from tank_agent.spec.model import Container, Pod
from tests.support.fake_runtime import fake_machine
from tests.support.rollouts import settle_all, settled

DEADLINE = 60.0
IMAGE = "registry.lan/app:1"


@pytest.fixture(autouse=True)
def exact_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PACE, "jitter", 0.0)


def pod(name: str = "web", image: str | None = None, word: str = "x") -> Pod:
    rootfs = None if image else "/r"
    return Pod(name=name, containers=(Container(name="app", image=image, rootfs=rootfs, command=(word,)),))


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class StillClock(Clock):
    """Stands still until it is moved; a queue that waits for it must be told by a wake."""

    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> float:
        return 1_000_000.0 + self.now

    def monotonic(self) -> float:
        return self.now


class Store:
    """An image store that has an image, or whose pulls bring it at once."""

    def __init__(self) -> None:
        self.pulls = 0

    def cached(self, reference: str, digest: str = "") -> Image:
        return Image(reference=reference, digest="sha256:" + "0" * 64, layers=(Path("/layer"),))

    def pull(self, reference: str, **_: object) -> Image:
        self.pulls += 1
        return self.cached(reference)


class World:
    """What a reconciler looks at: runs that the test sets, a network that is there, steps that it watches."""

    def __init__(self, *pods: Pod, clock: Any = None, pulls: Any = None) -> None:
        self.clock = clock or Clock()
        self.journal = Journal(MemoryStore(), clock=self.clock.wall)
        self.journal.put_all(pods, "r")
        settle_all(self.journal)
        self.found: dict[str, tuple[LiveRun, ...]] = {}
        self.network = "used"
        self.did: list[Action] = []
        self.fails: dict[type[Action], Exception] = {}
        machine = fake_machine(self.journal, self, self.clock, pulls=pulls or self)
        self.updates = Updates(machine)
        self.loop = Reconciler(machine, cast(Any, self), workers=1)

    def runs(self, pod: str) -> tuple[LiveRun, ...]:
        return self.found.get(pod, ())

    def state(self, pod: str) -> str:
        return self.network

    def pods(self) -> frozenset[str]:
        return frozenset()

    def remembered(self) -> frozenset[str]:
        return frozenset()

    def check(self, *_: object) -> frozenset[str]:
        return frozenset()

    def check_host(self) -> tuple[str, ...]:
        return ()

    def observe(self, _: object) -> ObservedImage:
        return ObservedImage(state=ImageState.ABSENT)

    def need(self, pod: str, container: Container, digest: str = "") -> object:
        return pod, container.name, digest

    def do(self, action: Action, work: Work) -> None:
        if isinstance(action, Follow | Begin | Decide):
            # The journal is a real one.
            self.updates.table[type(action)](action, work)
            return
        self.did.append(action)
        error = self.fails.get(type(action))
        if error is not None:
            raise error

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def work(self, *pods: str) -> None:
        """Wake pods, and wait until there is nothing left to do for them."""
        for name in pods or ("web",):
            self.loop.wake(name, "test")
        assert self.loop.wait_until(self.loop.idle, DEADLINE)

    def events(self) -> list[tuple[str, str]]:
        """Return the events of steps: that the test applied a pod is none."""
        found = (event for event in self.journal.events() if event.type != "applied")
        return [(event.type, event.message) for event in found]


def live(spec: Pod, number: int = 1, **changes: Any) -> LiveRun:
    record = RunRecord(
        id=f"{spec.name}-{number}",
        pod=spec.name,
        container="app",
        hash=changes.pop("hash", container_hash(spec, spec.containers[0])),
        revision="r",
        cgroup="/c",
        image="",
        stop_signal=15,
        stop_grace=10.0,
        terminal=False,
        created_at=0.0,
    )
    return LiveRun(record=record, directory=Path("/none"), **{"started": True, "monitor": 1, **changes})


def test_a_pod_that_is_wanted_again_while_it_is_being_stopped_waits_for_its_end() -> None:
    spec = pod(image=IMAGE)
    store = Store()
    pulls = Pulls(cast(Any, store), Clock(), Backoff(), lambda *woken: world.loop.wake(*woken))  # noqa: PLW0108
    assert pulls.wait(DEADLINE)
    world = World(spec, pulls=pulls)
    world.journal.record(
        "web",
        PodStatus(
            rollout=settled(),
            containers={
                "app": ContainerStatus(
                    hash=container_hash(spec, spec.containers[0]), instance="web-1", boot_id="boot"
                )
            },
        ),
    )
    world.found["web"] = (live(spec, stopping=Stopping(deadline=time.monotonic() + 60)),)
    world.loop.start()
    for _ in range(3):
        world.work()
    assert (world.did, store.pulls) == ([], 0)
    world.loop.close()
    pulls.close()


def test_a_pod_that_does_not_come_to_rest_is_paced_whatever_wakes_it_and_says_so() -> None:
    clock = StillClock()
    world = World(pod(image=IMAGE), clock=clock)
    world.network = "absent"
    world.loop.start()
    for _ in range(50):
        world.work()
    assert len(world.did) <= 200
    assert {type(action) for action in world.did} == {Pull}
    view = world.loop.view("web")
    assert "does not come to rest" in (view.error or "")
    assert view.next_retry == clock.wall() + 10
    # Each time it may try, it is only a few.
    clock.now += 10
    for _ in range(50):
        world.work()
    assert len(world.did) <= 220
    assert world.loop.view("web").next_retry == clock.wall() + 20
    # Another spec is another try, at once.
    before = len(world.did)
    world.journal.put(pod(image=IMAGE, word="y"), "r2")
    world.work()
    assert len(world.did) > before
    world.loop.close()


def test_a_pod_that_does_not_come_to_rest_lets_others_have_their_turn() -> None:
    """The only worker: after a few passes it goes on to the next pod, not only when the first is paced."""
    restless, other = pod(image=IMAGE), pod("other", image=IMAGE)
    world = World(restless, other)
    world.network = "absent"
    did: list[str] = []
    world.do = lambda action, work: did.append(work.name)  # type: ignore[method-assign]
    for name in ("web", "other"):
        world.loop.wake(name, "test")
    world.loop.start()
    assert world.loop.wait_until(world.loop.idle, DEADLINE)
    assert did.index("other") < 20
    world.loop.close()


def test_a_pod_that_is_started_again_and_again_is_paced_by_its_back_off_only() -> None:
    clock = StillClock()
    spec = pod()
    world = World(spec, clock=clock)
    world.network = "absent"

    def starts(action: Action, work: Work) -> None:
        world.did.append(action)
        world.found["web"] = (live(spec, len(world.did)),)

    world.do = starts  # type: ignore[method-assign]
    world.loop.start()
    for _ in range(300):
        world.found.clear()
        world.work()
    assert len(world.did) == 300
    world.loop.close()


def test_a_step_that_fails_is_shown_backs_off_and_is_one_event() -> None:
    clock = StillClock()
    spec = pod()
    world = World(spec, clock=clock)
    world.found["web"] = (live(spec, 1, hash="old", started=False), live(spec, 2))
    world.fails[RemoveRun] = Retry("cannot delete container web-1: no config.json")
    world.loop.start()
    waits = []
    for _ in range(7):
        before = len(world.did)
        for _ in range(3):
            # Neither wakes nor resyncs make it try sooner.
            world.work()
            world.loop.resync()
            until(world.loop.idle)
        assert len(world.did) == before + 1
        view = world.loop.view("web")
        assert (view.phase, view.error) == (Phase.DEGRADED, "cannot delete container web-1: no config.json")
        assert view.next_retry is not None
        waits.append(view.next_retry - clock.wall())
        clock.now += waits[-1]
    assert waits == [0.5, 1, 2, 4, 8, 10, 10]
    assert world.events() == [("step-failed", "cannot delete container web-1: no config.json")]
    world.fails.clear()
    world.found["web"] = (live(spec, 2),)
    world.work()
    view = world.loop.view("web")
    assert (view.phase, view.error, view.next_retry) == (Phase.RUNNING, None, None)
    world.loop.close()


def test_a_bug_in_a_step_is_shown_at_once_and_the_next_spec_is_tried_at_once() -> None:
    clock = StillClock()
    world = World(pod(), clock=clock)
    world.network = "fresh"
    world.fails[Start] = IndexError("tuple index out of range")
    world.loop.start()
    world.work()
    world.work()
    view = world.loop.view("web")
    assert view.error is not None
    assert view.error.startswith("cannot start container app: IndexError: tuple index out of range\n")
    assert view.next_retry == clock.wall() + 0.5
    assert [kind for kind, _ in world.events()] == ["step-failed"]
    assert len(world.did) == 1
    world.journal.put(pod(word="y"), "r2")
    world.work()
    assert len(world.did) == 2
    world.loop.close()


def test_a_container_whose_step_fails_keeps_no_other_from_being_started() -> None:
    containers = tuple(Container(name=name, rootfs="/r", command=("x",)) for name in ("a", "b"))
    world = World(Pod(name="web", containers=containers), clock=StillClock())
    world.network = "fresh"

    def do(action: Action, work: Work) -> None:
        world.did.append(action)
        if action == Start(container="a"):
            raise Retry("no")
        world.network = "used"

    world.do = do  # type: ignore[method-assign]
    world.loop.start()
    world.loop.wake("web", "test")
    until(lambda: Start(container="b") in world.did)
    world.loop.close()


def test_what_the_machine_lacks_is_no_bug_and_says_what_to_do() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/tank/containers/x/stopping.json")
    error = foreseen(full)
    assert isinstance(error, Retry)
    assert str(error).splitlines()[0] == "No space left on device: /run/tank/containers/x/stopping.json"
    assert "make room" in (error.hint or "")
    for number in (errno.EMFILE, errno.ENFILE, errno.EDQUOT, errno.ENOMEM, errno.EIO, errno.EROFS):
        assert isinstance(foreseen(OSError(number, os.strerror(number))), Retry)
    assert isinstance(foreseen(RuntimeError("can't start new thread")), Retry)
    assert isinstance(foreseen(MemoryError()), Retry)
    for bug in (IndexError("x"), OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("x")):
        assert foreseen(bug) is bug
    assert foreseen(stalled := Stalled("x")) is stalled


def test_a_full_run_dir_is_shown_with_what_to_do() -> None:
    world = World(pod(), clock=StillClock())
    world.network = "absent"
    world.fails[MakeNetwork] = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/tank/netns/web")
    world.loop.start()
    world.work()
    assert (world.loop.view("web").error or "").startswith("No space left on device: /run/tank/netns/web\n")
    world.loop.close()


def test_a_pod_that_cannot_be_looked_at_keeps_no_other_from_being_shown() -> None:
    world = World(pod(), pod("bad"), clock=StillClock())

    def runs(name: str) -> tuple[LiveRun, ...]:
        if name == "bad":
            raise ZeroDivisionError("division by zero")
        return ()

    world.runs = runs  # type: ignore[method-assign]
    world.loop.start()
    world.work("bad")
    assert "cannot look at the pod: ZeroDivisionError: division by zero" in (
        world.loop.view("bad").error or ""
    )
    assert [kind for kind, _ in world.events()] == ["step-failed"]
    assert world.loop.view("web").error is None
    world.loop.close()


def test_to_look_at_a_pod_changes_nothing() -> None:
    class Never(Store):
        go_on = threading.Event()

        def cached(self, reference: str, digest: str = "") -> Any:
            return None

        def pull(self, reference: str, **given: Any) -> Image:
            self.pulls += 1
            while not given["cancelled"]():
                if self.go_on.wait(0.01):
                    break
            raise Retry("cancelled")

    store = Never()
    pulls = Pulls(cast(Any, store), Clock(), Backoff(), lambda *_: None)
    assert pulls.wait(DEADLINE)
    spec = pod(image=IMAGE)
    world = World(spec, pulls=pulls)
    need = pulls.need("web", spec.containers[0])
    pulls.want("web", {need})
    pulls.pull(need)
    until(lambda: store.pulls)
    # As `tank plan` with another pod that wants the same image, and `tank status`, do.
    other = world.journal.get("web")
    assert other is not None
    found = world.loop.observer.situation("other", other)
    assert found.observed.images["app"].state is ImageState.PULLING
    assert world.loop.view("web").phase is Phase.PULLING
    pulls.want("web", ())
    # Nobody wants it any more, so it is given up.
    until(lambda: pulls.observe(need).state is ImageState.ABSENT)
    pulls.close()


def test_pods_whose_steps_fail_at_one_moment_are_not_retried_at_one_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    troubles = Troubles(StillClock().monotonic)
    tries = {troubles.failed(f"pod-{number}", None, Retry("no"))[0].retry_at for number in range(1000)}
    assert len(tries) > 900
    assert 1000.4 <= min(tries) < 1000.41
    assert 1000.49 < max(tries) <= 1000.5


@pytest.mark.parametrize("kept", [1, 2])
def test_troubles_are_forgotten_with_what_they_were_of(kept: int) -> None:
    clock = StillClock()
    troubles = Troubles(clock.monotonic)
    one, two = RemoveRun(run="a-1", container="a"), RemoveRun(run="b-1", container="b")
    troubles.begin("web", 1)
    for step in (one, two):
        troubles.failed("web", step, Retry("no"))
    assert troubles.due("web", [one, two]) == ((), 0.5)
    assert troubles.due("web", [one]) == ((), 0.5)
    assert [found.error for found in troubles.of("web")] == ["no"]
    troubles.begin("web", kept)
    assert len(troubles.of("web")) == 2 - kept
    troubles.forget("web")
    assert troubles.of("web") == ()


def test_a_step_that_works_at_its_next_try_is_no_event() -> None:
    clock = StillClock()
    spec = pod()
    world = World(spec, clock=clock)
    world.found["web"] = (live(spec, 1, hash="old", started=False), live(spec, 2))
    world.fails[RemoveRun] = Retry("its cgroup is still busy")
    world.loop.start()
    world.work()
    assert world.loop.view("web").error == "its cgroup is still busy"
    world.fails.clear()
    clock.now += 1
    world.work()
    assert world.events() == []
    world.loop.close()
