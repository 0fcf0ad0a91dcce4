"""Containers that end, by themselves or by force, and what the restart policy makes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.runtime.limits.cgroup import detect
from tests.support.agent import Agent, running_agent, wait_for

COUNT = ["/bin/sh", "-c", "echo run; exit {code}"]
SILENT = ["/bin/sleep", "1000"]
CHATTY = ["/bin/sh", "-c", "while :; do echo x; done"]


@pytest.fixture
def slow_agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent with a back-off that a test can see."""
    with running_agent(tmp_path, backoff_base="1s", backoff_cap="2s") as started:
        yield started


def test_a_killed_workload_is_restarted(agent: Agent) -> None:
    agent.write("web", agent.pod_text(command=SILENT))
    agent.wait_phase("web", "running")
    first = agent.pid("web")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: (agent.status("web") or {})["containers"][0]["restarts"] == 1, "it is restarted")
    status = agent.wait_phase("web", "running")
    assert agent.pid("web") != first
    assert status["containers"][0]["exit"]["signal"] == signal.SIGKILL
    assert status["containers"][0]["exit"]["code"] is None


@pytest.mark.parametrize(
    "command", [SILENT, CHATTY, ["/bin/sh", "-c", "exec sleep 1000"]], ids=["silent", "chatty", "shell"]
)
@pytest.mark.parametrize("tty", [False, True], ids=["pipes", "tty"])
def test_a_killed_conmon_is_replaced_with_its_container(agent: Agent, command: list[str], tty: bool) -> None:
    agent.write("web", agent.pod_text(command=command, extra="tty = true" if tty else ""))
    agent.wait_phase("web", "running")
    first = agent.pid("web")
    (monitor,) = agent.conmons()
    os.kill(monitor, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{first}").exists(), "the container without monitor is ended")
    agent.wait_phase("web", "running")
    assert len(agent.conmons()) == 1
    assert agent.conmons() != [monitor]


def test_a_killed_conmon_ends_a_pod_that_is_never_restarted(agent: Agent) -> None:
    command = ["/bin/sh", "-c", "echo run; exec sleep 1000"]
    agent.write("job", agent.pod_text(command=command, head='restart = "never"'))
    agent.wait_phase("job", "running")
    # What the monitor has not yet written dies with it.
    wait_for(lambda: agent.output("job") == ["run"], "it printed")
    (monitor,) = agent.conmons()
    os.kill(monitor, signal.SIGKILL)
    status = agent.wait_phase("job", "failed")
    assert "conmon" in status["error"]
    assert (agent.conmons(), agent.output("job")) == ([], ["run"])


@pytest.mark.parametrize(
    ("policy", "ending", "phase"),
    [
        ("on-failure", "exit 0", "completed"),
        ("never", "exit 0", "completed"),
        ("never", "exit 3", "failed"),
        ("never", "kill -9 $$", "failed"),
    ],
)
def test_a_container_that_is_over_stays_down(agent: Agent, policy: str, ending: str, phase: str) -> None:
    # The shell is not process 1, which the kernel protects from its own signals.
    command = ["/bin/sh", "-c", f"echo run; {ending}"]
    if "kill" in ending:
        command = ["/bin/sh", "-c", "echo run; sleep 1000"]
    agent.write("job", agent.pod_text(command=command, head=f'restart = "{policy}"'))
    if "kill" in ending:
        agent.wait_phase("job", "running")
        wait_for(lambda: agent.output("job") == ["run"], "it printed")
        os.kill(agent.pid("job"), signal.SIGKILL)
    status = agent.wait_phase("job", phase)
    assert status["next_retry"] is None
    agent.kill()
    agent.start()
    agent.client.sync(wait=10)
    assert (agent.wait_phase("job", phase), agent.output("job")) == (status, ["run"])


@pytest.mark.parametrize("ending", ["exit 3", "kill"])
def test_on_failure_restarts_what_failed(slow_agent: Agent, ending: str) -> None:
    agent = slow_agent
    script = "echo run; sleep 1000" if ending == "kill" else "echo run; exit 3"
    agent.write("job", agent.pod_text(command=["/bin/sh", "-c", script], head='restart = "on-failure"'))
    if ending == "kill":
        agent.wait_phase("job", "running")
        os.kill(agent.pid("job"), signal.SIGKILL)
    status = agent.wait_phase("job", "backing-off")
    assert status["next_retry"] is not None
    exit_ = status["containers"][0]["exit"]
    assert (exit_["code"], exit_["signal"]) == ((None, 9) if ending == "kill" else (3, None))
    wait_for(lambda: agent.output("job")[:2] == ["run", "run"], "it runs again")


def test_back_off_survives_a_restart_of_the_agent(tmp_path: Path) -> None:
    with running_agent(tmp_path, backoff_base="10m", backoff_cap="10m") as agent:
        agent.write("job", agent.pod_text(command=["/bin/sh", "-c", "echo run; exit 1"]))
        before = agent.wait_phase("job", "backing-off")
        agent.kill()
        agent.start()
        assert agent.wait_phase("job", "backing-off") == before
        assert agent.output("job") == ["run"]
        # An edit is a new start: nobody waits for the back-off of what was wrong.
        agent.write("job", agent.pod_text())
        agent.wait_phase("job", "running")


def test_a_command_that_is_not_there_is_said_plainly(slow_agent: Agent) -> None:
    agent = slow_agent
    agent.write("web", agent.pod_text(command=["/bin/nothing"]))
    status = agent.wait_phase("web", "backing-off")
    assert "could not be started" in status["error"]
    assert "/bin/nothing" in status["error"]
    agent.write("web", agent.pod_text())
    assert agent.wait_phase("web", "running")["error"] is None


def test_a_user_that_is_not_there_is_said_plainly(slow_agent: Agent) -> None:
    agent = slow_agent
    agent.write("web", agent.pod_text(extra='user = "nobody-at-all"'))
    status = agent.wait_phase("web", "backing-off")
    assert "nobody-at-all" in status["error"]


def test_stopping_sends_the_stop_signal_then_kills_after_the_grace(agent: Agent) -> None:
    script = "trap 'echo quit' QUIT; trap 'echo term' TERM; echo up; while :; do sleep 0.1; done"
    extra = 'stop_signal = "SIGQUIT"\nstop_grace = "1s"'
    file = agent.write("web", agent.pod_text(command=["/bin/sh", "-c", script], extra=extra))
    wait_for(lambda: agent.output("web") == ["up"], "the traps are set")
    log = agent.data / "logs" / "web" / "app.log"
    kept = log.open()
    file.unlink()
    agent.wait_gone("web")
    words = [line.split(" ", 3)[3].strip() for line in kept]
    kept.close()
    assert words == ["up", "quit"]
    types = [event.type for event in agent.client.events() if event.pod == "web"]
    assert types == ["started", "stopping", "killing", "stopped", "removed"], types


@pytest.mark.parametrize("then", ["delete", "edit"])
def test_a_frozen_container_goes_all_the_same(agent: Agent, then: str) -> None:
    file = agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    agent.wait_output("web", "started")
    pid = agent.pid("web")
    unified = detect(agent.run).mode == "unified"
    groups = Path("/sys/fs/cgroup" if unified else "/sys/fs/cgroup/freezer") / agent.cgroup / "web"
    (group,) = (entry for entry in groups.iterdir() if entry.is_dir())
    (group / ("cgroup.freeze" if unified else "freezer.state")).write_text("1" if unified else "FROZEN")
    if then == "delete":
        file.unlink()
        agent.wait_gone("web")
    else:
        agent.write("web", agent.pod_text(extra='env = { EDITED = "yes" }'))
        wait_for(lambda: agent.output("web") == ["started", "started"], "it is started anew")
    assert not Path(f"/proc/{pid}").exists()


def test_every_log_line_about_a_pod_has_pod_revision_and_cause(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    agent.wait_output("web", "started")
    os.kill(agent.pid("web"), signal.SIGKILL)
    wait_for(lambda: agent.output("web") == ["started", "started"], "it is restarted")
    lines = [json.loads(line) for line in agent.log.read_text().splitlines()]
    about = [line for line in lines if line.get("pod")]
    assert len(about) > 3
    assert all("revision" in line and "cause" in line for line in about), about


@pytest.mark.parametrize("then", ["edit", "kill", "delete"])
def test_files_of_a_run_that_somebody_removed_cost_nothing(agent: Agent, then: str) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    for directory in (agent.run / "containers", agent.run / "crun"):
        for entry in directory.iterdir():
            shutil.rmtree(entry)
    # What changes live still does.
    agent.write("web", agent.pod_text(extra="[containers.limits]\npids = 77\n"))
    wait_for(lambda: any(event.type == "changed" for event in agent.client.events()), "the limit changes")
    assert agent.pid("web") == pid
    if then == "edit":
        agent.write("web", agent.pod_text(extra='env = { EDITED = "yes" }'))
    elif then == "kill":
        os.kill(pid, signal.SIGKILL)
    else:
        (agent.pods / "web.toml").unlink()
        agent.wait_gone("web")
        agent.write("web", agent.pod_text())
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "it ends")
    agent.wait_phase("web", "running")
    wait_for(lambda: len(agent.conmons()) == 1, "one monitor is there")
    assert "failed by a bug" not in agent.log.read_text()
