"""Jobs on a real agent, whose clock the test sets."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tank_agent.reconcile import jobs as steps
from tests.support.agent import Agent, ended, running_agent, wait_for
from tests.support.images import busybox_layout

_CLOCK = Path(__file__).parents[1] / "support/other_clock.py"
NIGHTLY = 'schedule = "0 3 * * *"\ntime_zone = "UTC"\n'
DAY = 86400.0


def printed_in_runs(agent: Agent, pod: str, container: str = "app") -> list[str]:
    """Return what a container printed in the runs of a job, which have logs of their own."""
    runs = sorted((agent.data / "logs" / pod / "runs").glob("*"), key=lambda path: int(path.name))
    files = [path / f"{container}.log" for path in runs]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [line.split(" ", 3)[3] for line in lines]


class Clocked(Agent):
    """An agent whose clock stands at noon when it begins, and goes on from where it is set."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.offset = home / "offset"
        self.as_boot("")
        self.set("2026-11-29 12:00:00")

    def as_boot(self, name: str) -> None:
        """Let the next agent be one of another boot."""
        self.through = [sys.executable, "-P", str(_CLOCK), str(self.offset), name]

    def set(self, moment: str) -> None:
        """Set the agent's clock (UTC)."""
        offset = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() - time.time()
        new = self.offset.with_suffix(".new")
        new.write_text(str(offset))
        new.rename(self.offset)

    def job(self, script: str, *, head: str = NIGHTLY, extra: str = "") -> Path:
        return self.write("job", self.pod_text(command=["/bin/sh", "-c", script], head=head, extra=extra))

    def output(self, pod: str, container: str = "app") -> list[str]:
        """Return what a container printed as a service, and then in all runs of the job."""
        return [*super().output(pod, container), *printed_in_runs(self, pod, container)]

    def scheduled(self) -> None:
        self.wait_phase("job", "scheduled")

    def told(self, kind: str) -> list[str]:
        return [event.message for event in self.client.events() if event.type == kind]

    def wait_told(self, kind: str, count: int = 1) -> list[str]:
        wait_for(lambda: len(self.told(kind)) >= count, f"{count} {kind}; {self.log.read_text()[-1500:]}")
        found = self.told(kind)
        assert len(found) == count, found
        return found


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Clocked]:
    agent = Clocked(tmp_path)
    with ended(agent):
        yield agent


@pytest.fixture
def agent(stopped: Clocked) -> Clocked:
    stopped.start()
    return stopped


def test_a_job_runs_at_its_time_and_leaves_nothing_between_its_runs(agent: Clocked) -> None:
    agent.job("echo dumped")
    agent.scheduled()
    assert left_of_runs(agent) == []
    agent.set("2026-11-30 03:00:00")
    agent.wait_told("job-succeeded")
    assert agent.output("job") == ["dumped"]
    agent.scheduled()
    wait_for(lambda: not left_of_runs(agent), f"nothing of the run is left: {left_of_runs(agent)}")
    agent.set("2026-12-01 03:00:00")
    agent.wait_told("job-succeeded", 2)
    assert [text.partition(":")[0] for text in agent.told("job-started")] == ["run 1 begins", "run 2 begins"]


def left_of_runs(agent: Agent) -> list[str]:
    """Return the processes, mounts, network namespaces and files of runs."""
    assert agent.process is not None
    own = (f"process {agent.process.pid}:", "cgroup ", f"file {agent.run}/pods/")
    return [line for line in agent.leftovers() if not line.startswith(own)]


def test_a_failed_job_is_loud_until_it_succeeds(agent: Clocked) -> None:
    agent.job("echo oh no; exit 3")
    agent.scheduled()
    agent.set("2026-11-30 03:00:00")
    (said,) = agent.wait_told("job-failed")
    assert said.startswith("run 1 failed after ")
    assert said.endswith(": container app ended with exit code 3; see `tank logs job --run 1`")
    agent.scheduled()
    assert "run 1 failed: container app ended with exit code 3" in agent.statuses("job")[0]["error"]
    agent.job("echo mended")
    wait_for(lambda: agent.statuses("job")[0]["generation"] == 2, "it is pushed")
    agent.set("2026-12-01 03:00:00")
    agent.wait_told("job-succeeded")
    agent.scheduled()
    assert agent.statuses("job")[0]["error"] is None


def test_a_run_on_failure_is_tried_again_within_it(agent: Clocked) -> None:
    text = f'{NIGHTLY}restart = "on-failure"\n[[volumes]]\nname = "data"\n'
    mount = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
    agent.job("echo x >> /data/tries; test $(cat /data/tries | wc -l) = 3", head=text, extra=mount)
    agent.scheduled()
    agent.set("2026-11-30 03:00:00")
    agent.wait_told("job-succeeded")
    assert (agent.data / "volumes/job/data/tries").read_text() == "x\nx\nx\n"
    assert not agent.told("job-failed")


