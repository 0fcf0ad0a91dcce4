"""Verbs that need a real container, and the agent itself, with closed and with full standard streams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, running_agent, wait_for

LOST = {
    "/dev/full": "tank: cannot write: No space left on device\n",
    "&-": "tank: cannot write: the output is closed\n",
}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("streams")) as started:
        started.write("web", started.pod_text())
        started.write("tty", started.pod_text(command=["/bin/sh"], extra="tty = true"))
        started.wait_phase("web", "running")
        started.wait_phase("tty", "running")
        wait_for(lambda: started.output("web"), "the pod has printed")
        yield started


def tank(agent: Agent, redirections: str, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "tank_agent", *argv],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock")},
    )


def test_a_command_with_closed_input_reads_its_end(agent: Agent) -> None:
    done = tank(agent, "<&-", "exec", "web", "--", "sh", "-c", "cat; echo after; exit 4")
    assert (done.returncode, done.stdout, done.stderr) == (4, "after\n", "")


@pytest.mark.parametrize("out", LOST)
def test_a_command_keeps_its_exit_code_where_its_output_is_lost(agent: Agent, out: str) -> None:
    for script, code, said in (
        ("echo hi; exit 3", 3, LOST[out]),
        # What is lost is no success.
        ("echo hi", 1, LOST[out]),
        ("exit 3", 3, ""),
        ("true", 0, ""),
        ("head -c 1000000 /dev/zero; exit 5", 5, LOST[out]),
    ):
        done = tank(agent, f">{out}", "exec", "web", "--", "sh", "-c", script)
        assert (done.returncode, done.stderr) == (code, said), script


@pytest.mark.parametrize(
    "streams", ["2>/dev/full", "2>&-", "<&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"]
)
def test_a_command_keeps_its_exit_code_where_its_errors_are_lost(agent: Agent, streams: str) -> None:
    done = tank(agent, streams, "exec", "web", "--", "sh", "-c", "echo wrong >&2; exit 6")
    assert (done.returncode, done.stdout, done.stderr) == (6, "", "")
    assert tank(agent, streams, "exec", "web", "--", "/no/such").returncode == 127


@pytest.mark.parametrize("out", LOST)
def test_logs_that_are_lost_are_no_success(agent: Agent, out: str) -> None:
    for form in ((), ("-o", "json")):
        done = tank(agent, f">{out}", "logs", "web", *form)
        assert (done.returncode, done.stderr) == (1, LOST[out])


@pytest.mark.parametrize("out", LOST)
def test_a_session_whose_output_is_lost_ends_with_the_container(agent: Agent, out: str) -> None:
    done = tank(agent, f">{out}", "attach", "tty", stdin="exit 9\n")
    assert (done.returncode, done.stderr) == (9, LOST[out])
    agent.wait_phase("tty", "running")


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_the_agent_works_without_anywhere_to_log_to(tmp_path: Path, streams: str) -> None:
    with running_agent(tmp_path) as agent:
        agent.stop()
        command = [sys.executable, "-m", "tank_agent", "agent", "--config", str(agent.config)]
        agent.process = subprocess.Popen(["/bin/sh", "-c", f'exec "$@" {streams}', "sh", *command])
        agent.write("bad", "x")
        agent.write("web", agent.pod_text())
        wait_for((agent.run / "tank.sock").exists, "the agent listens")
        agent.wait_phase("web", "running")
        done = agent.tank("exec", "web", "--", "cat", "/proc/self/status")
        assert done.returncode == 0
        assert agent.stop() == 0
        agent.start()


@pytest.mark.parametrize("round_", range(3))
def test_what_was_just_applied_can_be_entered(agent: Agent, round_: int) -> None:
    """As the guide writes it: apply, and at once exec or attach."""
    text = agent.pod_text(command=["/bin/sh"], head=f'name = "new{round_}"', extra="tty = true")
    agent.client.apply(text)
    done = agent.tank("exec", f"new{round_}", "--", "echo", "in")
    assert (done.returncode, done.stdout) == (0, "in\n"), done
    agent.client.delete(f"new{round_}")
    agent.wait_gone(f"new{round_}")
    agent.client.apply(text)
    done = agent.tank("attach", f"new{round_}", stdin="exit 5\n")
    assert done.returncode == 5, done
    agent.client.delete(f"new{round_}")
    agent.wait_gone(f"new{round_}")
