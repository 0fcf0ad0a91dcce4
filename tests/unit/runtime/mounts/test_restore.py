"""Lost mounts of a container, found and mounted again; its mount namespace is a plain directory here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from tank_agent.errors import Retry
from tank_agent.linux import mounts
from tank_agent.linux.mounts import Place
from tank_agent.runtime.container.launch import record_of
from tank_agent.runtime.container.oci import BindMount
from tank_agent.runtime.mounts import restore
from tank_agent.runtime.mounts.rootfs import FILES
from tank_agent.runtime.run import LiveRun, RunRecord
from tank_agent.spec.model import Container, Mount, Volume
from tests.support.fake_runtime import launch

T = TypeVar("T")
ROOT, ELSEWHERE = 1, 9
MOUNTS = (Mount(volume="outer", path="/data"), Mount(volume="inner", path="/data/in"))
PATHS = ("/data", "/data/in", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf")


class Namespace:
    """A container's root directory, with what is mounted where: path → the number of the mount."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "root"
        self.files = tmp_path / "files"
        (self.root / "data" / "in").mkdir(parents=True)
        (self.root / "etc").mkdir()
        self.files.mkdir()
        for name in FILES:
            (self.files / name).write_text(name)
            os.link(self.files / name, self.root / "etc" / name)
        self.mounted = {path: number for number, path in enumerate(PATHS, start=2)}
        self.attached: list[str] = []
        self.unmounted: list[str] = []
        self.elsewhere: set[str] = set()

    def place_of(self, descriptor: int) -> Place:
        path = self._path(descriptor)
        if path in self.mounted:
            return Place(mount=self.mounted[path], is_root=True)
        if path in self.elsewhere:
            return Place(mount=ELSEWHERE, is_root=False)
        around = [found for found in self.mounted if path.startswith(f"{found}/")]
        return Place(mount=self.mounted[max(around, key=len)] if around else ROOT, is_root=False)

    def attach(self, copy: int, target: int) -> None:
        del copy
        path = self._path(target)
        self.attached.append(path)
        self.mounted[path] = 50 + len(self.attached)

    def unmount(self, descriptor: int, descriptors: int) -> None:
        del descriptors
        path = self._path(descriptor)
        self.unmounted.append(path)
        del self.mounted[path]

    def _path(self, descriptor: int) -> str:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        return path.removesuffix(" (deleted)").removeprefix(str(self.root)) or "/"


class Binder:
    """A binder of volumes whose inodes are those of the directories in the namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._root = namespace.root
        self.bound: list[str] = []
        self.paths = {"outer": "data", "inner": "data/in"}

    def bind(self, _: str, volumes: object, wanted: Sequence[Mount], place: Path, **options: Any) -> Any:
        assert options["owner"] is None
        (mount,) = wanted
        self.bound.append(mount.path)
        return (BindMount(source=place, target=mount.path),)

    def inode(self, pod: str, volumes: object, name: str, _: str = "") -> tuple[int, int]:
        status = (self._root / self.paths[name]).stat()
        return status.st_dev, status.st_ino


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    made = Namespace(tmp_path)

    def inside(process: int, function: Callable[[int], T], root: object) -> T:
        del process, root
        descriptor = os.open(made.root, os.O_PATH)
        try:
            return function(descriptor)
        finally:
            os.close(descriptor)

    monkeypatch.setattr(restore, "in_mount_namespace", inside)
    # The mounts that are counted are those of the machine, which may have any number.
    monkeypatch.setattr(restore, "_MOUNTS_MAX", sys.maxsize)
    monkeypatch.setattr(mounts, "place_of", made.place_of)
    monkeypatch.setattr(mounts, "attach", made.attach)
    monkeypatch.setattr(mounts, "clone", lambda path: os.open(path, os.O_PATH))
    monkeypatch.setattr(mounts, "unmount_descriptor", made.unmount)
    monkeypatch.setattr(mounts, "bind", lambda *_, **__: None)
    return made


@pytest.fixture
def record() -> RunRecord:
    wanted = launch(container=Container(name="app", mounts=MOUNTS))
    return record_of(wanted, identifier="web-app-1", cgroup="/tank/web/web-app-1", created_at=0.0)


@pytest.fixture
def run(record: RunRecord, tmp_path: Path) -> LiveRun:
    (tmp_path / "bundle").mkdir()
    return LiveRun(record=record, directory=tmp_path / "bundle", process=0)


def heal(run: LiveRun, namespace: Namespace, binder: Binder) -> None:
    pod = [Volume(name="outer"), Volume(name="inner")]
    checked: Any = binder
    restore.restore(run, MOUNTS, pod, namespace.files, checked)


def test_nothing_is_lost_while_all_is_mounted(namespace: Namespace, record: RunRecord) -> None:
    assert restore.lost(0, record, namespace.files) == ()


@pytest.mark.parametrize("path", PATHS)
def test_a_mount_that_was_taken_away_is_lost(namespace: Namespace, record: RunRecord, path: str) -> None:
    del namespace.mounted[path]
    assert restore.lost(0, record, namespace.files) == (path,)


def test_a_path_that_was_removed_or_leads_in_circles_is_lost(namespace: Namespace, record: RunRecord) -> None:
    (namespace.root / "data" / "in").rmdir()
    assert restore.lost(0, record, namespace.files) == ("/data/in",)
    (namespace.root / "data" / "in").symlink_to("in")
    assert restore.lost(0, record, namespace.files) == ("/data/in",)


def test_another_file_in_the_place_of_the_pods_is_lost(namespace: Namespace, record: RunRecord) -> None:
    """As after the pod's file was written anew: what is mounted is the former one."""
    (namespace.files / "hosts").unlink()
    (namespace.files / "hosts").write_text("new")
    assert restore.lost(0, record, namespace.files) == ("/etc/hosts",)


