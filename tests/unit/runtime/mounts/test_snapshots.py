"""Snapshots on disk: all volumes or none, put back whatever happens meanwhile, and never in the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.errors import Retry, Stalled, VolumeInUse
from tank_agent.linux import mounts
from tank_agent.linux.tree_walk import WalkCancelledError
from tank_agent.runtime.mounts import snapshots
from tank_agent.runtime.mounts.snapshots import ABSENT, CopyJob, SnapshotStore, estimate
from tank_agent.runtime.mounts.volumes import Volumes
from tests.support.agent import wait_for
from tests.support.disks import KINDS, SHARING, disk

BOTH = {"data": True, "logs": True}


class Place:
    """A data_dir with two volumes of pod "db"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in BOTH:
            self.write(name, "good")

    def store(self) -> SnapshotStore:
        """Return the store of an agent that starts now."""
        return SnapshotStore(self.path, self.volumes())

    def volumes(self) -> Volumes:
        return Volumes(self.path, self.path.parent / "run")

    def live(self, name: str) -> Path:
        return self.path / "volumes" / "db" / name

    def write(self, name: str, text: str) -> None:
        self.live(name).mkdir(parents=True, exist_ok=True)
        (self.live(name) / "file").write_text(text)

    def read(self, name: str) -> str:
        return (self.live(name) / "file").read_text()

    def all(self) -> list[str]:
        """Return what is in the two directories, but for notes and what is being removed."""
        found = [*self.path.glob("volumes/*/*"), *self.path.glob("snapshots/*/*/*")]
        return sorted(str(path.relative_to(self.path)) for path in found if not path.name.endswith(".gone"))

    def going(self) -> list[Path]:
        """Return what is being removed; not looked for in it, since it goes meanwhile."""
        return [*self.path.glob("volumes/*/*.gone"), *self.path.glob("snapshots/*/*/*.gone")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "agent")


def take(store: SnapshotStore, generation: int = 7) -> dict[str, str]:
    return store.take("db", generation, BOTH, CopyJob())


def put_back(store: SnapshotStore, ids: dict[str, str], generation: int = 8) -> dict[str, str]:
    return store.put_back("db", generation, ids, CopyJob(), failed=7)


def test_a_snapshot_is_taken_and_put_back_and_the_failed_data_is_kept(place: Place) -> None:
    store = place.store()
    ids = take(store)
    assert ids == {"data": "7", "logs": "7"}
    place.write("data", "ruined")
    assert put_back(store, ids) == {"data": "data.failed-7", "logs": "logs.failed-7"}
    assert (place.read("data"), place.read("data.failed-7")) == ("good", "ruined")
    assert [one.id for one in store.all()] == ["7", "7"]
    assert [(pod, name, path.name) for pod, name, path in place.volumes().put_aside()] == [
        ("db", "data", "data.failed-7"),
        ("db", "logs", "logs.failed-7"),
    ]
    assert [name for _, name, _ in place.volumes().managed()] == ["data", "logs"]


def test_nothing_is_made_before_a_snapshot_is_taken(place: Place) -> None:
    place.store()
    assert not (place.path / "snapshots").exists()


def test_a_snapshot_that_nobody_recorded_is_taken_anew(place: Place) -> None:
    store = place.store()
    take(store)
    place.write("data", "newer")
    assert take(store) == {"data": "7", "logs": "7"}
    assert (place.path / "snapshots/db/data/7/file").read_text() == "newer"


def test_a_snapshot_by_hand_has_a_name_of_its_own(place: Place) -> None:
    store = place.store()
    names = [store.take_by_hand("db", 7, "data", CopyJob(), lambda: None).id for _ in range(2)]
    assert names == ["manual-7", "manual-7-2"]
    take(store)
    found = store.of_volume("db", "data")
    assert [(one.id, one.generation, one.manual) for one in found] == [
        ("7", 7, False),
        ("manual-7-2", 7, True),
        ("manual-7", 7, True),
    ]
    assert abs(found[0].at - time.time()) < 60
    with pytest.raises(Stalled, match="there is no volume db/none"):
        store.take_by_hand("db", 7, "none", CopyJob(), lambda: None)


def test_a_volume_that_was_not_there_is_away_again(place: Place) -> None:
    store = place.store()
    ids = store.take("db", 7, {"new": True}, CopyJob())
    assert ids == {"new": ABSENT}
    place.write("new", "of the failed version")
    assert put_back(store, ids) == {"new": "new.failed-7"}
    assert not place.live("new").exists()
    # As often as wanted.
    assert put_back(store, ids) == {}


