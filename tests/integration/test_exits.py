"""Ends are noticed at once, by their events: the agent here would look by itself only in an hour."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tank_agent.linux.pidfd import command_line
from tests.support.agent import Agent, running_agent, wait_for

# Ends with 3 when it is told to, as by itself.
THREE = ["/bin/sh", "-c", "trap 'exit 3' USR1; echo ready; while :; do sleep 1000 & wait $!; done"]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent whose resync no test lives to see."""
    with running_agent(tmp_path, resync="1h") as started:
        yield started


def container(agent: Agent) -> dict[str, Any]:
    found: dict[str, Any] = (agent.status("web") or {})["containers"][0]
    return found


def runs_anew(agent: Agent, former: int) -> None:
    """Wait for another process in place of the former."""
    wait_for(lambda: container(agent)["pid"] not in (None, former), "another process runs")
    # Whoever reaps what lost its monitor may not have done so yet.
    assert command_line(former) == ()
    assert container(agent)["restarts"] == 1


def test_a_killed_workload(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    os.kill(pid, signal.SIGKILL)
    runs_anew(agent, pid)


def test_a_killed_conmon(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid, (monitor,) = agent.pid("web"), agent.conmons()
    # A process that is asked to end before it set its trap would take its whole grace.
    wait_for(lambda: agent.output("web") == ["started"], "it is ready")
    os.kill(monitor, signal.SIGKILL)
    runs_anew(agent, pid)
    assert agent.conmons() not in ([], [monitor])


def test_an_end_by_itself(agent: Agent) -> None:
    agent.write("web", agent.pod_text(command=THREE, head='restart = "never"'))
    wait_for(lambda: agent.output("web") == ["ready"], "it is ready")
    os.kill(agent.pid("web"), signal.SIGUSR1)
    status = agent.wait_phase("web", "failed")
    assert status["containers"][0]["exit"]["code"] == 3


def test_the_end_of_one_that_a_former_agent_started(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.kill()
    agent.start()
    agent.wait_phase("web", "running")
    os.kill(pid, signal.SIGKILL)
    runs_anew(agent, pid)
