"""One pull: quirks of images that Docker and podman take, and layers shared with a registry that stalls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.image import pull as pull_module
from tank_agent.image.jobs import Job, Jobs
from tank_agent.image.manifest import Descriptor
from tank_agent.image.pull import ImagePull
from tank_agent.image.store.files import LayerRecord, Layers
from tank_agent.settings.image import ImageSettings
from tank_agent.spec.reference import parse_reference
from tests.support.agent import wait_for
from tests.support.image_quirks import QUIRKS, resolve, write_quirk

DEADLINE = 60.0
DIFF_ID = "sha256:" + "1" * 64


@pytest.mark.parametrize("name", QUIRKS)
def test_a_quirk(tmp_path: Path, name: str) -> None:
    quirk = QUIRKS[name]
    layout = write_quirk(tmp_path / "layout", quirk)
    if quirk.refused:
        with pytest.raises(Stalled) as caught:
            resolve(f"oci:{layout}", tmp_path)
        assert quirk.refused in str(caught.value)
    else:
        found = resolve(f"oci:{layout}", tmp_path)
        assert found.configuration.config.cmd == ("/file",)
        assert len(found.manifest.layers) == len(found.configuration.diff_ids)


class Content:
    """A place whose layers come at once, or never."""

    local = False

    def close(self) -> None:
        pass


class Fetcher:
    """Brings a layer from a place that answers."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.from_: list[str] = []
        self.go_on = threading.Event()

    def fetch(self, task: Any, job: Job) -> None:
        self.from_.append(task.where)
        job.state = "downloading"
        while task.where.startswith("stalled.lan") and not self.go_on.wait(0.01):
            job.check()
        with self.layers.staged() as place:
            self.layers.commit(place, record())


def record() -> LayerRecord:
    return LayerRecord(diff_id=DIFF_ID, size=1, entries=1, implicit=(), opaque_root=False)


def pull_of(reference: str, cancelled: Callable[[], bool] = lambda: False) -> ImagePull:
    return ImagePull(
        parse_reference(reference),
        cast(Any, Content()),
        ImageSettings(),
        progress=lambda _: None,
        cancelled=cancelled,
    )


def resolved() -> Any:
    class One:
        class manifest:
            layers = (Descriptor(media_type="x", digest="sha256:" + "2" * 64, size=10),)

        class configuration:
            diff_ids = (DIFF_ID,)

    return One()


def test_who_shares_a_layer_with_a_registry_that_stalls_fetches_it_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "_PATIENCE", 0.1)
    layers, jobs = Layers(tmp_path), Jobs(3)
    fetcher, given_up = Fetcher(layers), threading.Event()
    ends: list[BaseException | None] = []

    def first() -> None:
        try:
            with pull_of("stalled.lan/a", given_up.is_set) as pull:
                pull.fetch(resolved(), layers, jobs, cast(Any, fetcher))
        except Retry as error:
            ends.append(error)
        else:
            ends.append(None)

    thread = threading.Thread(target=first)
    thread.start()
    wait_for(lambda: fetcher.from_, "the first fetch")
    with pull_of("fine.lan/b") as pull:
        pull.fetch(resolved(), layers, jobs, cast(Any, fetcher))
    assert layers.record(DIFF_ID) is not None
    assert fetcher.from_ == ["stalled.lan/a:latest", "fine.lan/b:latest"]
    # Who waits for the registry that stalls has it now, too.
    thread.join(DEADLINE)
    assert ends == [None]
    given_up.set()
    jobs.close()