def test_what_is_done_is_not_done_again_until_it_is_settled(place: Place) -> None:
    store = place.store()
    ids = take(store)
    put_back(store, ids)
    place.write("data", "the old version went on")
    assert put_back(place.store(), ids) == {}
    assert place.read("data") == "the old version went on"
    store.settle("db", ids)
    assert put_back(store, ids) == {"data": "data.failed-7-2", "logs": "logs.failed-7-2"}
    assert place.read("data") == "good"


def test_a_later_update_puts_the_same_snapshot_back_again(place: Place) -> None:
    store = place.store()
    ids = take(store)
    put_back(store, ids)
    assert put_back(store, ids, generation=10) != {}


def test_a_volume_made_in_the_middle_of_it_is_put_aside(place: Place) -> None:
    store = place.store()
    ids = take(store)
    killed(place, "put_back", ids, "snapshot:aside")
    place.write("data", "made by a start that came too early")
    store = place.store()
    put_back(store, ids)
    assert place.read("data") == "good"
    assert place.read("data.failed-7-2") == "made by a start that came too early"


def test_a_snapshot_that_is_gone_is_an_error_and_the_volume_stays(place: Place) -> None:
    store = place.store()
    with pytest.raises(Stalled, match="snapshot db/data@7 is gone") as gone:
        put_back(store, {"data": "7"})
    assert "take the pod away" in str(gone.value.hint)
    (place.path / "snapshots/db/data").mkdir(parents=True)
    with pytest.raises(Stalled, match="no snapshot"):
        put_back(store, {"data": "../../../volumes/db/data"})
    assert place.read("data") == "good"


def test_retention_keeps_the_newest_what_is_wanted_and_what_a_person_took(place: Place) -> None:
    store = place.store()
    by_hand = store.take_by_hand("db", 1, "data", CopyJob(), lambda: None)
    for generation in range(1, 7):
        ids = take(store, generation)
        store.put_back("db", generation, ids, CopyJob(), failed=generation)
    assert place.volumes().note("db", "data").exists()
    store.retain("db", {"1"}, 2)
    # The note of an agent that died before it settled it.
    assert not place.volumes().note("db", "data").exists()
    assert [one.id for one in store.of_volume("db", "data")] == ["6", "5", "1", by_hand.id]
    assert [path.name for _, name, path in place.volumes().put_aside() if name == "data"] == [
        "data.failed-5",
        "data.failed-6",
    ]
    store.retain("other", (), 0)
    store.retain("db", (), 0)
    assert [one.id for one in store.all()] == [by_hand.id]


def test_a_copy_that_fails_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place.store()
    copy, before = snapshots.copy_tree, place.all()

    def fails_for_logs(source: Path, target: Path, **wanted: object) -> None:
        copy(source, target, **wanted)  # type: ignore[arg-type]
        if source.name == "logs":
            raise OSError(5, "Input/output error", str(source / "file"))

    monkeypatch.setattr(snapshots, "copy_tree", fails_for_logs)
    message = r"cannot copy volumes of pod db: .*logs/file: Input/output error\n  the disk has errors"
    with pytest.raises(Retry, match=message):
        take(store)
    assert place.all() == before
    with pytest.raises(WalkCancelledError):
        store.take("db", 7, BOTH, CopyJob(cancelled=True))
    assert place.all() == before


def test_a_snapshot_by_hand_of_what_was_written_meanwhile_is_none(place: Place) -> None:
    def check() -> None:
        raise VolumeInUse("a container started")

    before = place.all()
    with pytest.raises(VolumeInUse):
        place.store().take_by_hand("db", 7, "data", CopyJob(), check)
    assert place.all() == before


def test_a_volume_is_restored_by_hand(place: Place) -> None:
    store = place.store()
    kept = store.take_by_hand("db", 7, "data", CopyJob(), lambda: None)
    place.write("data", "later")
    assert store.restore_by_hand(kept, 9, CopyJob(), lambda: None) == "data.replaced-9"
    assert (place.read("data"), place.read("data.replaced-9")) == ("good", "later")

    def check() -> None:
        raise VolumeInUse("a container started")

    before = place.all()
    with pytest.raises(VolumeInUse):
        store.restore_by_hand(kept, 9, CopyJob(), check)
    assert place.all() == before
    shutil.rmtree(place.live("data"))
    assert store.restore_by_hand(kept, 9, CopyJob(), lambda: None) is None
    assert place.read("data") == "good"


def test_a_file_system_that_cannot_exchange_keeps_the_volume(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Path) -> None:
        raise OSError(22, "Invalid argument")

    store = place.store()
    kept = store.take_by_hand("db", 7, "data", CopyJob(), lambda: None)
    before = place.all()
    monkeypatch.setattr("tank_agent.linux.atomic.exchange", cannot)
    with pytest.raises(Retry, match="cannot restore volume db/data: Invalid argument"):
        store.restore_by_hand(kept, 9, CopyJob(), lambda: None)
    assert place.all() == before


