"""The watcher on a real directory: what wakes, and what does not."""

from __future__ import annotations

import importlib
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from watchdog.events import FileSystemEvent

from tank_agent.source import watch
from tank_agent.source.watch import DirectoryWatcher


class SpiedWatcher(DirectoryWatcher):
    """Tells when the event of one file has been handled, and so all events of that directory before it."""

    def __init__(self, path: Path, wakes: queue.SimpleQueue[None]) -> None:
        super().__init__(path, lambda: wakes.put(None))
        self.expected = ""
        self.handled = threading.Event()

    def on_event(self, directory: str, event: FileSystemEvent) -> None:
        super().on_event(directory, event)
        if self.expected and Path(os.fsdecode(event.src_path)).name == self.expected:
            self.handled.set()

    def wait_for_marker(self, directory: Path, timeout: float = 10.0) -> bool:
        self.expected = f"marker-{time.monotonic_ns()}"
        self.handled.clear()
        (directory / self.expected).symlink_to("nowhere")
        seen = self.handled.wait(timeout)
        self.expected = ""
        for marker in directory.glob("marker-*"):
            marker.unlink()
        return seen


class Watched:
    """A watched directory, and its wakes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.watcher = SpiedWatcher(path, self.wakes)

    def next(self) -> None:
        self.wakes.get(timeout=60)

    def settle(self) -> int:
        """Wait until all that happened before has been told; return the number of wakes not yet taken."""
        assert self.watcher.wait_for_marker(self.path)
        assert self.watcher.wait_for_marker(self.path.parent)
        count = 0
        while not self.wakes.empty():
            self.wakes.get()
            count += 1
        return count

    def wait_until_armed(self) -> None:
        """Wait until the directory that is there now is watched; every change in it wakes from then on."""
        deadline = time.monotonic() + 60
        while not self.watcher.wait_for_marker(self.path, 0.2):
            assert time.monotonic() < deadline, "the directory is not watched"
        self.settle()
        (self.path / "probe.toml").symlink_to("nowhere")
        self.next()
        (self.path / "probe.toml").unlink()
        self.next()
        self.settle()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "pods.d").mkdir()
    watched = Watched(tmp_path / "pods.d")
    assert watched.watcher.start() is None
    watched.next()
    watched.settle()
    yield watched
    watched.watcher.stop()


def test_every_way_to_change_a_pod_file_wakes(watched: Watched, tmp_path: Path) -> None:
    path = watched.path / "web.toml"
    (tmp_path / "new").write_text("x")
    (tmp_path / "new").rename(path)
    assert watched.settle() >= 1
    path.write_text("in place")
    assert watched.settle() >= 1
    path.rename(watched.path / "other.toml")
    assert watched.settle() >= 1
    (watched.path / "other.toml").unlink()
    assert watched.settle() >= 1
    path.symlink_to("/dev/null")
    assert watched.settle() >= 1
    path.rename(tmp_path / "away")
    assert watched.settle() >= 1
    os.link(tmp_path / "away", path, follow_symlinks=False)
    assert watched.settle() >= 1


def test_a_file_moved_out_wakes_at_once_and_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # watchdog as it comes holds both back for 500 ms; here it would for longer than anybody waits.
    for module in ("watchdog.observers.inotify_move_event_grouper", "watchdog.observers.inotify_buffer"):
        with suppress(ModuleNotFoundError):
            for found in vars(importlib.import_module(module)).values():
                if hasattr(found, "delay"):
                    monkeypatch.setattr(found, "delay", 3600.0)
    (tmp_path / "pods.d").mkdir()
    watched = Watched(tmp_path / "pods.d")
    assert watched.watcher.start() is None
    for number in range(5):
        (watched.path / "web.toml").write_text("x")
        watched.settle()
        (watched.path / "web.toml").rename(tmp_path / "away")
        watched.next()
        (watched.path / f"b{number}.toml").symlink_to("x")
        watched.next()
    watched.watcher.stop()


def test_editors_leftovers_do_not_wake(watched: Watched) -> None:
    for name in (".web.toml.swp", "4913", "web.toml~", ".web.toml", "notes.txt"):
        (watched.path / name).write_text("x")
        (watched.path / name).unlink()
    (watched.path / "sub").mkdir()
    (watched.path.parent / "agent.toml").write_text("x")
    assert watched.settle() == 0


def test_reading_does_not_wake(watched: Watched) -> None:
    (watched.path / "web.toml").write_text("x")
    watched.settle()
    for _ in range(20):
        (watched.path / "web.toml").read_text()
    assert watched.settle() == 0


def test_writing_wakes_once_it_is_closed(watched: Watched) -> None:
    (watched.path / "web.toml").write_text("x")
    watched.settle()
    with (watched.path / "web.toml").open("w", buffering=1) as file:
        for _ in range(20):
            file.write("line\n")
        assert watched.settle() == 0
    assert watched.settle() == 1


def test_a_directory_made_anew_is_watched_again(watched: Watched) -> None:
    for _ in range(3):
        shutil.rmtree(watched.path)
        watched.next()
        watched.path.mkdir()
        watched.wait_until_armed()


def test_a_directory_that_was_not_there_is_watched_when_it_comes(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "later")
    why = watched.watcher.start()
    assert why is not None and "it is not there" in why
    try:
        watched.path.mkdir()
        watched.wait_until_armed()
    finally:
        watched.watcher.stop()


def test_a_parent_that_was_not_there_is_found_by_the_check(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "a" / "b")
    assert watched.watcher.start() is not None
    try:
        watched.path.mkdir(parents=True)
        assert watched.watcher.check() is None
        watched.wait_until_armed()
    finally:
        watched.watcher.stop()


def test_a_swapped_link_wakes_and_is_followed(tmp_path: Path) -> None:
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
    (tmp_path / "current").symlink_to("1")
    watched = Watched(tmp_path / "current")
    assert watched.watcher.start() is None
    try:
        watched.wait_until_armed()
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").rename(tmp_path / "current")
        watched.next()
        watched.wait_until_armed()
    finally:
        watched.watcher.stop()


def test_a_directory_moved_away_wakes(watched: Watched) -> None:
    watched.path.rename(watched.path.parent / "away")
    watched.next()
    watched.path.mkdir()
    watched.wait_until_armed()


_MOUNT = """
import pathlib, subprocess, sys
from tests.unit.source.test_watch import Watched
path = pathlib.Path(sys.argv[1]) / "pods.d"
path.mkdir()
watched = Watched(path)
assert watched.watcher.start() is None
watched.wait_until_armed()
# Lazily, since the watcher may just be looking at it.
for command in (["mount", "-t", "tmpfs", "tmpfs", str(path)], ["umount", "-l", str(path)]) * 2:
    subprocess.run(command, check=True)
    assert watched.watcher.check() is None
    watched.next()
    watched.wait_until_armed()
