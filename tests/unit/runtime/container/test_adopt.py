"""Adoption of the runs of a former agent, and removal of what else it left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tank_agent.linux import pidfd
from tank_agent.runtime.container import conmon
from tank_agent.runtime.container.adopt import _end, _main_process, _open_member, adopt_all
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.run import RECORD, LiveRun, RunRecord, RunState, Stopping, read_file, write_file
from tests.support.agent import wait_for
from tests.support.fake_runtime import FakeRuntime, launch


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[FakeRuntime]:
    made = FakeRuntime(tmp_path)
    yield made
    made.end()


@pytest.fixture(autouse=True)
def monitors(runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the fake conmons by their pid files: they are not root's, and are called python."""

    def found(directory: Path) -> dict[str, int]:
        files = {path.parent.name: int(path.read_text()) for path in directory.glob("*/conmon.pid")}
        return {name: pid for name, pid in files.items() if _alive(pid)}

    monkeypatch.setattr(conmon, "monitors", found)


def _alive(pid: int) -> bool:
    process = pidfd.open_process(pid)
    if process is None:
        return False
    gone = pidfd.ended(process)
    os.close(process)
    return not gone


def agent(runtime: FakeRuntime) -> Containers:
    return Containers(runtime.run, runtime.data, runtime.tools, wake=lambda _: None, now=lambda: 1000.0)


def left_by_a_former_agent(runtime: FakeRuntime, *argv: str, start: bool = True) -> tuple[str, int]:
    """Make a run, let its agent go, and return its id and its main process."""
    former = agent(runtime)
    run = former.create(launch(*argv))
    assert run.pid is not None
    if start:
        former.start(run)
    former.close()
    runtime.group(run.record.cgroup, cgroup_procs=f"{run.pid}\n")
    return run.record.id, run.pid


@pytest.fixture
def adopted(runtime: FakeRuntime) -> Iterator[_Adoption]:
    made = _Adoption(runtime)
    yield made
    made.close()


