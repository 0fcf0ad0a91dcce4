"""`git push`, and the machine follows: a real agent, real repositories, real containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, ended, wait_for
from tests.support.gitops import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    with ended(made.agent):
        yield made


def test_a_push_becomes_a_container(fleet: Fleet) -> None:
    agent = fleet.agent
    first = fleet.push({"pods/web.toml": fleet.text("one")}, "begin")
    agent.start()
    status = agent.wait_phase("web", "running")
    print(agent.tank("status").stdout, agent.tank("status", "web").stdout, agent.tank("git", "status").stdout)
    assert status["owner"] == "git:pods/web.toml"
    assert status["revision"] == first
    second = fleet.push({"pods/web.toml": fleet.text("two")}, "second")
    wait_for(lambda: agent.output("web") == ["one", "two"], "the change runs")
    print(agent.tank("status").stdout, agent.tank("history", "web").stdout, agent.tank("events").stdout)
    print(agent.log.read_text()[-3000:])