watched.watcher.stop()
print("fine")
"""


@pytest.mark.machine
def test_a_directory_that_is_mounted_over_is_watched_after_a_check(tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", _MOUNT, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_many_changes_while_it_is_checked_end_in_peace(watched: Watched) -> None:
    for _ in range(20):
        shutil.rmtree(watched.path)
        watched.path.mkdir()
        watched.watcher.check()
        (watched.path / "web.toml").write_text("x")
    watched.wait_until_armed()


def test_it_stops_while_changes_come(tmp_path: Path) -> None:
    (tmp_path / "pods.d").mkdir()
    before = threading.active_count()
    for _ in range(5):
        watched = Watched(tmp_path / "pods.d")
        watched.watcher.start()
        for number in range(20):
            (watched.path / f"p{number}.toml").write_text("x")
        watched.watcher.stop()
    assert threading.active_count() <= before


def test_each_file_renamed_into_place_wakes_by_its_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "CHECK_EVERY", 3600.0)
    (tmp_path / "pods.d").mkdir()
    watched = Watched(tmp_path / "pods.d")
    assert watched.watcher.start() is None
    for _ in range(50):
        (tmp_path / "new").write_text("x")
        watched.settle()
        (tmp_path / "new").rename(watched.path / "web.toml")
        watched.next()
    watched.watcher.stop()


# Files beside pod files.


def watch_beside(watched: Watched, *paths: str) -> None:
    """Watch these files, and wait until that is done and its wakes are taken."""
    watched.watcher.watch_beside(frozenset(paths))
    assert watched.watcher.check() is None
    watched.settle()


def test_every_way_to_change_a_file_beside_a_pod_file_wakes(watched: Watched, tmp_path: Path) -> None:
    deep = watched.path / "secrets" / "db"
    deep.mkdir(parents=True)
    watch_beside(watched, "nginx.conf", "secrets/db/password.age")
    for directory, name in ((watched.path, "nginx.conf"), (deep, "password.age")):
        (directory / name).write_text("new")
        watched.next()
        assert watched.watcher.wait_for_marker(directory)
        watched.settle()
        (tmp_path / "other").write_text("renamed into place")
        (tmp_path / "other").rename(directory / name)
        watched.next()
        assert watched.watcher.wait_for_marker(directory)
        watched.settle()
        (directory / name).unlink()
        watched.next()
        assert watched.watcher.wait_for_marker(directory)
        watched.settle()
        (directory / "unnamed.conf").write_text("x")
        assert watched.watcher.wait_for_marker(directory)
        assert watched.settle() == 0


def test_a_directory_of_files_beside_pod_files_may_come_later_and_be_swapped(watched: Watched) -> None:
    watch_beside(watched, "conf/site/nginx.conf")
    (watched.path / "conf" / "site").mkdir(parents=True)
    watched.next()
    (watched.path / "conf" / "site" / "nginx.conf").write_text("one")
    # What was written before the directory was watched is told when it is.
    wait_for_marker(watched, watched.path / "conf" / "site")
    watched.settle()
    (watched.path / "conf" / "site" / "nginx.conf").write_text("two")
    watched.next()
    (watched.path / "new" / "site").mkdir(parents=True)
    (watched.path / "conf").rename(watched.path / "old")
    (watched.path / "new").rename(watched.path / "conf")
    wait_for_marker(watched, watched.path / "conf" / "site")
    watched.settle()
    (watched.path / "conf" / "site" / "nginx.conf").write_text("three")
    watched.next()


def wait_for_marker(watched: Watched, directory: Path) -> None:
    deadline = time.monotonic() + 60
    while not watched.watcher.wait_for_marker(directory, 0.2):
        assert time.monotonic() < deadline, f"{directory} is not watched"


def test_a_directory_that_no_pod_file_names_any_more_is_not_watched(watched: Watched) -> None:
    (watched.path / "secrets").mkdir()
    watch_beside(watched, "secrets/a.age")
    assert watched.watcher.wait_for_marker(watched.path / "secrets")
    watch_beside(watched)
    assert not watched.watcher.wait_for_marker(watched.path / "secrets", 0.3)
    (watched.path / "secrets" / "a.age").write_text("x")
    assert watched.settle() == 0


def test_a_directory_behind_a_link_is_not_watched_for_files_beside(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (watched.path / "conf").symlink_to(tmp_path / "outside")
    watch_beside(watched, "conf/nginx.conf")
    assert not watched.watcher.wait_for_marker(tmp_path / "outside", 0.3)
    # The link itself is: a directory in its place would count.
    (watched.path / "conf").unlink()
    watched.next()


def test_a_file_beside_a_pod_file_with_another_name_is_watched_by_itself(
    watched: Watched, tmp_path: Path
) -> None:
    (watched.path / "conf").mkdir()
    (watched.path / "conf" / "nginx.conf").write_text("one")
    os.link(watched.path / "conf" / "nginx.conf", tmp_path / "other")
    watch_beside(watched, "conf/nginx.conf")
    (tmp_path / "other").write_text("two")
    watched.next()
