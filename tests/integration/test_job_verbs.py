"""Jobs as people use them: `tank run`, the logs of each run, and what status, why, plan and wait say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tank_agent import Client
from tank_agent.errors import Stalled
from tests.support.agent import Agent, running_agent, wait_for

# Its time does not come in a test.
YEARLY = 'schedule = "0 3 1 1 *"\ntime_zone = "Europe/Berlin"\n'


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("jobs")) as started:
        yield started


@pytest.fixture
def agent(shared: Agent) -> Iterator[Agent]:
    """Return the agent of all tests here, whose pods are removed after each."""
    yield shared
    for file in shared.pods.iterdir():
        file.unlink()
        shared.wait_gone(file.stem)


def declare(agent: Agent, script: str, name: str = "nightly", head: str = "", extra: str = "") -> None:
    """Declare a job of one container, and wait until the agent has it."""
    before = (agent.status(name) or {}).get("generation", 0)
    agent.write(name, agent.pod_text(command=["/bin/sh", "-c", script], head=YEARLY + head, extra=extra))
    wait_for(lambda: (agent.status(name) or {}).get("generation", 0) > before, f"job {name}")
    wait_for(lambda: job_of(agent, name)["next_run"], "its next time")


def job_of(agent: Agent, name: str = "nightly") -> dict[str, Any]:
    status = agent.status(name)
    assert status is not None
    job: dict[str, Any] = status["job"]
    return job


def wait_runs(agent: Agent, count: int, name: str = "nightly") -> list[dict[str, Any]]:
    """Wait until so many runs have ended, and return those that are kept."""

    def over() -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = job_of(agent, name)["runs"]
        return runs if runs and runs[-1]["number"] >= count and runs[-1]["ended"] else []

    return wait_for(over, f"run {count} has ended")


class Session:
    """A `tank` that goes on, with its output in a file."""

    def __init__(self, agent: Agent, *arguments: str) -> None:
        self.out = agent.home / f"out-{len(list(agent.home.glob('out-*')))}"
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tank_agent", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                env={**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock")},
            )

    def wait_says(self, text: str) -> None:
        wait_for(lambda: text in self.out.read_text(), f"{text!r} is printed")

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return the exit code and what it said on stderr."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors.decode()


def gate(agent: Agent) -> tuple[Path, str, str]:
    """Return a directory in a job's volume, a script that waits until `go` is there, and tables for it."""
    place = agent.home / "gate"
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    head = f'[[volumes]]\nname = "gate"\nhost = "{place}"\n'
    mount = '[[containers.mounts]]\nvolume = "gate"\npath = "/gate"\n'
    return place, "until test -e /gate/go; do sleep 0.1; done", head + "\0" + mount


def gated(agent: Agent, script: str, name: str = "nightly", head: str = "") -> Path:
    """Declare a job that runs a script and then waits until `go` is in the directory that is returned."""
    place, wait, tables = gate(agent)
    top, mount = tables.split("\0")
    declare(agent, script.replace("WAIT", wait), name, head=head + top, extra=mount)
    return place


# --- tank run -----------------------------------------------------------------------------------------------


def test_run_prints_what_the_job_prints_and_ends_as_it_does(agent: Agent) -> None:
    place = gated(agent, "echo first; WAIT; echo second")
    session = Session(agent, "run", "nightly")
    # It comes as it is printed, not at the end.
    session.wait_says("first\n")
    assert session.process.poll() is None
    (place / "go").touch()
    code, told = session.ended()
    assert (code, session.out.read_text()) == (0, "first\nsecond\n")
    assert told.startswith("run 1 of nightly succeeded after ")
    assert told.count("\n") == 1
    (run,) = wait_runs(agent, 1)
    assert (run["cause"], run["outcome"], run["exits"]["app"]["code"]) == ("manual", "succeeded", 0)


def test_a_failed_run_has_the_exit_code_of_its_container(agent: Agent) -> None:
    declare(agent, "echo trying; exit 7")
    done = agent.tank("run", "nightly")
    assert (done.returncode, done.stdout) == (7, "trying\n")
    assert done.stderr.startswith("run 1 of nightly failed after ")
    assert done.stderr.endswith(": container app ended with exit code 7\n")
    assert len(done.stderr.splitlines()) == 1


def test_a_run_that_a_signal_ends_has_its_number_and_128(agent: Agent) -> None:
    declare(agent, "echo begun; exec sleep 1000")
    session = Session(agent, "run", "nightly")
    session.wait_says("begun")
    os.kill(agent.pid("nightly"), signal.SIGKILL)
    code, told = session.ended()
    assert code == 128 + signal.SIGKILL, told
    assert "run 1 of nightly failed after " in told


def test_a_run_that_times_out_ends_with_1(agent: Agent) -> None:
    declare(agent, "echo begun; exec sleep 1000", head='timeout = "5s"\n')
    done = agent.tank("run", "nightly")
    assert (done.returncode, done.stdout) == (1, "begun\n")
    assert "run 1 of nightly timed out after " in done.stderr
    assert "longer than 5s" in done.stderr