def test_snapshots_and_data_put_aside_are_removed_by_name(place: Place) -> None:
    store = place.store()
    put_back(store, take(store))
    assert store.remove("db", "data", "7")
    assert not store.remove("db", "data", "7")
    assert not store.remove("db", "data", "../..")
    volumes = place.volumes()
    assert volumes.remove("db", "data.failed-7")
    assert not volumes.remove("db", "data.failed-7")
    assert not volumes.remove("db", ".data.put-back")
    assert place.all() == [
        "snapshots/db/logs/7",
        *(f"volumes/db/{name}" for name in (".data.put-back", ".logs.put-back")),
        *(f"volumes/db/{name}" for name in ("data", "logs", "logs.failed-7")),
    ]
    assert volumes.remove("db", "data")
    assert not volumes.note("db", "data").exists()


def test_sentences_for_a_plan() -> None:
    assert estimate(12 * 10**9, shared=False) == "copies 12 GB of volume data, about 71 s down"
    assert estimate(3_210, shared=False) == "copies 3.21 kB of volume data, about 1 s down"
    assert estimate(10**12, shared=False) == "copies 1e+03 GB of volume data, about 1.6 h down"
    assert estimate(None, shared=False) == "copies the data of its volumes; how much is not known in time"
    assert estimate(5 * 10**6, shared=True) == (
        "snapshots 5 MB of volume data without copying it, about a second down"
    )


POINTS = ["snapshot:begun", "snapshot:copied", "snapshot:synced", "snapshot:marked"]
BACK = ["snapshot:ready", "snapshot:noted", "snapshot:aside", "snapshot:back"]

CHILD = """
import sys, json
from pathlib import Path
from tank_agent.runtime.mounts.snapshots import CopyJob, SnapshotStore
from tank_agent.runtime.mounts.volumes import Volumes
path = Path(sys.argv[1])
store = SnapshotStore(path, Volumes(path, path.parent / "run"))
ids = json.loads(sys.argv[3])
if sys.argv[2] == "take":
    store.take("db", 7, {"data": True, "logs": True}, CopyJob())
elif sys.argv[2] == "restore":
    (snapshot,) = store.of_volume("db", "data")
    store.restore_by_hand(snapshot, 9, CopyJob(), lambda: None)
elif sys.argv[2] == "put_back":
    store.put_back("db", 8, ids, CopyJob(), failed=7)
else:
    store.retain("db", (), 1)
"""


