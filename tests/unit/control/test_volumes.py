"""The verbs about volumes: what a listing shows, what may be removed, copied and restored, and when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from tank_agent.control.volumes import Storage
from tank_agent.errors import Stalled, VolumeInUse
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import Good, PodStatus, Rollout
from tank_agent.journal.store import MemoryStore
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.snapshots import Snapshots
from tank_agent.runtime.mounts.snapshots import CopyJob, SnapshotStore
from tank_agent.runtime.mounts.volumes import Volumes
from tank_agent.spec.model import Container, Mount, Pod, Volume

POD = Pod(
    name="db",
    containers=(
        Container(name="server", image="x", mounts=(Mount(volume="data", path="/data"),)),
        Container(name="other", image="x"),
    ),
    volumes=(Volume(name="data", snapshot=True), Volume(name="host", host="/srv")),
)


class World:
    """A journal, volumes on the disk, and runs as they are set: container → paths of its volumes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(MemoryStore(), clock=lambda: 1000.0)
        self.volumes = Volumes(path, path.parent / "run")
        self.store = SnapshotStore(path, self.volumes)
        self.jobs = Snapshots(self.store, Clock(), lambda *_: None)
        self.running: dict[str, tuple[str, ...]] = {}
        self.sharing: tuple[str, ...] = ()
        containers: Any = SimpleNamespace(
            volumes=self.volumes, runs=self.runs, pods=lambda: {"db"} if self.running else set()
        )
        self.storage = Storage(self.journal, containers, self.jobs)
        self.write("data", "good")

    def runs(self, pod: str) -> list[Any]:
        return [
            SimpleNamespace(
                record=SimpleNamespace(
                    container=name, volumes=paths, name=f"{pod}/{name}", shared=self.sharing
                )
            )
            for name, paths in self.running.items()
        ]

    def write(self, name: str, text: str) -> None:
        directory = self.path / "volumes" / "db" / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "file").write_text(text)

    def take(self, name: str = "data", *, force: bool = False) -> str:
        return self.storage.take("db", name, lambda: False, force=force).id


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "agent")


