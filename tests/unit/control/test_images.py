"""What the API says about images while the store gets ready, and when there are many of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tank_agent import Pod
from tank_agent.api.types import ListedImage, PullLine, PullReport
from tank_agent.control.images import Images
from tank_agent.errors import Retry
from tank_agent.image.config import Image
from tank_agent.image.store import store as store_module
from tank_agent.image.store.files import ReferenceRecord
from tank_agent.image.store.store import ImageNeed, ImageUse, StoredImage
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.core.restart import Backoff
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
                pod=Pod.new({"name": name, "containers": [{"name": "app", "image": image}]}), generation=1
            )
            for name, image in self.pods.items()
        }

    def history(self, name: str) -> tuple[()]:
        return ()


@pytest.fixture
def ready() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def make(store: FakeStore, machine: FakeMachine) -> Images:
    return Images(store, machine, SimpleNamespace(wake=lambda *_: None))  # type: ignore[arg-type]


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