def killed(place: Place, what: str, ids: dict[str, str], point: str) -> None:
    """Let another agent do something, and kill it at a point."""

    done = subprocess.run(
        [sys.executable, "-c", CHILD, place.path, what, json.dumps(ids)],
        env={**os.environ, "TANK_FAULT": point, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd="/",
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def passes(points: list[str]) -> list[tuple[str, int]]:
    """Return points with how often they are passed: most of them once for each volume."""
    once = ("snapshot:synced", "snapshot:ready")
    return [(point, nth) for point in points for nth in (1, 2) if nth == 1 or point not in once]


def test_every_fault_point_is_tried() -> None:
    source = Path(snapshots.__file__)
    text = source.read_text() + source.with_name("volumes.py").read_text()
    named = set(re.findall(r'"(snapshot:[a-z]+)"', text))
    assert named == {*POINTS, *BACK, "snapshot:retention", "snapshot:beside"}


@pytest.mark.parametrize(("point", "nth"), passes(POINTS))
def test_killed_while_it_is_taken(place: Place, point: str, nth: int) -> None:
    killed(place, "take", {}, f"{point}@{nth}")
    whole = [one for one in place.all() if one.startswith("snapshots/") and "." not in one]
    assert len(whole) == (nth if point == "snapshot:marked" else 0)
    store = place.store()
    # What is half done is away as soon as the next agent has started.
    assert not [one for one in place.all() if "." in one]
    wait_for(lambda: not place.going(), "the rest is deleted")
    assert take(store) == {"data": "7", "logs": "7"}
    assert [one.id for one in store.all()] == ["7", "7"]
    assert (place.path / "snapshots/db/logs/7/file").read_text() == "good"
    assert (place.read("data"), place.read("logs")) == ("good", "good")


@pytest.mark.parametrize(("point", "nth"), passes(BACK))
def test_killed_while_it_is_put_back(place: Place, point: str, nth: int) -> None:
    ids = take(place.store())
    place.write("data", "ruined")
    place.write("logs", "ruined")
    killed(place, "put_back", ids, f"{point}@{nth}")
    store = place.store()
    put_back(store, ids)
    assert (place.read("data"), place.read("logs")) == ("good", "good")
    # Once, and no copy of what was put back already.
    assert (place.read("data.failed-7"), place.read("logs.failed-7")) == ("ruined", "ruined")
    assert len(place.volumes().put_aside()) == 2
    assert [one.id for one in store.all()] == ["7", "7"]
    wait_for(lambda: not place.going(), "the rest is deleted")
    store.settle("db", ids)
    assert not [one for one in place.all() if "/." in one]


def test_killed_while_a_person_restores(place: Place) -> None:
    store = place.store()
    store.take_by_hand("db", 7, "data", CopyJob(), lambda: None)
    place.write("data", "later")
    killed(place, "restore", {}, "snapshot:beside")
    place.store()
    # Nothing has happened, but for one more copy that has a name.
    assert place.read("data") == "later"
    assert [path.name for _, _, path in place.volumes().put_aside()] == ["data.replaced-9"]


def test_killed_while_old_ones_are_removed(place: Place) -> None:
    store = place.store()
    for generation in (1, 2, 3):
        take(store, generation)
    killed(place, "retain", {}, "snapshot:retention@2")
    store = place.store()
    store.retain("db", (), 1)
    assert [(one.volume, one.id) for one in store.all()] == [("data", "3"), ("logs", "3")]


@pytest.mark.machine
class TestDisks:
    @pytest.fixture(params=KINDS)
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
        with disk(tmp_path, request.param) as found:
            yield Place(found / "agent")

    def test_round(self, place: Place) -> None:
        store = place.store()
        assert store.refusal("db", BOTH, CopyJob()) is None
        ids = take(store)
        place.write("data", "ruined")
        put_back(store, ids)
        assert place.read("data") == "good"
        size, shared = store.cost("db", BOTH, time.monotonic() + 10)
        assert shared == (place.path.parent.name in SHARING)
        assert size is not None

    def test_reflinks_are_refused_where_there_are_none(self, place: Place) -> None:
        why = place.store().refusal("db", {"data": "reflink"}, CopyJob())
        if place.path.parent.name in SHARING:
            assert why is None
        else:
            assert why is not None and 'snapshot = "reflink" needs a file system that shares blocks' in why

    def test_no_room(self, place: Place) -> None:
        with (place.live("data") / "big").open("wb") as file:
            for _ in range(80):
                file.write(os.urandom(1 << 20))
        with (place.live("logs") / "big").open("wb") as file:
            for _ in range(80):
                file.write(os.urandom(1 << 20))
        os.sync()
        store, job = place.store(), CopyJob()
        why = store.refusal("db", BOTH, job)
        if place.path.parent.name in SHARING:
            assert why is None
        else:
            # Each would have room alone.
            assert why is not None and re.match(
                r"a snapshot takes 185 MB of room, and .* MB are free in .*; make room there", why
            )
            assert 160 << 20 <= job.total < 180 << 20
            assert store.refusal("db", {"data": True}, CopyJob()) is None

    def test_no_room_to_put_a_snapshot_back(self, place: Place) -> None:
        with (place.live("data") / "big").open("wb") as file:
            for _ in range(80):
                file.write(os.urandom(1 << 20))
        store = place.store()
        ids = store.take("db", 7, {"data": True}, CopyJob())
        place.write("data", "ruined")
        filler = place.path / "filler"
        with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        if place.path.parent.name in SHARING:
            # Names of files need a little.
            os.truncate(filler, filler.stat().st_size - (16 << 20))
        else:
            os.truncate(filler, filler.stat().st_size - (1 << 20))
        put_back(store, ids)
        assert place.read("data") == "good"
        assert place.read("data.failed-7") == "ruined"
        # Where it took room, the snapshot itself went back; and that is told from one that is missing.
        assert bool(store.all()) == (place.path.parent.name in SHARING)
        assert put_back(place.store(), ids) == {}


@pytest.mark.machine
def test_a_volume_that_is_a_mount_of_its_own_is_refused_before_anything_stops(place: Place) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place.live("data")], check=True)
    try:
        why = place.store().refusal("db", BOTH, CopyJob())
    finally:
        mounts.unmount(place.live("data"))
    assert why is not None
    assert why.startswith(f"volume data: a file system is mounted at {place.live('data')}")


@pytest.mark.machine
def test_no_more_files(tmp_path: Path) -> None:
    with disk(tmp_path, "ext4", 32) as found:
        place = Place(found / "agent")
        for number in range(os.statvfs(found).f_favail * 2 // 3):
            (place.live("data") / f"{number}").touch()
        why = place.store().refusal("db", BOTH, CopyJob())
    assert why is not None and re.match(r"a snapshot takes \d+ files, and \d+ more can be made in", why)