def test_a_listing_has_volumes_snapshots_and_what_was_put_aside(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.journal.put_all([POD], "1")
    world.store.take("db", 7, {"data": True}, CopyJob())
    world.take()
    world.store.put_back("db", 8, {"data": "7"}, CopyJob(), failed=7)
    world.journal.record("db", PodStatus(good=Good(generation=6, hash="", at=1.0, snapshots={"data": "7"})))
    (world.path / "snapshots/db/old/3").mkdir(parents=True)
    data, old = world.storage.list()
    assert (data.name, data.in_use, data.gone, data.path) == (
        "data",
        True,
        False,
        str(world.path / "volumes/db/data"),
    )
    assert data.size is not None
    assert [(one.id, one.by_hand, one.in_use, one.generation) for one in data.snapshots] == [
        ("manual-1", True, False, 1),
        ("7", False, True, 7),
    ]
    (kept,) = data.put_aside
    assert kept.name == "data.failed-7"
    assert kept.size is not None
    assert (old.name, old.gone, old.in_use, old.size) == ("old", True, False, None)
    assert [one.id for one in old.snapshots] == ["3"]
    monkeypatch.setattr("tank_agent.control.volumes._SIZES", 0.0)
    assert [one.size for one in world.storage.list()] == [None, None]


def test_a_volume_goes_with_its_snapshots_once_no_pod_has_it(world: World) -> None:
    world.journal.put_all([POD], "1")
    world.take()
    with pytest.raises(VolumeInUse, match="pod db has it"):
        world.storage.remove("db", "data")
    world.journal.delete("db")
    world.running = {"server": ("/data",)}
    with pytest.raises(VolumeInUse, match="pod db still runs"):
        world.storage.remove("db", "data")
    world.running = {}
    done = world.storage.remove("db", "data")
    assert (done.deleted, done.snapshots) == (True, ("manual-1",))
    assert not world.storage.list()
    assert not world.storage.remove("db", "data").deleted
    assert not world.storage.remove("db", "../db").deleted


def test_a_snapshot_that_an_update_may_go_back_to_stays(world: World) -> None:
    world.store.take("db", 7, {"data": True}, CopyJob())
    good = Good(generation=6, hash="", at=1.0, snapshots={"data": "7"})
    restoring = Rollout(generation=8, kind="rollback", begun=1.0, boot_id="", restore={"data": "7"})
    for status in (PodStatus(good=good), PodStatus(rollout=restoring)):
        world.journal.record("db", status)
        with pytest.raises(VolumeInUse, match="snapshot db/data@7 is in use"):
            world.storage.remove("db", "data@7")
    world.journal.record("db", PodStatus(good=replace(good, snapshots={})))
    assert world.storage.remove("db", "data@7").deleted
    assert not world.storage.remove("db", "data@7").deleted
    assert not world.storage.remove("db", "data@../../../..").deleted


def test_data_that_was_put_aside_is_removed_though_the_pod_runs(world: World) -> None:
    world.journal.put_all([POD], "1")
    world.write("data.failed-7", "ruined")
    assert not world.storage.remove("db", "data.failed-8").deleted
    assert world.storage.remove("db", "data.failed-7").deleted


def test_a_volume_is_copied_only_while_nothing_writes_to_it(world: World) -> None:
    world.journal.put_all([POD], "1")
    world.running = {"other": ()}
    assert world.take() == "manual-1"
    world.running = {"server": ("/data",)}
    with pytest.raises(VolumeInUse, match="container db/server runs") as refused:
        world.take()
    assert "--force" in str(refused.value.hint)
    assert world.take(force=True) == "manual-1-2"
    # Of a spec that is not the present one.
    for running in ({"other": ("/old",)}, {"former": ("/old",)}):
        world.running = cast("dict[str, tuple[str, ...]]", running)
        with pytest.raises(VolumeInUse):
            world.take()
    world.running = {}
    with pytest.raises(Stalled, match="there is no volume db/none"):
        world.take("none")


def test_a_container_that_ran_meanwhile_spoils_a_copy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = iter([1, 2])
    monkeypatch.setattr(world.volumes, "times_opened", lambda *_: next(opened, 2))
    with pytest.raises(VolumeInUse, match="a container ran meanwhile"):
        world.take()
    assert not world.store.all()


def test_a_volume_is_restored_while_nothing_runs_with_it(world: World) -> None:
    world.journal.put_all([POD], "1")
    snapshot = world.take()
    world.write("data", "later")
    world.running = {"server": ("/data",)}
    with pytest.raises(VolumeInUse, match="container db/server runs with it"):
        world.storage.restore("db", "data", snapshot, lambda: False)
    world.running = {}
    done = world.storage.restore("db", "data", snapshot, lambda: False)
    assert (done.snapshot, done.put_aside) == (snapshot, "data.replaced-1")
    assert (world.path / "volumes/db/data/file").read_text() == "good"
    with pytest.raises(Stalled, match="there is no snapshot db/data@9"):
        world.storage.restore("db", "data", "9", lambda: False)


def sharing(name: str, *volumes: Volume) -> Pod:
    return replace(POD, name=name, volumes=volumes, containers=(Container(name="app", image="x"),))


def test_a_shared_volume_goes_once_no_pod_needs_it(world: World) -> None:
    media = Volume(name="media", shared=True)
    directory = world.path / "volumes-shared" / "media"
    directory.mkdir(parents=True)
    world.journal.put_all([sharing("a", media), sharing("b", media), sharing("c", Volume(name="media"))], "1")
    found = world.storage.list()[-1]
    assert (found.pod, found.name, found.shared, found.pods) == ("", "media", True, ("a", "b"))
    assert (found.path, found.in_use) == (str(directory), True)
    with pytest.raises(VolumeInUse, match=r"pod a has it \(api\); pod b has it"):
        world.storage.remove_shared("media")
    world.journal.delete("a")
    # A last good revision to which an update may go back.
    world.journal.record("b", PodStatus(good=Good(generation=1, hash="", at=1.0)))
    world.journal.put_all([sharing("b")], "2")
    with pytest.raises(VolumeInUse, match="pod b has it in its last good revision"):
        world.storage.remove_shared("media")
    world.journal.record("b", PodStatus(good=Good(generation=2, hash="", at=1.0)))
    world.running, world.sharing = {"server": ("/media",)}, ("media",)
    with pytest.raises(VolumeInUse, match="pod db still runs with it"):
        world.storage.remove_shared("media")
    world.running = {}
    assert world.storage.remove_shared("media").deleted
    assert not directory.exists()
    assert not world.storage.remove_shared("media").deleted
    assert not world.storage.remove_shared("../volumes").deleted


def test_a_pods_own_volume_is_not_kept_by_a_shared_one_of_its_name(world: World) -> None:
    world.journal.put_all([replace(POD, volumes=(Volume(name="data", shared=True),))], "1")
    assert world.storage.remove("db", "data").deleted