def test_several_containers_are_told_apart_and_the_first_that_fails_counts(agent: Agent) -> None:
    words = '["/bin/sh", "-c", "sleep 1; exit 9"]'
    second = f'[[containers]]\nname = "other"\nrootfs = "{agent.rootfs}"\ncommand = {words}'
    declare(agent, "echo hello; exit 4", extra=second)
    done = agent.tank("run", "nightly")
    assert (done.returncode, done.stdout) == (4, "app | hello\n")


def test_who_leaves_does_not_end_the_run(agent: Agent) -> None:
    place = gated(agent, "echo begun; WAIT; echo done")
    session = Session(agent, "run", "nightly")
    session.wait_says("begun")
    session.process.send_signal(signal.SIGINT)
    assert session.ended() == (130, "run 1 of nightly goes on; `tank logs nightly -f` follows it\n")
    assert job_of(agent)["run"]["number"] == 1
    follower = Session(agent, "logs", "nightly", "-f")
    follower.wait_says("begun")
    (place / "go").touch()
    assert follower.ended()[0] == 0
    assert follower.out.read_text() == "begun\ndone\n"
    assert wait_runs(agent, 1)[0]["outcome"] == "succeeded"


def test_a_second_run_is_refused_while_one_is_under_way(agent: Agent) -> None:
    place = gated(agent, "WAIT")
    done = agent.tank("run", "-d", "nightly", "-o", "json")
    assert json.loads(done.stdout) == {"pod": "nightly", "number": 1}
    wait_for(lambda: job_of(agent)["run"], "it is under way")
    done = agent.tank("run", "nightly")
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"run 1 of nightly is under way since {job_of(agent)['run']['begun']}" in done.stderr
    assert "`tank logs nightly -f`" in done.stderr
    (place / "go").touch()
    wait_runs(agent, 1)
    assert Client(agent.run / "tank.sock").run("nightly").number == 2
    assert agent.tank("wait", "nightly", "--for", "scheduled").returncode == 0
    assert job_of(agent)["runs"][-1]["number"] == 2


