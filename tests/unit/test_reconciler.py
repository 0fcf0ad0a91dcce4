"""The threads around the plan: failures are retried and told, pulls are shared, sources are looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from tank_agent.errors import Problem, Retry, Stalled
from tank_agent.image.image import Image, Progress
from tank_agent.journal.memory_journal import MemoryJournal
from tank_agent.linux.clock import SystemClock
from tank_agent.reconcile.observed import ImageState
from tank_agent.reconcile.pulls import Pulls
from tank_agent.reconcile.restart import Backoff
from tank_agent.reconcile.sources import SourceLoop
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Container, Pod

DEADLINE = 10.0


class Store:
    """An image store whose pulls the test lets go on, or fail."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.go_on = threading.Event()
        self.began = threading.Event()
        self.error: Exception | None = None
        self.pulls = 0
        self.cancelled = False

    def cached(self, reference: str) -> Image | None:
        return self.images.get(reference)

    def pull(
        self,
        reference: str,
        *,
        progress: Callable[[Progress], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Image:
        self.pulls += 1
        progress(Progress(done=3, total=10))
        self.began.set()
        while not self.go_on.wait(0.01):
            if cancelled():
                self.cancelled = True
                raise Retry("cancelled")
        if self.error is not None:
            raise self.error
        image = Image(reference=reference, digest="sha256:" + "0" * 64, layers=(Path("/layer"),))
        self.images[reference] = image
        return image


class Woken:
    """Collects the pods that were woken."""

    def __init__(self) -> None:
        self.pods: set[str] = set()
        self._changed = threading.Condition()

    def __call__(self, pod: str, cause: str) -> None:
        with self._changed:
            self.pods.add(pod)
            self._changed.notify_all()

    def wait(self, pods: set[str]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.pods >= pods, DEADLINE), self.pods


def make_pulls(store: Store, woken: Woken) -> Pulls:
    return Pulls(store, SystemClock(), Backoff(base=20, cap=300), woken)


def test_two_pods_share_one_pull_and_both_are_woken() -> None:
    store, woken = Store(), Woken()
    pulls = make_pulls(store, woken)
    assert pulls.state("image", "a").state is ImageState.ABSENT
    pulls.pull("image", "a")
    assert store.began.wait(DEADLINE)
    seen = pulls.state("image", "b")
    assert (seen.state, seen.progress) == (ImageState.PULLING, Progress(done=3, total=10))
    store.go_on.set()
    woken.wait({"a", "b"})
    assert pulls.state("image", "a").state is ImageState.READY
    assert store.pulls == 1
    pulls.close()


def test_a_failed_pull_waits_longer_each_time() -> None:
    store, woken = Store(), Woken()
    store.go_on.set()
    store.error = Stalled("no such image")
    pulls = make_pulls(store, woken)
    waits = []
    for _ in range(3):
        woken.pods.clear()
        pulls.pull("image", "a")
        woken.wait({"a"})
        failed = pulls.state("image", "a")
        assert (failed.state, failed.error) == (ImageState.FAILED, "no such image")
        assert failed.retry_at is not None
        waits.append(round((failed.retry_at - SystemClock().monotonic()) / 20))
    assert waits == [1, 2, 4]
    store.error = None
    woken.pods.clear()
    pulls.pull("image", "a")
    woken.wait({"a"})
    assert pulls.state("image", "a").state is ImageState.READY
    pulls.close()


def test_a_pull_that_nobody_waits_for_is_cancelled() -> None:
    store, woken = Store(), Woken()
    pulls = make_pulls(store, woken)
    pulls.pull("image", "a")
    assert store.began.wait(DEADLINE)
    pulls.state("image", "b")
    pulls.cancel("a", frozenset())
    pulls.cancel("b", frozenset({"image"}))
    assert not store.cancelled
    pulls.cancel("b", frozenset())
    pulls.close()
    assert store.cancelled
    assert woken.pods == set()


class OneSource:
    """A source whose snapshot the test sets."""

    def __init__(self, *words: str) -> None:
        self.set(*words)
        self.settle: float | None = None
        self.looks = 0

    def set(self, *words: str, problems: tuple[Problem, ...] = ()) -> None:
        pods = tuple(
            Declared(
                pod=Pod(name=word, containers=(Container(name="c", rootfs="/r", command=("x",)),)),
                owner=f"dir:/{word}.toml",
                revision=word,
                file=f"/{word}.toml",
            )
            for word in words
        )
        self.current = Snapshot(source="dir", revision="", pods=pods, problems=problems)

    def snapshot(self) -> Snapshot:
        self.looks += 1
        if self.settle is not None and self.looks > 2:
            self.settle = None
        return self.current

    def settle_after(self) -> float | None:
        return self.settle


def make_loop(source: OneSource, woken: Woken, resyncs: list[int], resync: float = 60.0) -> SourceLoop:
    return SourceLoop(
        [source],
        MemoryJournal(clock=SystemClock().wall),
        wake=woken,
        each_resync=lambda: resyncs.append(1),
        resync=resync,
        clock=SystemClock(),
    )


def test_a_change_wakes_its_pods_only() -> None:
    source, woken = OneSource("a", "b"), Woken()
    loop = make_loop(source, woken, [])
    loop.start()
    assert woken.pods == {"a", "b"}
    woken.pods.clear()
    source.set("a", "c")
    loop.notify()
    woken.wait({"b", "c"})
    assert woken.pods == {"b", "c"}
    loop.close()


def test_sync_waits_until_the_sources_are_at_rest() -> None:
    source, woken = OneSource("a"), Woken()
    loop = make_loop(source, woken, [])
    loop.start()
    source.settle = 0.01
    assert loop.sync(DEADLINE)
    assert source.settle is None
    assert source.looks == 3
    loop.close()


def test_the_resync_comes_by_the_clock_whatever_events_come() -> None:
    source, woken, resyncs = OneSource("a"), Woken(), list[int]()
    loop = make_loop(source, woken, resyncs, resync=0.2)
    loop.start()
    end = SystemClock().monotonic() + DEADLINE
    while len(resyncs) < 2 and SystemClock().monotonic() < end:
        loop.notify()
        threading.Event().wait(0.01)
    assert len(resyncs) >= 2
    loop.close()
