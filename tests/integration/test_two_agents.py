"""Two agents of one machine: bridges and rules are of one of them, and the other leaves them alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.linux import nftables
from tests.support.agent import Agent, ended, wait_for
from tests.support.lan import LanAgent, lan_agent
from tests.support.web import fetched

SERVE = "cat /etc/hostname > /index.html; exec /bin/busybox httpd -f -p 80 -h /"
PAGE = ["/bin/sh", "-c", SERVE]


@pytest.fixture
def first(tmp_path: Path) -> Iterator[LanAgent]:
    (tmp_path / "first").mkdir()
    with lan_agent(tmp_path / "first") as agent:
        agent.write("web", agent.pod_text(command=PAGE, head='ports = ["8080:80"]'))
        agent.wait_phase("web", "running")
        yield agent


@pytest.fixture
def second(tmp_path: Path, first: LanAgent) -> Iterator[Agent]:
    (tmp_path / "second").mkdir()
    agent = Agent(tmp_path / "second")
    agent.through = ["nsenter", f"--net={first.host.path}"]
    with ended(agent):
        yield agent


def test_the_second_says_so_and_leaves_the_first_alone(first: LanAgent, second: Agent) -> None:
    def page(port: int) -> str:
        return first.host(fetched, "127.0.0.1", port)[1].strip()

    def rules() -> str:
        return first.host(lambda: nftables.run("list table inet tank"))

    wait_for(lambda: page(8080) == "web", "it answers")
    bridge, table = first.host(socket.if_nametoindex, "tank-default"), rules()
    second.write("other", second.pod_text(command=PAGE, head='ports = ["8081:80"]'))
    second.start()
    error = wait_for(lambda: (second.status("other") or {}).get("error"), "it is said")
    assert "another agent" in error
    (second.pods / "other.toml").unlink()
    second.wait_gone("other")
    # One that starts anew finds what it might have left itself.
    second.kill()
    second.start()
    assert second.tank("sync").returncode == 0
    assert (first.host(socket.if_nametoindex, "tank-default"), rules()) == (bridge, table)
    assert page(8080) == "web"


def test_the_second_goes_on_when_the_first_has_none_any_more(first: LanAgent, second: Agent) -> None:
    second.write("other", second.pod_text(command=PAGE, head='ports = ["8081:80"]'))
    second.start()
    wait_for(lambda: (second.status("other") or {}).get("error"), "it is said")
    (first.pods / "web.toml").unlink()
    second.wait_phase("other", "running")
    wait_for(lambda: first.host(fetched, "127.0.0.1", 8081)[1].strip() == "other", "it answers")
