"""Pulls are shared, wait longer after each failure, are reported once, and are given up with their pods."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, cast

from tank_agent.errors import Retry, Stalled
from tank_agent.image.config import Image, PullProgress
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent, PodStatus
from tank_agent.journal.store import MemoryStore
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.core.observed import ImageState
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.pulls import Need, Pulls
from tank_agent.spec.model import Container, Pod, PullPolicy
from tests.support.counting import assert_linear, operations
from tests.unit.reconcile.test_troubles import StillClock

DEADLINE = 60.0


DEADLINE = 60.0


def pod(name: str) -> Pod:
    return Pod(name=name, containers=(Container(name="app", rootfs="/r", command=("/x",)),))


class Store:
    """An image store whose pulls the test lets go on, or fail."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.go_on = threading.Event()
        self.began = threading.Event()
        self.error: Exception | None = None
        self.pulls = 0
        self.policies: list[str | None] = []
        self.digest = "sha256:" + "0" * 64
        self.cancelled = False

    def cached(self, reference: str, digest: str = "") -> Image | None:
        return self.images.get(reference)

    def pull(
        self,
        reference: str,
        *,
        digest: str = "",
        policy: str | None = None,
        progress: Callable[[PullProgress], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Image:
        self.pulls += 1
        self.policies.append(policy)
        progress(PullProgress(done=3, total=10))
        self.began.set()
        while not self.go_on.wait(0.01):
            if cancelled():
                self.cancelled = True
                raise Retry("cancelled")
        if self.error is not None:
            raise self.error
        image = Image(reference=reference, digest=self.digest, layers=(Path("/layer"),))
        self.images[reference] = image
        return image


class Woken:
    """Collects the pods that were woken, and what they were told before."""

    def __init__(self) -> None:
        self.pods: set[str] = set()
        self.news: dict[str, list[NewEvent]] = {}
        self._changed = threading.Condition()

    def __call__(self, pod: str, cause: str) -> None:
        with self._changed:
            self.pods.add(pod)
            self._changed.notify_all()

    def tell(self, pods: Collection[str], news: NewEvent) -> None:
        for pod in pods:
            self.news.setdefault(pod, []).append(news)

    def told(self, pod: str) -> list[str]:
        """Return the types of what a pod was told since the last call."""
        return [news.type for news in self.news.pop(pod, ())]

    def messages(self, pod: str) -> list[str]:
        """Return what a pod was told since the last call."""
        return [news.message for news in self.news.pop(pod, ())]

    def wait(self, pods: set[str]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.pods >= pods, DEADLINE), self.pods


def make_pulls(store: Store, woken: Woken) -> Pulls:
    pulls = Pulls(store, Clock(), Backoff(base=20, cap=300), woken, report=woken.tell)
    assert pulls.wait(DEADLINE)
    return pulls


def need(pod: str, container: str = "c", policy: PullPolicy = "missing", reference: str = "image") -> Need:
    return Need(pod=pod, container=container, reference=reference, policy=policy)


def test_two_pods_share_one_pull_and_both_are_woken() -> None:
    store, woken = Store(), Woken()
    pulls = make_pulls(store, woken)
    assert pulls.observe(need("a")).state is ImageState.ABSENT
    assert pulls.pull(need("a"))
    assert store.began.wait(DEADLINE)
    assert not pulls.pull(need("c"))
    pulls.want("b", {need("b")})
    seen = pulls.observe(need("b"))
    assert (seen.state, seen.progress) == (ImageState.PULLING, PullProgress(done=3, total=10))
    store.go_on.set()
    woken.wait({"a", "b", "c"})
    assert pulls.observe(need("a")).state is ImageState.READY
    assert store.pulls == 1
    (news,) = woken.news["a"]
    assert (woken.told("a"), woken.told("b")) == (["pulled"], ["pulled"])
    assert news.message.startswith(f"pulled image@{store.digest}: ")
    assert pulls._counters.pulls() == {"successful": 1, "failed": 0}
    pulls.close()


def test_a_failed_pull_waits_longer_each_time_and_is_told_once() -> None:
    store, woken = Store(), Woken()
    store.go_on.set()
    store.error = Stalled("no such image")
    pulls = make_pulls(store, woken)
    waits, begun, news = [], [], []
    for _ in range(3):
        woken.pods.clear()
        begun.append(pulls.pull(need("a")))
        woken.wait({"a"})
        failed = pulls.observe(need("a"))
        assert (failed.state, failed.error) == (ImageState.FAILED, "no such image")
        assert failed.retry_at is not None
        waits.append(round((failed.retry_at - Clock().monotonic()) / 20))
        news += woken.told("a")
    assert waits == [1, 2, 4]
    assert (begun, news) == ([True, False, False], ["pull-failed"])
    store.error = Stalled("not allowed")
    woken.pods.clear()
    pulls.pull(need("a"))
    woken.wait({"a"})
    assert woken.messages("a") == ["not allowed"]
    store.error = None
    woken.pods.clear()
    pulls.pull(need("a"))
    woken.wait({"a"})
    assert pulls.observe(need("a")).state is ImageState.READY
    assert woken.told("a") == ["pulled"]
    assert pulls._counters.pulls() == {"successful": 1, "failed": 4}
    pulls.close()


def test_a_failure_is_forgotten_when_somebody_else_pulled_or_nobody_needs_it() -> None:
    store, woken = Store(), Woken()
    store.go_on.set()
    store.error = Stalled("no such image")
    pulls = make_pulls(store, woken)

    def fail(*pods: str) -> None:
        woken.pods.clear()
        for pod in pods:
            pulls.pull(need(pod))
            woken.wait({pod})
        assert pulls.observe(need("a")).state is ImageState.FAILED

    fail("a")
    pulls.pulled("image")
    assert pulls.observe(need("a")).state is ImageState.ABSENT
    fail("a")
    pulls.want("b", {need("b")})
    pulls.want("a", ())
    assert pulls.observe(need("b")).state is ImageState.FAILED
    pulls.want("b", ())
    assert pulls.observe(need("b")).state is ImageState.ABSENT
    pulls.close()


def test_no_registry_is_asked_in_a_tight_loop_whatever_the_backoff() -> None:
    store, woken = Store(), Woken()
    store.go_on.set()
    store.error = Retry("no route")
    clock = StillClock()
    pulls = Pulls(store, clock, Backoff(base=0, cap=0), woken)
    assert pulls.wait(DEADLINE)
    pulls.pull(need("a"))
    woken.wait({"a"})
    failed = pulls.observe(need("a"))
    assert failed.retry_at is not None
    assert failed.retry_at > clock.now + 0.5
    pulls.close()


def test_a_pull_that_nobody_waits_for_is_cancelled() -> None:
    store, woken = Store(), Woken()
    pulls = make_pulls(store, woken)
    pulls.pull(need("a"))
    assert store.began.wait(DEADLINE)
    pulls.want("b", {need("b")})
    pulls.want("a", ())
    pulls.want("b", {need("b")})
    assert not store.cancelled
    pulls.want("b", {need("b", reference="other")})
    pulls.close()
    assert store.cancelled
    assert woken.pods == set()
    assert pulls._counters.pulls() == {"successful": 0, "failed": 0}


def test_always_asks_before_each_start_and_a_pull_serves_one_start_of_each_container() -> None:
    store, woken = Store(), Woken()
    store.go_on.set()
    pulls = make_pulls(store, woken)
    one, two = need("a", "one", "always"), need("a", "two", "always")
    for round_ in range(1, 3):
        woken.pods.clear()
        assert [pulls.observe(found).state for found in (one, two)] == [ImageState.ABSENT] * 2
        store.go_on.clear()
        assert pulls.pull(one) == (round_ == 1)
        assert not pulls.pull(two)
        store.go_on.set()
        woken.wait({"a"})
        assert [pulls.observe(found).state for found in (one, two)] == [ImageState.READY] * 2
        assert pulls.get(one) is not None
        assert [pulls.observe(found).state for found in (one, two)] == [ImageState.ABSENT, ImageState.READY]
        assert pulls.get(two) is not None
    assert store.policies == ["always", "always"]
    # The image is the same one: only the first time is it news.
    assert woken.told("a") == ["pulled"]
    store.digest = "sha256:" + "1" * 64
    woken.pods.clear()
    assert not pulls.pull(one)
    woken.wait({"a"})
    assert [message[:20] for message in woken.messages("a")] == ["pulled image@sha256:"]
    pulls.close()


def test_one_policy_does_not_wait_for_the_other() -> None:
    store, woken = Store(), Woken()
    store.images["image"] = Image(reference="image", digest=store.digest, layers=())
    pulls = make_pulls(store, woken)
    pulls.pull(need("a", policy="always"))
    assert store.began.wait(DEADLINE)
    assert pulls.observe(need("a", policy="always")).state is ImageState.PULLING
    assert pulls.observe(need("b")).state is ImageState.READY
    assert pulls.observe(need("c", policy="never")).state is ImageState.READY
    store.go_on.set()
    pulls.close()


def test_that_nobody_is_asked_is_no_pull_to_tell_of() -> None:
    store, woken = Store(), Woken()
    store.go_on.set()
    store.error = Stalled("not here", hint="pull it")
    pulls = make_pulls(store, woken)
    assert not pulls.pull(need("a", policy="never"))
    woken.wait({"a"})
    assert woken.messages("a") == ["not here; pull it"]
    pulls.close()


def test_an_image_that_went_away_is_pulled_again() -> None:
    store, woken = Store(), Woken()
    store.images["image"] = Image(reference="image", digest=store.digest, layers=())
    pulls = make_pulls(store, woken)
    assert pulls.observe(need("a")).state is ImageState.READY
    del store.images["image"]
    assert pulls.get(need("a")) is None
    assert pulls.observe(need("a")).state is ImageState.ABSENT
    pulls.close()


def test_nothing_starts_before_the_store_is_clean() -> None:
    store, woken, swept = Store(), Woken(), threading.Event()
    store.images["image"] = Image(reference="image", digest=store.digest, layers=())

    def prepare() -> None:
        swept.wait(DEADLINE)
        raise OSError("the disk is in trouble, which must not keep the pods down")

    pulls = Pulls(store, Clock(), Backoff(), woken, prepare=prepare)
    pulls.want("a", {need("a")})
    assert pulls.observe(need("a")).state is ImageState.PULLING
    swept.set()
    woken.wait({"a"})
    assert pulls.observe(need("a")).state is ImageState.READY
    pulls.close()


class StalledStore(Store):
    """A store in which one registry stalls, and all others answer at once."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up = 0
        self.error = None

    def pull(self, reference: str, **given: Any) -> Image:
        if reference.startswith("stalled.lan"):
            while not self.go_on.wait(0.01):
                if given["cancelled"]():
                    self.given_up += 1
                    raise Retry("cancelled")
        return Image(reference=reference, digest=self.digest, layers=(Path("/layer"),))


def test_a_registry_that_stalls_keeps_only_its_own_pods_waiting() -> None:
    store, woken = StalledStore(), Woken()
    pulls = make_pulls(store, woken)
    for number in range(40):
        pulls.pull(need(f"bad-{number}", reference=f"stalled.lan/x:{number}"))
    others = {"local": "oci:/srv/layout", "archive": "oci-archive:/srv/a.tar", "other": "fine.lan/x:1"}
    for pod, reference in others.items():
        pulls.pull(need(pod, reference=reference))
    woken.wait(set(others))
    assert woken.pods == set(others)
    pulls.close()


def test_pods_that_want_images_do_not_look_through_what_others_want() -> None:
    def measure(pods: int) -> int:
        store, woken = Store(), Woken()
        store.error = Stalled("no such image")
        store.go_on.set()
        pulls = make_pulls(store, woken)
        names = [f"pod-{number}" for number in range(pods)]
        needs = {name: need(name, reference=f"image-{number % 5}") for number, name in enumerate(names)}
        # What goes on beside must not count: every image has failed before.
        for name in names[:5]:
            pulls.pull(needs[name])
        woken.wait(set(names[:5]))

        def do() -> None:
            for name in names:
                pulls.want(name, {needs[name]})
            for name in names:
                pulls.observe(needs[name])
                pulls.want(name, {needs[name]})
            for name in names:
                pulls.want(name, ())

        counted = operations(do)
        pulls.close()
        return counted

    assert_linear(measure)


def test_a_failed_pull_that_thousands_wait_for_is_one_transaction() -> None:
    class WatchedJournal(Journal):
        transactions = 0

        def record(self, name: str, status: PodStatus | None, events: Iterable[NewEvent] = ()) -> None:
            self.transactions += 1
            super().record(name, status, events)

    journal = WatchedJournal(MemoryStore(), clock=Clock().wall)
    journal.put_all([pod(f"pod-{number}") for number in range(1000)], "r")
    applied = journal.events(limit=2000)[-1].seq
    store, woken = Store(), Woken()
    store.error = Stalled("no such image", hint="check the name")
    pulls = Pulls(store, Clock(), Backoff(base=20), woken, report=journal.record_for_pods)
    assert pulls.wait(DEADLINE)
    for name in (*journal.desired(), "gone"):
        pulls.pull(need(name))
    store.go_on.set()
    woken.wait(set(journal.desired()))
    told = [(event.type, event.message) for event in journal.events(applied, limit=2000)]
    assert told == [("pull-failed", "no such image; check the name")] * 1000
    assert journal.transactions == 1
    pulls.close()


def test_a_reference_that_the_store_cannot_read_is_a_failure_of_its_container() -> None:
    class Broken:
        def cached(self, reference: str, digest: str = "") -> Image | None:
            raise Stalled(f"{reference} is not an image")

    pulls = Pulls(cast(Any, Broken()), Clock(), Backoff(), lambda *_: None)
    assert pulls.wait(DEADLINE)
    found = pulls.observe(Need(pod="a", container="c", reference="a@b", policy="missing"))
    assert (found.state, found.error) == (ImageState.FAILED, "a@b is not an image")
    pulls.close()


def test_an_image_by_its_digest_is_another_need_and_its_registry_is_not_asked_at_each_start() -> None:
    store, woken = Store(), Woken()
    asked: list[tuple[str, str]] = []

    def cached(reference: str, digest: str = "") -> Image | None:
        asked.append((reference, digest))
        return store.images.get(digest or reference)

    store.cached = cached  # type: ignore[method-assign]
    pulls = make_pulls(store, woken)
    container = Container(name="c", image="app:1", pull="always")
    tagged, pinned = pulls.need("a", container), pulls.need("a", container, store.digest)
    assert (tagged.policy, tagged.digest) == ("always", "")
    assert (pinned.policy, pinned.digest) == ("missing", store.digest)
    assert tagged.key != pinned.key
    never = pulls.need("a", Container(name="c", image="app:1", pull="never"), store.digest)
    assert never.policy == "never"
    store.images[store.digest] = Image(reference="app:1", digest=store.digest, layers=(Path("/layer"),))
    assert pulls.observe(pinned).state is ImageState.READY
    assert pulls.observe(tagged).state is ImageState.ABSENT
    assert pulls.get(pinned) == store.images[store.digest]
    assert set(asked) == {("app:1", store.digest)}
    store.error = Stalled("gone")
    del store.images[store.digest]
    store.go_on.set()
    pulls.pull(pinned)
    woken.wait({"a"})
    assert pulls.observe(pinned).state is ImageState.FAILED
    assert pulls.observe(tagged).state is ImageState.ABSENT
    pulls.pulled("app:1")
    assert pulls.observe(pinned).state is ImageState.ABSENT
    pulls.close()
