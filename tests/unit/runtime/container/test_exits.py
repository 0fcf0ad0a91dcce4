"""The exit of a run, by what conmon wrote and what the kernel still knows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tank_agent.journal.records import Exit
from tank_agent.linux import pidfd
from tank_agent.runtime.container.exits import RunWatcher, read_exit, unknown_exit
from tank_agent.runtime.container.launch import record_of
from tank_agent.runtime.run import LiveRun
from tests.support.fake_runtime import launch

NOW = 1000.0
KERNEL_KEEPS_THE_STATUS = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15)


def directory(path: Path, exit_: str, *, memory_ran_out: float | None = None) -> Path:
    """Make a run's directory; memory ran out so many seconds before the end."""
    (path / "exit").write_text(exit_)
    if memory_ran_out is not None:
        ended = (path / "exit").stat().st_mtime
        (path / "oom").touch()
        os.utime(path / "oom", (ended - memory_ran_out, ended - memory_ran_out))
    return path


@contextmanager
def ended(command: str) -> Iterator[int]:
    """Give a pidfd of a process that ended and was reaped."""
    with subprocess.Popen(
        [sys.executable, "-IS", "-c", f"input(); {command}"], stdin=subprocess.PIPE
    ) as child:
        process = pidfd.open_process(child.pid)
        assert process is not None
        child.communicate(b"\n")
    try:
        yield process
    finally:
        os.close(process)


def test_nothing_is_known_before_conmon_wrote_it(tmp_path: Path) -> None:
    assert read_exit(tmp_path, None, NOW) is None
    assert read_exit(directory(tmp_path, ""), None, NOW) is None


@pytest.mark.parametrize(
    ("written", "exit_"),
    [
        ("0", Exit(at=NOW, code=0)),
        ("128", Exit(at=NOW, code=128)),
        ("137", Exit(at=NOW, signal=9)),
        ("143", Exit(at=NOW, signal=15)),
        (str(128 + signal.SIGRTMAX), Exit(at=NOW, signal=signal.SIGRTMAX)),
        ("255", Exit(at=NOW, code=255)),
    ],
)
def test_without_the_kernel_a_high_code_is_a_signal(tmp_path: Path, written: str, exit_: Exit) -> None:
    assert read_exit(directory(tmp_path, written), None, NOW) == exit_


@pytest.mark.skipif(not KERNEL_KEEPS_THE_STATUS, reason="PIDFD_GET_INFO has no exit status before Linux 6.15")
def test_the_kernel_tells_a_code_from_a_signal(tmp_path: Path) -> None:
    with ended("raise SystemExit(137)") as process:
        assert read_exit(directory(tmp_path, "137"), process, NOW) == Exit(at=NOW, code=137)
        lost = unknown_exit(process, NOW)
        assert (lost.code, lost.signal) == (137, None)
    with ended("import os; os.kill(os.getpid(), 9)") as process:
        assert read_exit(directory(tmp_path, "137"), process, NOW) == Exit(at=NOW, signal=9)
        lost = unknown_exit(process, NOW)
        assert (lost.code, lost.signal) == (None, 9)


@pytest.mark.parametrize(
    ("written", "before", "oom"),
    [
        ("137", 0.5, True),
        ("137", 60.0, False),
        ("137", None, False),
        ("143", 0.5, False),
        # A shell whose child was killed.
        ("1", 0.5, True),
        ("0", 0.5, False),
    ],
)
def test_memory_ran_out_only_if_it_did_at_the_end(
    tmp_path: Path, written: str, before: float | None, *, oom: bool
) -> None:
    found = read_exit(directory(tmp_path, written, memory_ran_out=before), None, NOW)
    assert found is not None
    assert found.oom is oom


def test_of_a_run_without_monitor_the_reason_is_told() -> None:
    lost = unknown_exit(None, NOW)
    assert (lost.code, lost.signal) == (None, None)
    assert lost.reason is not None
    assert "output and exit code are lost" in lost.reason


def test_an_end_that_cannot_be_dealt_with_keeps_no_other_from_being_seen(tmp_path: Path) -> None:
    seen = threading.Event()

    def wake(pod: str) -> None:
        if pod == "fails":
            raise ZeroDivisionError
        seen.set()

    watcher = RunWatcher(wake, lambda: NOW)
    pids = [os.posix_spawn("/bin/true", ["true"], {}) for _ in range(2)]
    runs = []
    for pod, pid in zip(("fails", "goes-on"), pids, strict=True):
        record = record_of(launch(pod=pod), identifier=pod, cgroup=f"/{pod}", created_at=NOW)
        runs.append(LiveRun(record=record, directory=tmp_path, started=True, monitor=os.pidfd_open(pid)))
        watcher.watch(runs[-1])
    assert seen.wait(10.0)
    assert watcher.alive()
    for run in runs:
        watcher.forget(run)
    watcher.close()
    for pid in pids:
        os.waitpid(pid, 0)
