"""Runs from their making to their removal, with real processes under a fake conmon and a fake crun."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import pidfd
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.container.crun import StartFailed
from tank_agent.runtime.run import RECORD, STOPPING, LiveRun, RunRecord, RunState, Stopping, read_file
from tank_agent.spec.model import Container, Limits
from tests.support.agent import wait_for
from tests.support.fake_runtime import FakeRuntime, launch

SLEEP = ("sleep", "1000")


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[FakeRuntime]:
    made = FakeRuntime(tmp_path)
    yield made
    made.end()


class Woken(list[str]):
    """The pods that were woken."""


@pytest.fixture
def woken() -> Woken:
    return Woken()


@pytest.fixture
def containers(runtime: FakeRuntime, woken: Woken) -> Iterator[Containers]:
    made = Containers(runtime.run, runtime.data, runtime.tools, wake=woken.append, now=lambda: 1000.0)
    yield made
    made.close()


def started(containers: Containers, *argv: str, **changes: Any) -> LiveRun:
    run = containers.create(launch(*(argv or SLEEP), **changes))
    containers.start(run)
    return run


def ended(run: LiveRun) -> None:
    wait_for(lambda: run.exit is not None, "the end is seen")


def record_at(directory: Path) -> RunRecord:
    record = read_file(directory / RECORD, RunRecord)
    assert record is not None
    return record


def test_what_is_made_waits_until_it_is_started(containers: Containers, runtime: FakeRuntime) -> None:
    run = containers.create(launch(*SLEEP))
    assert run.state is RunState.PARTIAL
    assert containers.runs("web") == (run,)
    assert runtime.learnt == [runtime.run / "crun" / run.record.id / "seccomp.bpf"]
    containers.start(run)
    assert run.state is RunState.RUNNING
    assert runtime.calls() == [f"start -- {run.record.id}"]
    assert containers.processes() == {"web": (run.pid,)}


def test_the_record_says_what_runs_and_is_kept_twice(containers: Containers, runtime: FakeRuntime) -> None:
    run = started(containers)
    record = record_at(run.directory)
    assert record == run.record == record_at(runtime.root_filesystems.private(record.id))
    assert (record.pod, record.container, record.hash, record.settings) == (
        "web",
        "app",
        "hash-1",
        "settings-1",
    )
    assert record.cgroup == f"/tank/web/{record.id}"
    assert record.created_at == 1000.0
    status = (run.directory / "rootfs").stat()
    assert record.root == (status.st_dev, status.st_ino)


@pytest.mark.parametrize(
    ("command", "code", "number"),
    [("exit 0", 0, None), ("exit 3", 3, None), ("kill -KILL $$", None, 9), ("kill -TERM $$", None, 15)],
)
def test_an_end_is_seen_and_wakes_the_pod(
    containers: Containers, woken: Woken, command: str, code: int | None, number: int | None
) -> None:
    run = started(containers, "sh", "-c", command)
    ended(run)
    assert run.exit is not None
    assert (run.exit.code, run.exit.signal, run.exit.at, run.exit.oom) == (code, number, 1000.0, False)
    assert run.state is RunState.EXITED
    wait_for(lambda: woken == ["web"], "the pod is woken, once")


def test_without_its_monitor_a_run_goes_on_and_its_exit_is_lost(containers: Containers, woken: Woken) -> None:
    run = started(containers)
    assert run.monitor is not None
    assert run.process is not None
    pidfd.send_signal(run.monitor, signal.SIGKILL)
    wait_for(lambda: run.state is RunState.ORPHANED, "the monitor's end is seen")
    assert run.lost
    wait_for(lambda: woken == ["web"], "the pod is woken")
    pidfd.send_signal(run.process, signal.SIGKILL)
    ended(run)
    assert run.exit is not None
    assert run.exit.reason is not None
    assert "monitor (conmon) was killed" in run.exit.reason
    wait_for(lambda: woken == ["web", "web"], "the pod is woken again")


def test_an_end_that_no_event_reported_is_found_by_the_check(
    containers: Containers, woken: Woken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers._watcher, "_register", lambda *_: None)
    run = started(containers, "sh", "-c", "exit 4")
    assert run.monitor is not None
    assert pidfd.wait(run.monitor, 5000)
    assert run.exit is None
    containers.check()
    assert run.exit is not None
    assert run.exit.code == 4
    assert woken == ["web"]


def test_a_monitor_that_hangs_after_its_container_is_killed(
    containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(containers)
    assert run.monitor is not None
    assert run.process is not None
    pidfd.send_signal(run.monitor, signal.SIGSTOP)
    pidfd.send_signal(run.process, signal.SIGKILL)
    assert pidfd.wait(run.process, 5000)
    containers.check()
    assert run.ended_at is not None
    assert not pidfd.wait(run.monitor, 50)
    run.ended_at -= 60
    containers.check()
    ended(run)


def test_a_stop_sends_the_signal_and_counts_the_grace(containers: Containers, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    container = Container(name="app", stop_grace=7.0)
    trap = f"trap 'exit 5' USR1; touch {ready}; while :; do sleep 0.01; done"
    parameters = msgspec.structs.replace(launch("sh", "-c", trap).parameters, stop_signal="SIGUSR1")
    run = started(containers, container=container, parameters=parameters)
    wait_for(ready.exists, "it is ready")
    before = time.monotonic()
    containers.stop(run)
    ended(run)
    assert run.exit is not None
    assert run.exit.code == 5
    assert run.stopping is not None
    assert before + 7 <= run.stopping.deadline <= time.monotonic() + 7
    assert not run.stopping.killed
    assert read_file(run.directory / STOPPING, Stopping) == run.stopping


def test_a_kill_thaws_and_reaches_what_outlived_the_main_process(
    containers: Containers, runtime: FakeRuntime
) -> None:
    run = started(containers)
    group = runtime.group(run.record.cgroup, cgroup_freeze="1", cgroup_procs="")
    containers.kill(run)
    ended(run)
    assert run.exit is not None
    assert run.exit.signal == signal.SIGKILL
    assert (group / "cgroup.freeze").read_text() == "0"
    assert run.stopping is not None
    assert run.stopping.killed
    child = os.fork()
    if not child:
        os.execvp(SLEEP[0], SLEEP)
    (group / "cgroup.procs").write_text(f"{child}\n")
    containers.kill(run)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_what_the_runtime_refuses_is_left_to_be_removed(containers: Containers, runtime: FakeRuntime) -> None:
    with pytest.raises(StartFailed, match="no such program"):
        containers.create(launch("refused"))
    (run,) = containers.runs("web")
    assert run.state is RunState.PARTIAL
    assert (run.directory / RECORD).exists()
    containers.remove(run)
    assert containers.runs("web") == ()
    assert containers.pods() == frozenset()
    assert not run.directory.exists()
    assert runtime.root_filesystems.removed == [run.record.id]


def test_a_bundle_that_cannot_be_made_leaves_a_record(containers: Containers) -> None:
    wrong = msgspec.structs.replace(launch(*SLEEP).parameters, user="nobody-knows-me")
    with pytest.raises(Stalled):
        containers.create(launch(parameters=wrong))
    (run,) = containers.runs("web")
    assert record_at(run.directory).id == run.record.id


def test_a_removal_keeps_the_log_and_nothing_else(containers: Containers, runtime: FakeRuntime) -> None:
    run = started(containers, "true")
    ended(run)
    log = containers.log("web", "app")
    log.write_text("kept")
    (run.directory / "unknown").mkdir()
    containers.remove(run)
    assert log.read_text() == "kept"
    assert list(containers.directory.iterdir()) == []
    assert runtime.calls()[-1] == "delete --force --"
    assert not (runtime.run / "crun" / run.record.id).exists()
    assert (run.monitor, run.process) == (None, None)


def test_a_removal_waits_for_a_busy_group(containers: Containers, runtime: FakeRuntime) -> None:
    run = started(containers, "true")
    ended(run)
    busy = runtime.group(run.record.cgroup, cgroup_procs="")
    with pytest.raises(Retry, match="cgroup is still busy"):
        containers.remove(run)
    assert containers.runs("web") == (run,)
    assert (run.directory / RECORD).exists()
    (busy / "cgroup.procs").unlink()
    containers.remove(run)
    assert containers.runs("web") == ()


def test_the_check_mends_what_was_removed_and_sees_what_was_lost(
    containers: Containers, runtime: FakeRuntime
) -> None:
    run = started(containers, container=Container(name="app", limits=Limits(memory=64 << 20)))
    group = runtime.group(run.record.cgroup, memory_max=str(64 << 20), pids_max="max", cpu_max="max 100000")
    (run.directory / RECORD).unlink()
    (run.directory / "oom").touch()
    assert containers.check() == frozenset({"web"})
    assert record_at(run.directory) == run.record
    assert run.out_of_memory
    assert run.drift is None
    (group / "memory.max").write_text("max")
    containers.clear_out_of_memory(run)
    containers.check()
    assert run.drift is not None
    assert not run.out_of_memory
    run.looked = True
    assert containers.check() == frozenset()


def test_a_change_is_written_and_kept(containers: Containers, runtime: FakeRuntime) -> None:
    run = started(containers)
    group = runtime.group(run.record.cgroup, memory_max="max", pids_max="max", cpu_max="max 100000")
    run.drift = "lost"
    wanted = Container(name="app", limits=Limits(memory=1 << 26), stop_signal="SIGINT", stop_grace=1.0)
    containers.change(run, wanted, "settings-2")
    assert (group / "memory.max").read_text() == str(1 << 26)
    assert run.drift is None
    record = record_at(run.directory)
    assert record == run.record
    assert (record.settings, record.stop_signal, record.stop_grace) == ("settings-2", signal.SIGINT, 1.0)
    containers.change(run, Container(name="app"), "settings-3")
    assert run.record.stop_signal == signal.SIGTERM
    assert (group / "memory.max").read_text() == "max"


def test_a_change_that_fails_counts_for_its_settings(containers: Containers) -> None:
    run = started(containers)
    wanted = Container(name="app", limits=Limits(memory=1 << 26))
    for settings, count in (("settings-2", 1), ("settings-2", 2), ("settings-3", 1)):
        with pytest.raises(Stalled, match="no cgroup controller"):
            containers.change(run, wanted, settings)
        assert run.failure is not None
        assert (run.failure.settings, run.failure.count) == (settings, count)
        assert run.failure.retry_at > time.monotonic()
    assert run.record.settings == "settings-1"


def test_usage_is_of_what_runs(containers: Containers, runtime: FakeRuntime) -> None:
    run = started(containers)
    runtime.group(run.record.cgroup, memory_current="4096", pids_current="2", cpu_stat="usage_usec 1500000")
    used = containers.measured("web")["app"]
    assert (used.memory, used.threads, used.cpu) == (4096, 2, 1.5)
    containers.kill(run)
    ended(run)
    assert containers.measured("web") == {}


def test_what_outlives_the_agent_is_only_let_go(runtime: FakeRuntime) -> None:
    containers = Containers(runtime.run, runtime.data, runtime.tools, wake=lambda _: None)
    run = started(containers)
    pid = run.pid
    containers.close()
    assert not containers.alive()
    assert (run.monitor, run.process) == (None, None)
    assert pid is not None
    command = Path(f"/proc/{pid}/cmdline")
    wait_for(lambda: command.read_bytes() == b"sleep\x001000\x00", "it runs")


def test_a_look_at_the_mounts_of_a_pod_holds_on_to_no_run_that_ended(
    containers: Containers, tmp_path: Path
) -> None:
    run = started(containers, "true")
    ended(run)
    before = sorted(Path("/proc/self/fd").iterdir())
    containers.look("web", tmp_path)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_the_configuration_has_what_the_tools_chose(containers: Containers, runtime: FakeRuntime) -> None:
    run = started(containers)
    config = json.loads((run.directory / "config.json").read_bytes())
    assert config["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_ERRNO"}
    assert config["linux"]["cgroupsPath"] == run.record.cgroup
    assert config["process"]["args"] == list(SLEEP)