def test_a_run_that_takes_too_long(agent: Clocked) -> None:
    agent.job("echo begins; sleep 1000", head=f'{NIGHTLY}timeout = "5s"\n')
    agent.scheduled()
    agent.set("2026-11-30 03:00:00")
    (said,) = agent.wait_told("job-failed")
    assert re.search(r"run 1 timed out after \d+s: it ran for longer than 5s; see ", said), said
    agent.scheduled()
    assert agent.output("job") == ["begins"]


def test_an_agent_that_crashes_in_a_run_adopts_it(agent: Clocked) -> None:
    agent.job("echo begins; while [ ! -e /go ]; do sleep 0.05; done; echo ends")
    agent.scheduled()
    agent.set("2026-11-30 03:00:00")
    agent.wait_phase("job", "running")
    pid = agent.pid("job")
    agent.kill()
    agent.start()
    agent.wait_phase("job", "running")
    assert agent.pid("job") == pid
    agent.kill()
    # It ends while no agent is there.
    go = Path(f"/proc/{pid}/root/go")
    go.touch()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "it ends")
    agent.start()
    agent.wait_told("job-succeeded")
    assert agent.output("job") == ["begins", "ends"]


def test_a_push_does_not_kill_a_run_and_counts_from_the_next(agent: Clocked) -> None:
    agent.job("echo old; while [ ! -e /go ]; do sleep 0.05; done; echo old ends")
    agent.scheduled()
    agent.set("2026-11-30 03:00:00")
    agent.wait_phase("job", "running")
    pid = agent.pid("job")
    agent.job("echo new")
    wait_for(lambda: agent.statuses("job")[0]["generation"] == 2, "it is pushed")
    # What is told before the push is told after it.
    newest = agent.home / "job.toml"
    newest.write_text(agent.pod_text(command=["/bin/sh", "-c", "echo newest"], head=NIGHTLY))
    planned = agent.tank("plan", str(newest)).stdout
    assert "run 1 goes on as it began; the change counts from the next run on" in planned
    assert "stop container" not in planned
    agent.set("2026-12-01 03:00:00")
    (said,) = agent.wait_told("job-skipped")
    assert "run 1 still goes on since 2026-11-30T03:00:" in said
    assert agent.pid("job") == pid
    Path(f"/proc/{pid}/root/go").touch()
    agent.wait_told("job-succeeded")
    agent.set("2026-12-02 03:00:00")
    agent.wait_told("job-succeeded", 2)
    assert agent.output("job") == ["old", "old ends", "new"]
    # By hand, the older spec is for the next run, and there is no rollout to go wrong.
    assert agent.tank("rollback", "job").returncode == 0
    assert not agent.told("update-started")


def test_a_service_becomes_a_job_and_a_service_again(agent: Clocked) -> None:
    serve = "trap 'exit 0' TERM; echo serves; while :; do sleep 1000 & wait $!; done"
    agent.job(serve, head="")
    agent.wait_phase("job", "running")
    agent.job(serve)
    agent.scheduled()
    agent.set("2026-11-30 03:00:00")
    agent.wait_phase("job", "running")
    pid = agent.pid("job")
    agent.job(serve, head="")
    # The run goes on to its end, and the service begins.
    wait_for(lambda: agent.statuses("job")[0]["generation"] == 3, "it is pushed")
    os.kill(pid, signal.SIGTERM)
    agent.wait_told("job-succeeded")
    agent.wait_phase("job", "running")
    wait_for(lambda: agent.output("job") == ["serves"] * 3, "it served twice, and ran once")
    assert printed_in_runs(agent, "job") == ["serves"]


@pytest.mark.parametrize("catch_up", [True, False])
def test_what_came_while_no_agent_was_there(agent: Clocked, catch_up: bool) -> None:
    agent.job("echo ran", head=f"{NIGHTLY}catch_up = {str(catch_up).lower()}\n")
    agent.scheduled()
    agent.kill()
    agent.set("2026-12-05 12:00:00")
    agent.start()
    if catch_up:
        agent.wait_told("job-succeeded")
        (said,) = agent.told("job-started")
        assert "it catches up on what was missed since 2026-11-30T03:00:00Z" in said
    else:
        agent.wait_told("job-missed")
        assert agent.output("job") == []
    agent.set("2026-12-06 03:00:00")
    agent.wait_told("job-succeeded", 2 if catch_up else 1)


def test_a_clock_that_goes_back_runs_nothing_twice(agent: Clocked) -> None:
    agent.job("echo ran")
    agent.scheduled()
    agent.set("2026-11-30 03:00:00")
    agent.wait_told("job-succeeded")
    agent.set("2026-11-30 02:59:58")
    time.sleep(4)
    assert agent.output("job") == ["ran"]


@pytest.mark.parametrize("restart", ["never", "on-failure"])
def test_a_shutdown_in_a_run(stopped: Clocked, restart: str) -> None:
    agent = stopped
    agent.start("--stop-pods")
    serve = "trap 'exit 1' TERM; echo begins; while :; do sleep 1000 & wait $!; done"
    agent.job(serve, head=f'{NIGHTLY}restart = "{restart}"\n')
    agent.scheduled()
    agent.set("2026-11-30 03:00:00")
    agent.wait_phase("job", "running")
    wait_for(lambda: agent.output("job") == ["begins"], "it runs")
    assert agent.stop() == 0
    shutil.rmtree(agent.run)
    agent.as_boot("another")
    agent.start()
    if restart == "never":
        (said,) = agent.wait_told("job-failed")
        assert "it was stopped before its end" in said
        agent.scheduled()
    else:
        agent.wait_phase("job", "running")
        wait_for(lambda: agent.output("job") == ["begins"] * 2, "it goes on")
        assert len(agent.told("job-started")) == 1