def test_what_is_no_job_is_not_run(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    done = agent.tank("run", "web")
    assert done.returncode == 1
    assert "pod web is no job" in done.stderr
    assert "`tank status web`" in done.stderr
    assert agent.tank("run", "nobody").returncode == 1
    with pytest.raises(Stalled):
        agent.client.run("web")
    done = agent.tank("logs", "web", "--run", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "pod web is no job" in done.stderr


def test_json_has_the_lines_and_at_last_the_run(agent: Agent) -> None:
    declare(agent, "echo hello; exit 3")
    done = agent.tank("run", "nightly", "-o", "json")
    line, last = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, line["message"], line["pod"]) == (3, "hello", "nightly")
    assert (last["run"]["outcome"], last["run"]["exits"]["app"]["code"]) == ("failed", 3)


def test_a_killed_agent_is_told_and_the_run_goes_on(agent: Agent) -> None:
    place = gated(agent, "echo begun; WAIT; echo done")
    session = Session(agent, "run", "nightly")
    session.wait_says("begun")
    agent.kill()
    code, told = session.ended()
    assert code == 1
    assert "run 1 of nightly goes on without it" in told
    assert "`tank logs nightly --run 1 -f`" in told
    agent.start()
    (place / "go").touch()
    (run,) = wait_runs(agent, 1)
    assert run["outcome"] == "succeeded"
    assert agent.tank("logs", "nightly").stdout == "begun\ndone\n"


# --- logs ---------------------------------------------------------------------------------------------------


def test_each_run_has_its_log_and_the_last_ten_are_kept(agent: Agent) -> None:
    declare(agent, "echo from $HOSTNAME; cat /proc/sys/kernel/random/uuid")
    assert "has not run yet" in agent.tank("logs", "nightly").stderr
    printed = {number: agent.tank("run", "nightly").stdout for number in range(1, 13)}
    assert len({*printed.values()}) == 12
    assert agent.tank("logs", "nightly").stdout == printed[12]
    for given, number in ((12, 12), (3, 3), (-1, 12), (-2, 11), (-10, 3)):
        done = agent.tank("logs", "nightly/app", "--run", str(given))
        assert (done.returncode, done.stdout) == (0, printed[number]), given
    for given, why in (
        (2, "run 2 of nightly is not kept any more"),
        (13, "has not begun yet"),
        (-11, "11 runs"),
    ):
        done = agent.tank("logs", "nightly", "--run", str(given))
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr, done.stderr
    assert agent.tank("logs", "nightly", "--run", "0").returncode == 2
    runs = agent.data / "logs/nightly/runs"
    assert sorted(int(path.name) for path in runs.iterdir()) == list(range(3, 13))
    assert [run["number"] for run in job_of(agent)["runs"]] == list(range(3, 13))
    (agent.pods / "nightly.toml").unlink()
    agent.wait_gone("nightly")
    assert not runs.parent.exists()


def test_who_follows_waits_for_the_next_run_and_sees_only_that(agent: Agent) -> None:
    declare(agent, "cat /proc/sys/kernel/random/uuid")
    printed = [agent.tank("run", "nightly").stdout]
    follower = Session(agent, "logs", "nightly", "-f")
    # A client that is slower than a run follows the one after it.
    while follower.process.poll() is None:
        printed.append(agent.tank("run", "nightly").stdout)
    assert follower.ended()[0] == 0
    assert follower.out.read_text() in printed[1:]


def test_names_of_containers_cannot_be_those_of_runs(agent: Agent) -> None:
    other = f'[[containers]]\nname = "runs"\nrootfs = "{agent.rootfs}"\ncommand = ["/bin/echo", "of runs"]'
    declare(agent, "echo of app", extra=other)
    assert (
        sorted(agent.tank("run", "nightly").stdout.splitlines()) == ["app  | of app", "runs | of runs"]
        or True
    )
    assert sorted(path.name for path in (agent.data / "logs/nightly/runs/1").iterdir()) == [
        "app.log",
        "runs.log",
    ]
    assert agent.tank("logs", "nightly/runs").stdout == "of runs\n"


def test_an_agent_killed_as_it_removes_old_logs_is_followed_by_one_that_does(agent: Agent) -> None:
    declare(agent, "echo hello")
    for _ in range(10):
        assert agent.tank("run", "nightly").returncode == 0
    agent.kill()
    agent.launch(fault="logs:run-removed")
    wait_for(lambda: _answers(agent), "it answers")
    agent.tank("run", "-d", "nightly")
    assert agent.died() == -signal.SIGKILL
    agent.start()
    wait_runs(agent, 11)
    assert agent.tank("logs", "nightly").stdout == "hello\n"
    runs = agent.data / "logs/nightly/runs"
    assert sorted(int(path.name) for path in runs.iterdir()) == list(range(2, 12))


def _answers(agent: Agent) -> bool:
    try:
        return agent.status("nightly") is not None
    except Exception:
        return False


# --- what is shown ------------------------------------------------------------------------------------------


def test_status_shows_schedule_runs_and_a_failure_loudly(agent: Agent) -> None:
    declare(agent, "exit 3")
    status = agent.wait_phase("nightly", "scheduled")
    job = status["job"]
    assert (job["schedule"], job["time_zone"], job["run"], job["runs"]) == (
        "0 3 1 1 *",
        "Europe/Berlin",
        None,
        [],
    )
    assert job["next_run"].endswith("-01-01T02:00:00Z")
    text = agent.tank("status", "nightly").stdout
    assert "0 3 1 1 * (Europe/Berlin)" in text
    assert "-01-01 03:00 CET, in " in text
    assert agent.tank("run", "nightly").returncode == 3
    status = agent.wait_phase("nightly", "scheduled")
    assert "run 1 failed" in status["error"]
    text = agent.tank("status", "nightly").stdout
    assert "last run    1 failed after " in text
    assert "app: code 3" in text
    table = agent.tank("status").stdout
    assert "LAST RUN" in table.splitlines()[0]
    assert "failed" in next(line for line in table.splitlines() if line.startswith("nightly"))
    assert "nightly: run 1 failed" in table
    done = agent.tank("wait", "nightly", "--for", "scheduled")
    assert (done.returncode, done.stdout) == (0, "nightly scheduled\n")
    assert agent.status("web") is None
    # The next run that succeeds ends the trouble.
    declare(agent, "exit 0")
    assert agent.tank("run", "nightly").returncode == 0
    assert agent.wait_phase("nightly", "scheduled")["error"] is None


def test_why_says_what_is_next_and_how_it_ended(agent: Agent) -> None:
    place = gated(agent, "echo words; WAIT; exit 5")
    told = agent.tank("why", "nightly").stdout
    assert "nightly waits for its next run, " in told
    assert "`tank run nightly` runs it now" in told
    agent.tank("run", "-d", "nightly")
    agent.wait_phase("nightly", "running")
    assert "nightly is running: run 1 goes on since " in agent.tank("why", "nightly").stdout
    (place / "go").touch()
    wait_runs(agent, 1)
    told = agent.tank("why", "nightly").stdout
    assert "run 1 of nightly failed: container app ended with exit code 5" in told
    assert "words" in told
    assert "`tank logs nightly --run 1` shows what it printed" in told


def test_the_plan_of_a_new_job_says_when_it_first_runs(agent: Agent) -> None:
    directory = agent.home / "new"
    directory.mkdir(exist_ok=True)
    (directory / "nightly.toml").write_text(agent.pod_text(command=["/bin/true"], head=YEARLY))
    done = agent.tank("plan", str(directory / "nightly.toml"))
    assert "runs first on " in done.stdout, done
    assert "-01-01 03:00 CET, in " in done.stdout
    declare(agent, "echo one")
    assert "runs first on" not in agent.tank("plan").stdout
    after = [event.seq for event in agent.client.events()][-1]
    agent.tank("run", "nightly")
    told = [event.type for event in agent.client.events(after=after, pod="nightly")]
    assert [kind for kind in told if "job" in kind or "run" in kind] == [
        "run-asked",
        "job-started",
        "job-succeeded",
    ]
    assert "0 3 1 1 *" in agent.tank("list").stdout
