"""inotify comes late: what watches starts without it, says so, and watches by itself once it can."""

from __future__ import annotations

import ctypes
import errno
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from watchdog.observers import inotify_c

from tank_agent.source import watch
from tank_agent.source.watch import DirectoryWatcher, RefWatcher


@contextmanager
def no_instances(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Answer as the kernel does when root's programs have taken all inotify instances."""

    def refuse() -> int:
        ctypes.set_errno(errno.EMFILE)
        return -1

    with monkeypatch.context() as patched:
        patched.setattr(inotify_c, "inotify_init", refuse)
        yield


@contextmanager
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail to start watchdog's threads, as at the limit of tasks."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if type(thread).__module__.startswith("watchdog"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        yield


Limit = Callable[[pytest.MonkeyPatch], "contextmanager[None]"]


@pytest.mark.parametrize("limit", [no_instances, no_threads])
def test_pods_dir_is_watched_once_the_kernel_lets_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: Limit
) -> None:
    monkeypatch.setattr(watch, "CHECK_EVERY", 0.05)
    wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
    told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    watcher = DirectoryWatcher(tmp_path, lambda: wakes.put(None), told.put)
    with limit(monkeypatch):
        trouble = watcher.start()
        assert trouble is not None
        assert "can't watch" in trouble
        assert told.get(timeout=60) == trouble
        # It is looked at all the same.
        for _ in range(3):
            wakes.get(timeout=60)
    assert told.get(timeout=60) is None
    assert watcher.check() is None
    while not wakes.empty():
        wakes.get()
    (tmp_path / "web.toml").symlink_to("nowhere")
    wakes.get(timeout=60)
    watcher.stop()


@pytest.mark.parametrize("limit", [no_instances, no_threads])
def test_refs_are_watched_once_the_kernel_lets_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: Limit
) -> None:
    (tmp_path / "refs").mkdir()
    woken = threading.Event()
    watcher = RefWatcher(tmp_path, woken.set)
    with limit(monkeypatch):
        assert "can't watch" in (watcher.check() or "")
        assert "can't watch" in (watcher.check() or "")
    assert watcher.check() is None
    (tmp_path / "refs" / "main").write_text("x")
    assert woken.wait(10)
    watcher.stop()


def test_one_that_never_watched_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = RefWatcher(tmp_path, lambda: None)
    with no_instances(monkeypatch):
        watcher.check()
    watcher.stop()