def test_what_is_lost_is_mounted_again_parents_first(namespace: Namespace, run: LiveRun) -> None:
    del namespace.mounted["/data/in"], namespace.mounted["/data"], namespace.mounted["/etc/hosts"]
    binder = Binder(namespace)
    heal(run, namespace, binder)
    assert binder.bound == ["/data", "/data/in"]
    assert namespace.attached == ["/etc/hosts", "/data", "/data/in"]


def test_what_is_there_is_left_alone(namespace: Namespace, run: LiveRun) -> None:
    del namespace.mounted["/data/in"]
    heal(run, namespace, Binder(namespace))
    assert namespace.attached == ["/data/in"]
    assert namespace.unmounted == []


def test_a_former_file_of_the_pod_is_unmounted_first(namespace: Namespace, run: LiveRun) -> None:
    (namespace.files / "hosts").unlink()
    (namespace.files / "hosts").write_text("new")
    # The fake mount shows no other file, so it stays lost.
    with pytest.raises(Retry, match="does not stay"):
        heal(run, namespace, Binder(namespace))
    assert namespace.unmounted == ["/etc/hosts"]
    assert namespace.attached == ["/etc/hosts"]


def test_nothing_is_mounted_where_a_program_made_the_path_lead_elsewhere(
    namespace: Namespace, run: LiveRun
) -> None:
    del namespace.mounted["/data"]
    namespace.elsewhere.add("/data")
    with pytest.raises(Retry, match="made the path lead elsewhere"):
        heal(run, namespace, Binder(namespace))
    assert namespace.attached == []


def test_what_is_inside_a_volume_goes_into_that_volume_only(namespace: Namespace, run: LiveRun) -> None:
    del namespace.mounted["/data/in"]
    binder = Binder(namespace)
    # What is mounted at /data is another volume than the pod's.
    binder.paths["outer"] = "etc"
    with pytest.raises(Retry, match="made the path lead elsewhere"):
        heal(run, namespace, binder)
    assert namespace.attached == []


def test_a_program_that_moves_mounts_away_for_ever_gains_no_more(
    namespace: Namespace, run: LiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    del namespace.mounted["/data/in"]
    monkeypatch.setattr(restore, "_MOUNTS_MAX", 0)
    with pytest.raises(Retry, match="too often"):
        heal(run, namespace, Binder(namespace))


def test_a_run_without_a_process_has_nothing_to_restore(namespace: Namespace, run: LiveRun) -> None:
    namespace.mounted.clear()
    heal(msgspec.structs.replace(run, process=None), namespace, Binder(namespace))
    assert namespace.attached == []


def test_file_mounts_are_read_only() -> None:
    found = restore.file_mounts(Path("/run/tank/pods/web"))
    assert {mount.target for mount in found} == {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
    assert all(mount.read_only for mount in found)