class _Adoption:
    """A new agent; its cgroup files stand for none that could be removed."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime
        self._containers: Containers | None = None

    def __call__(self) -> tuple[LiveRun, ...]:
        self._containers = agent(self._runtime)
        return adopt_all(self._containers, self._runtime.tools, 2000.0)

    def close(self) -> None:
        if self._containers is not None:
            self._containers.close()


def test_what_runs_is_taken_over_and_its_end_seen(runtime: FakeRuntime, adopted: _Adoption) -> None:
    identifier, pid = left_by_a_former_agent(runtime, "sleep", "1000")
    (run,) = adopted()
    assert (run.record.id, run.pid, run.state) == (identifier, pid, RunState.RUNNING)
    assert run.process is not None
    pidfd.send_signal(run.process, signal.SIGTERM)
    wait_for(lambda: run.exit is not None, "its end is seen")
    assert run.exit is not None
    assert run.exit.signal == signal.SIGTERM


def test_what_ended_meanwhile_ended_when_conmon_wrote_it(runtime: FakeRuntime, adopted: _Adoption) -> None:
    identifier, _ = left_by_a_former_agent(runtime, "sh", "-c", "exit 3")
    exit_file = runtime.run / "containers" / identifier / conmon.EXIT
    monitor = int((exit_file.parent / "conmon.pid").read_text())
    wait_for(lambda: not _alive(monitor), "it ended, and its monitor")
    os.utime(exit_file, (1234.0, 1234.0))
    (run,) = adopted()
    assert run.state is RunState.EXITED
    assert run.exit is not None
    assert (run.exit.code, run.exit.at) == (3, 1234.0)
    assert not run.lost


def test_a_run_whose_monitor_went_is_an_orphan(runtime: FakeRuntime, adopted: _Adoption) -> None:
    identifier, pid = left_by_a_former_agent(runtime, "sleep", "1000")
    monitor = pidfd.open_process(int((runtime.run / "containers" / identifier / "conmon.pid").read_text()))
    assert monitor is not None
    pidfd.send_signal(monitor, signal.SIGKILL)
    assert pidfd.wait(monitor, 5000)
    os.close(monitor)
    (run,) = adopted()
    assert (run.state, run.pid, run.lost) == (RunState.ORPHANED, pid, True)


def test_what_never_began_is_partial_and_its_monitor_killed(runtime: FakeRuntime, adopted: _Adoption) -> None:
    identifier, _ = left_by_a_former_agent(runtime, "sleep", "1000", start=False)
    monitor = int((runtime.run / "containers" / identifier / "conmon.pid").read_text())
    (run,) = adopted()
    assert run.state is RunState.PARTIAL
    wait_for(lambda: not _alive(monitor), "the monitor is killed")


def test_a_number_that_is_anothers_by_now_is_not_believed(runtime: FakeRuntime, adopted: _Adoption) -> None:
    identifier, pid = left_by_a_former_agent(runtime, "sleep", "1000")
    (runtime.run / "containers" / identifier / conmon.CONTAINER_PID).write_text("1")
    runtime.group(f"/tank/web/{identifier}", cgroup_procs="")
    (run,) = adopted()
    assert run.process is None
    assert pid not in {run.pid, None}


def test_a_stop_in_progress_goes_on(runtime: FakeRuntime, adopted: _Adoption) -> None:
    identifier, _ = left_by_a_former_agent(runtime, "sleep", "1000")
    stopping = Stopping(deadline=77.0)
    write_file(runtime.run / "containers" / identifier, "stopping.json", stopping)
    (run,) = adopted()
    assert run.stopping == stopping


def test_a_run_whose_directory_was_removed_is_known_from_the_copy(
    runtime: FakeRuntime, adopted: _Adoption, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier, pid = left_by_a_former_agent(runtime, "sleep", "1000")
    shutil.rmtree(runtime.run / "containers" / identifier)
    # As in a PID namespace of its own.
    monkeypatch.setattr(pidfd, "numbers", lambda number: (number, 1))
    (run,) = adopted()
    assert (run.record.id, run.pid, run.state) == (identifier, pid, RunState.ORPHANED)
    assert read_file(run.directory / RECORD, RunRecord) == run.record
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: run.exit is not None, "its end is seen")


def test_what_belongs_to_no_run_is_swept(runtime: FakeRuntime, adopted: _Adoption) -> None:
    identifier, _ = left_by_a_former_agent(runtime, "sleep", "1000")
    (runtime.run / "containers" / "half-made").mkdir()
    (runtime.run / "crun" / "unknown").mkdir()
    (runtime.data / "overlay" / "unknown").mkdir()
    (runtime.hierarchy / "tank" / "gone" / "gone-app-1").mkdir(parents=True)
    (run,) = adopted()
    assert run.record.id == identifier
    assert not (runtime.run / "containers" / "half-made").exists()
    assert not (runtime.run / "crun" / "unknown").exists()
    assert (runtime.run / "crun" / identifier).exists()
    assert runtime.root_filesystems.removed == ["unknown"]
    assert not (runtime.hierarchy / "tank" / "gone").exists()


def test_a_process_is_a_member_though_the_agent_sees_only_part_of_the_groups(tmp_path: Path) -> None:
    """As in a container: what a process says of itself begins above of what is mounted at /sys/fs/cgroup."""
    cgroups = CgroupHost(mode="unified", hierarchies=(tmp_path,), base="/tank")
    group = cgroups.path("web", "web-app-1")
    (tmp_path / group.lstrip("/")).mkdir(parents=True)
    procs = tmp_path / group.lstrip("/") / "cgroup.procs"
    procs.write_text(f"{os.getpid()}\n")
    process = _open_member(os.getpid(), group, cgroups)
    assert process is not None
    os.close(process)
    procs.write_text("1\n")
    assert _open_member(os.getpid(), group, cgroups) is None


_NAMED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, os.fsencode(sys.argv[1]), 0, 0, 0)
if os.fork():
    os.write(1, b"named\\n")
sys.stdin.read()
"""


class _Group(CgroupHost, frozen=True, kw_only=True):
    pids: frozenset[int]

    def processes(self, path: str) -> frozenset[int]:
        return self.pids


@contextmanager
def _container(name: bytes) -> Iterator[frozenset[int]]:
    """Yield the processes of a PID namespace, two that call themselves something."""
    argv = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", _NAMED, os.fsdecode(name)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as unshare:
        assert unshare.stdout is not None
        assert unshare.stdout.readline() == b"named\n"
        (first,) = _children(unshare.pid)
        yield frozenset({first, *_children(first)})
        unshare.kill()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\x0cNSpid:\t7\t1", b"\rNSpid:\t1", b"a\x85b\x1cc"])
@pytest.mark.machine
def test_the_main_process_is_found_whatever_processes_call_themselves(name: bytes) -> None:
    with _container(name) as pids:
        for asked in (pids, pids - {min(pids)}):
            group = _Group(mode="unified", hierarchies=(), base="/tank", pids=asked)
            assert _main_process("/tank/web/one", group) == (min(pids) if min(pids) in asked else None)


def test_a_number_that_became_another_process_is_not_ended() -> None:
    group = _Group(mode="unified", hierarchies=(), base="/tank", pids=frozenset())
    with subprocess.Popen(["sleep", "60"]) as innocent:
        _end(innocent.pid, "/tank/web/one", group)
        assert innocent.poll() is None
        own = next(line for line in Path(f"/proc/{innocent.pid}/cgroup").read_text().splitlines())
        _end(innocent.pid, own.split(":", 2)[2], group)
        assert innocent.wait(10) == -signal.SIGKILL
