"""What the API says about images while the store gets ready, and when there are many of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tank_agent import Pod
from tank_agent.api.storage import ListedImage, PullReport
from tank_agent.api.types import PullLine
from tank_agent.control.images import Images
from tank_agent.errors import Retry
from tank_agent.image.config import Image
from tank_agent.image.store import store as store_module
from tank_agent.image.store.files import ReferenceRecord
from tank_agent.image.store.store import ImageNeed, ImageUse, StoredImage
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import Good, PodStatus, Verdict
from tank_agent.journal.store import MemoryStore
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.image_checks import MovedContainer
from tank_agent.reconcile.pulls import Pulls
from tank_agent.spec.reference import Reference, find_image


def digest_of(number: int) -> str:
    return f"sha256:{number:064x}"


class FakeStore:
    """Has images `registry.lan/app-0` and so on; a pull finds the one that is there."""

    def __init__(self, count: int = 1) -> None:
        self.rows = [
            StoredImage(
                reference=f"registry.lan/app-{number}:latest",
                digest=digest_of(number),
                size=1,
                layers=1,
                pulled_at=1.0,
            )
            for number in range(count)
        ]

    def list(self) -> Sequence[StoredImage]:
        return self.rows

    def needs(self, uses: Iterable[ImageUse]) -> Iterator[ImageNeed]:
        records = [ReferenceRecord(reference=row.reference, digest=row.digest) for row in self.rows]
        return store_module.find_needs(uses, records)

    def pull(self, reference: str, **_: Any) -> Image:
        return Image(reference=reference, digest=digest_of(0), layers=(Path("/"),))


class FakeMachine:
    """Pods that are to run an image each; none of them runs."""

    def __init__(
        self, store: FakeStore, ready: threading.Event, desired: dict[str, str] | None = None
    ) -> None:
        self.pulls = Pulls(
            store,  # type: ignore[arg-type]
            Clock(),
            Backoff(base=10.0, cap=300.0, stable_after=600.0),
            lambda *_: None,
            prepare=ready.wait,  # type: ignore[arg-type]
        )
        self.pods = desired or {}
        self.journal = self
        self.containers = SimpleNamespace(pods=lambda: ())

    def desired(self) -> dict[str, Any]:
        return {
            name: SimpleNamespace(
                pod=Pod.new({"name": name, "containers": [{"name": "app", "image": image}]}),
                generation=1,
                images={},
                hold=None,
            )
            for name, image in self.pods.items()
        }

    def history(self, name: str) -> tuple[()]:
        return ()

    def status(self, name: str) -> PodStatus:
        return PodStatus()


@pytest.fixture
def ready() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def make(store: FakeStore, machine: FakeMachine) -> Images:
    reconciler, checks = SimpleNamespace(wake=lambda *_: None), SimpleNamespace()
    return Images(store, machine, reconciler, checks)  # type: ignore[arg-type]


def test_a_pull_that_waits_for_the_store_keeps_its_caller_waiting_too(ready: threading.Event) -> None:
    store = FakeStore()
    machine = FakeMachine(store, ready)
    pulled = make(store, machine).pull("registry.lan/app-0", "missing", lambda: False)
    assert [next(pulled) for _ in range(3)] == [PullLine(progress=PullReport(done=0, total=0))] * 3
    ready.set()
    *_, last = pulled
    assert isinstance(last.image, ListedImage)
    assert last.image.reference == "registry.lan/app-0:latest"
    machine.pulls.close()


def test_a_wait_for_the_store_ends_with_its_caller(ready: threading.Event) -> None:
    store = FakeStore()
    machine = FakeMachine(store, ready)
    gone = threading.Event()
    pulled = make(store, machine).pull("registry.lan/app-0", "missing", gone.is_set)
    next(pulled)
    gone.set()
    with pytest.raises(Retry, match="still being cleaned"):
        next(pulled)
    ready.set()
    machine.pulls.close()


def test_many_images_are_matched_with_many_pods_at_once(
    ready: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.set()
    store = FakeStore(200)
    desired = {f"pod-{number}": f"registry.lan/app-{number}" for number in range(150)}
    desired["by-digest"] = f"registry.lan/other@{digest_of(3)}"
    machine = FakeMachine(store, ready, desired)
    parsed: list[str] = []

    def counted(text: str) -> Reference:
        parsed.append(text)
        return find_image(text)

    monkeypatch.setattr(store_module, "find_image", counted)
    found = {row.reference: row.pods for row in make(store, machine).list()}
    assert found["registry.lan/app-3:latest"] == ("by-digest", "pod-3")
    assert found["registry.lan/app-149:latest"] == ("pod-149",)
    assert found["registry.lan/app-150:latest"] == ()
    assert len(parsed) == len(desired)
    machine.pulls.close()


def test_what_a_pod_goes_back_to_is_needed_whatever_its_names_stand_for() -> None:
    """Of six generations: the good one's, the wanted one's, and the former one's digests; no others."""
    journal = Journal(MemoryStore(), clock=lambda: 1.0)

    def generation(number: int) -> int:
        spec = {"name": "web", "containers": [{"name": "app", "image": f"registry.lan/app:{number}"}]}
        return journal.put(Pod.new(spec), f"r{number}").generation

    def verdict(number: int, outcome: Any) -> None:
        verdict = Verdict(outcome=outcome, at=1.0, images={"app": digest_of(number)})
        journal.revise("web", lambda status: status, verdicts={number: verdict})

    def needed() -> set[str]:
        containers = SimpleNamespace(pods=lambda: ())
        machine = SimpleNamespace(journal=journal, containers=containers)
        images = Images(*(cast(Any, part) for part in (None, machine, None, None)))
        return {use.image.removeprefix("registry.lan/app:") for use in images._uses()}

    for number in range(1, 5):
        generation(number)
        verdict(number, "good" if number <= 2 else "failed")
    desired = journal.get("web")
    assert desired is not None
    good = Good(generation=2, hash=desired.hash, at=1.0, images={"app": digest_of(22)})
    journal.record("web", PodStatus(good=good))
    assert needed() == {"4", "3", digest_of(3), "2", digest_of(2), digest_of(22)}
    # A newer image behind the tag, while nothing is decided yet.
    journal.move_images("web", {"app": digest_of(5)}, 4)
    assert needed() == {"4", digest_of(4), digest_of(5), "2", digest_of(2), digest_of(22)}


@pytest.mark.parametrize("stopped", [None, 1.0])
def test_an_update_says_whether_its_pod_is_stopped(stopped: float | None) -> None:
    moved = MovedContainer(container="app", image="app", before=digest_of(0), after=digest_of(1))
    pod = SimpleNamespace(name="web", generation=2)
    journal = SimpleNamespace(
        get=lambda _: pod, status=lambda _: PodStatus(stopped=stopped), desired=lambda: {}
    )
    machine: Any = SimpleNamespace(journal=journal, pulls=SimpleNamespace(wait=lambda _: True))
    pulled = Image(reference="app", digest=digest_of(1), layers=(Path("/"),))
    store: Any = SimpleNamespace(pull_newer=lambda *_, **__: pulled)
    checks: Any = SimpleNamespace(check_now=lambda *_, **__: (pod, [moved]), move=lambda *_, **__: True)
    *_, last = Images(store, machine, cast(Any, None), checks).update("web", lambda: False)
    assert last.update is not None
    assert (last.update.stopped, len(last.update.moved)) == (stopped is not None, 1)
