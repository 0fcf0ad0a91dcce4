"""Kill the agent at every step of a pull; the next one goes on, and nothing is corrupt or left for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.image.config import Image
from tank_agent.image.store.store import ImageStore
from tank_agent.settings.image import ImageSettings
from tests.support.images import directory, layer, member, write_image
from tests.support.registry import FakeRegistry, fake_registry
from tests.support.trees import big_directory, describe, mounted

PULL = """
import sys
from pathlib import Path
from tank_agent.settings.image import ImageSettings
from tank_agent.image.store.store import ImageStore
with ImageStore(Path(sys.argv[1]), ImageSettings(auth_files=(), parallel=1)) as store:
    store.sweep()
    store.pull(sys.argv[2])
    if len(sys.argv) > 3:
        store.prune(set())
"""
ROOT = Path(__file__).parents[2]
POINTS = [
    "image:resolved",
    "image:layer-staged",
    "image:layer-staged@2",
    "image:layer-chunk",
    "image:layer-chunk@3",
    "image:layer-fetched",
    "image:layer-unpacked",
    "image:layer-committed",
    "image:layer-committed@2",
    "image:recorded",
    "image:named",
]


@pytest.fixture
def place() -> Iterator[Path]:
    with big_directory() as path:
        yield path


@pytest.fixture
def registry(place: Path) -> Iterator[FakeRegistry]:
    layout = place / "layout"
    upper = [member("srv/new", "x"), member("srv/.wh.0")]
    base = [directory("srv", 0o750), *(member(f"srv/{number}", os.urandom(100_000)) for number in range(40))]
    write_image(layout, [layer(base), layer(upper)])
    with fake_registry(layout) as running:
        yield running


def run_agent(place: Path, reference: str, fault: str, *more: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PULL, place / "store", reference, *more],
        cwd=ROOT,
        env={**os.environ, "TANK_FAULT": fault},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def no_helper_is_left() -> bool:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            orphan = path.joinpath("stat").read_bytes().rpartition(b")")[2].split()[1] == b"1"
            command = path.joinpath("cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if orphan and b"tank_agent.image.unpack.child" in command:
            return False
    return True


def wait_until_helpers_are_gone() -> None:
    deadline = time.monotonic() + 20
    while not no_helper_is_left():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def seen(image: Image, scratch: Path) -> dict[str, tuple[object, ...]]:
    with mounted(image.layers, scratch) as root:
        return describe(root)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_pull_is_resumed(place: Path, registry: FakeRegistry, point: str) -> None:
    reference = f"{registry.address}/image"
    assert run_agent(place, reference, point) == -signal.SIGKILL
    wait_until_helpers_are_gone()
    finished = set((place / "store/images/layers").iterdir())
    asked = len(registry.log)
    with ImageStore(place / "store", ImageSettings(auth_files=())) as store:
        store.sweep()
        assert list((place / "store/images/staging").iterdir()) == []
        image = store.cached(reference)
        assert (image is not None) == (point == "image:named")
        image = image or store.pull(reference)
    # A layer that was complete is not fetched again.
    assert sum("/blobs/" in line for line in registry.log[asked:]) <= 3 - min(len(finished), 2)
    with ImageStore(place / "fresh", ImageSettings(auth_files=())) as store:
        truth = seen(store.pull(reference), place / "truth")
    assert seen(image, place / "resumed") == truth
    images = place / "store/images"
    assert [list((images / name).iterdir()) for name in ("staging", "trash", "partial")] == [[], [], []]
    hidden = [path for path in images.rglob(".*") if "layers" not in path.parts]
    assert hidden == []


def test_what_a_killed_transfer_brought_is_not_fetched_again(place: Path, registry: FakeRegistry) -> None:
    reference = f"{registry.address}/image"
    assert run_agent(place, reference, "image:layer-chunk@3") == -signal.SIGKILL
    [partial] = (place / "store/images/partial").iterdir()
    had = partial.stat().st_size
    assert had > 0
    asked = len(registry.log)
    assert run_agent(place, reference, "") == 0
    assert f"bytes={had}-" in [headers.get("Range") for headers in registry.headers[asked:]]


def test_a_killed_prune_leaves_nothing(place: Path, registry: FakeRegistry) -> None:
    reference = f"{registry.address}/image"
    assert run_agent(place, reference, "image:layer-trashed", "prune") == -signal.SIGKILL
    images = place / "store/images"
    assert list((images / "trash").iterdir()) != []
    with ImageStore(place / "store") as store:
        store.sweep()
        assert list((images / "trash").iterdir()) == []
        assert store.cached(reference) is None
        assert store.list() == ()
        store.prune(set())
    assert list((images / "layers").iterdir()) == []
    assert list((images / "blobs").iterdir()) == []


def test_a_power_cut_is_not_trusted_before_the_files_are_on_disk(place: Path, registry: FakeRegistry) -> None:
    reference = f"{registry.address}/image"
    with ImageStore(place / "store") as store:
        truth = seen(store.pull(reference), place / "truth")
    # close() waits for the seals; without them, and in another boot, nobody knows what reached the disk.
    sealed, unsealed = sorted((place / "store/images/layers").glob("*/sealed"))[:2]
    unsealed.unlink()
    for file in unsealed.parent.glob("diff/srv/*"):
        # What a power cut leaves of what the file system had not written.
        if file.is_file():
            os.truncate(file, 0)
    for record in (place / "store/images/layers").glob("*/layer.json"):
        text = record.read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert boot in text
        record.write_text(text.replace(boot, "another-boot"))
    with ImageStore(place / "store") as store:
        store.sweep()
        assert sealed.exists()
        assert not unsealed.parent.exists()
        assert store.cached(reference) is None
        assert seen(store.pull(reference), place / "again") == truth


@pytest.mark.parametrize("which", ["blobs", "images", "references", "layers"])
def test_a_damaged_record_is_noticed_and_made_again(place: Path, registry: FakeRegistry, which: str) -> None:
    reference = f"{registry.address}/image"
    with ImageStore(place / "store") as store:
        image = store.pull(reference)
    pattern = "*/layer.json" if which == "layers" else "*"
    for path in (place / "store/images" / which).glob(pattern):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + b"\0")
    with ImageStore(place / "store") as store:
        store.sweep()
        assert store.cached(reference) is None
        assert store.pull(reference) == image


def test_a_second_agent_is_kept_out(place: Path) -> None:
    with ImageStore(place / "store"), pytest.raises(Stalled, match="another agent"):
        ImageStore(place / "store")
    ImageStore(place / "store").close()