def test_a_run_waits_for_the_pods_before_it_as_long_as_it_may(agent: Clocked) -> None:
    agent.job("echo ran", head=f'{NIGHTLY}after = ["db"]\ntimeout = "5s"\n')
    agent.scheduled()
    agent.set("2026-11-30 03:00:00")
    (said,) = agent.wait_told("job-failed")
    assert "timed out" in said
    agent.write("db", agent.pod_text())
    agent.wait_phase("db", "running")
    agent.set("2026-12-01 03:00:00")
    agent.wait_told("job-succeeded")
    assert agent.output("job") == ["ran"]


# The points at which the agent is killed in a run, and those that have a test of their own.
IN_A_RUN = ["job:begun", "loop:start-recorded", "runtime:started", "runtime:removed", "job:ended"]
ELSEWHERE = {"job:arranged", "job:passed-over", "job:given-up", "job:renewed", "job:retired", "job:fetched"}


def test_every_fault_point_is_tried() -> None:
    named = set(re.findall(r'"(job:[a-z-]+)"', Path(steps.__file__).read_text()))
    assert named == {point for point in IN_A_RUN if point.startswith("job:")} | ELSEWHERE


@pytest.mark.parametrize("point", IN_A_RUN)
def test_killed_in_a_run(agent: Clocked, point: str) -> None:
    agent.job("echo ran")
    agent.scheduled()
    agent.kill()
    agent.launch(fault=point)
    agent.set("2026-11-30 03:00:00")
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_told("job-succeeded")
    agent.scheduled()
    assert agent.output("job") == ["ran"]
    assert len(agent.told("job-started")) == 1


def test_killed_around_runs(agent: Clocked) -> None:
    """Kill the agent at each step that begins or ends no run."""

    def killed(point: str) -> None:
        assert agent.died() == -signal.SIGKILL, point
        agent.start()

    def next_fails_at(point: str) -> None:
        agent.kill()
        agent.launch(fault=point)

    next_fails_at("job:arranged")
    agent.job("sleep 1000", head=f'{NIGHTLY}timeout = "1s"\n')
    killed("job:arranged")
    agent.scheduled()
    next_fails_at("job:passed-over")
    agent.set("2026-11-30 12:00:00")
    killed("job:passed-over")
    agent.wait_told("job-missed")
    next_fails_at("job:given-up")
    agent.set("2026-12-01 03:00:00")
    killed("job:given-up")
    agent.wait_told("job-failed")
    agent.scheduled()
    # A run that waits for its image takes a mended file at once.
    image = f'[[containers]]\nname = "app"\nimage = "oci:{agent.home}/nowhere"\n'
    agent.write("job", f"{NIGHTLY}{image}")
    wait_for(lambda: agent.statuses("job")[0]["generation"] == 2, "it is pushed")
    agent.scheduled()
    agent.set("2026-12-02 03:00:00")
    wait_for(lambda: len(agent.told("job-started")) == 2, "its run has begun")
    next_fails_at("job:renewed")
    agent.job("echo mended")
    killed("job:renewed")
    agent.wait_told("job-succeeded")
    assert agent.output("job") == ["mended"]
    agent.scheduled()
    next_fails_at("job:retired")
    agent.job("sleep 1000", head="")
    killed("job:retired")
    agent.wait_phase("job", "running")


def test_an_image_is_pulled_when_its_job_is_declared(stopped: Clocked) -> None:
    agent = stopped
    layout = busybox_layout(agent.home / "image")
    away = layout.rename(agent.home / "away")
    agent.launch(fault="job:fetched")
    text = f'{NIGHTLY}[[containers]]\nname = "app"\nimage = "oci:{layout}"\ncommand = ["/bin/echo", "ran"]\n'
    agent.write("job", text)
    wait_for(lambda: agent._answers() and agent.told("pull-failed"), "its image is asked for")
    assert (agent.status("job") or {})["phase"] == "scheduled"
    away.rename(layout)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.scheduled()
    # At its time, nobody asks for it any more.
    wait_for(lambda: "are here" in agent.log.read_text(), "that is noted")
    layout.rename(away)
    agent.set("2026-11-30 03:00:00")
    agent.wait_told("job-succeeded")
    assert agent.output("job") == ["ran"]


def test_a_job_of_every_minute_by_the_clock_of_the_machine(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        text = agent.pod_text(command=["/bin/echo", "ran"], head='schedule = "* * * * *"\n')
        agent.write("job", text)
        agent.wait_phase("job", "scheduled")
        wait_for(lambda: printed_in_runs(agent, "job"), "it ran", 110)
        began = next(event for event in agent.client.events() if event.type == "job-started")
        assert datetime.fromisoformat(began.at).second < 20
