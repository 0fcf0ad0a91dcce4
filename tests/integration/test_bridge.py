"""Pods in bridges of this machine: seen from a second machine, from this one, and from each other."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.bridges import bridge_agent, get, reaches, running, web
from tests.support.lan import LanAgent


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[LanAgent]:
    with bridge_agent(tmp_path) as made:
        yield made


@pytest.fixture
def agent(stopped: LanAgent) -> LanAgent:
    stopped.start()
    return stopped


def test_a_port_is_reached_from_everywhere(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'ports = ["8080:80", "127.0.0.1:8081:80"]\n'))
    agent.write("other", web(agent, 'network = "bridge"\n'))
    agent.write("apart", web(agent, '[network]\nbridges = ["back"]\n'))
    running(agent, "web", "other", "apart")
    own = agent.statuses("web")[0]["addresses"][0].partition("/")[0]
    wait_for(lambda: reaches(agent.host, "127.0.0.1", 8080), "it answers")
    for name, network, address in (
        ("the LAN", agent.lan, "10.0.0.2"),
        ("its own machine", agent.host, "10.0.0.2"),
        ("127.0.0.1", agent.host, "127.0.0.1"),
        ("another pod", agent.pod("other"), "10.0.0.2"),
        ("a pod of another bridge", agent.pod("apart"), "10.0.0.2"),
        ("itself", agent.pod("web"), "10.0.0.2"),
    ):
        assert network(get, address, 8080) == "web", name
    assert agent.pod("other")(get, own, 80) == "web", "without a port that is published"
    assert agent.host(get, "127.0.0.1", 8081) == "web"
    assert not reaches(agent.pod("apart"), own, 80), "the bridges are apart"
    assert not reaches(agent.lan, "10.0.0.2", 8081)
    agent.lan.ip(f"route add {own}/32 via 10.0.0.2")
    assert not reaches(agent.lan, own, 80), "what is not published is not routed either"


def test_addresses_survive_and_ports_change_without_a_restart(agent: LanAgent) -> None:
    file = agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
    agent.write("two", web(agent, 'network = "bridge"\n'))
    addresses = [agent.wait_phase(name, "running")["addresses"] for name in ("web", "two")]
    pid = agent.pid("web")
    agent.write("web", web(agent, 'ports = ["9090:80"]\n'))
    wait_for(lambda: reaches(agent.lan, "10.0.0.2", 9090), "the new port answers")
    assert not reaches(agent.lan, "10.0.0.2", 8080)
    assert agent.pid("web") == pid
    agent.kill()
    assert reaches(agent.lan, "10.0.0.2", 9090), "without the agent, too"
    agent.start()
    agent.wait_phase("web", "running")
    assert reaches(agent.lan, "10.0.0.2", 9090)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(agent.output("web")) == 2, "it is started anew")
    assert [agent.wait_phase(name, "running")["addresses"] for name in ("web", "two")] == addresses
    file.unlink()
    agent.wait_gone("web")
    assert not reaches(agent.host, "10.0.0.2", 9090)


def test_a_port_that_is_taken_is_said_before_anything_starts(agent: LanAgent) -> None:
    with agent.host(lambda: socket.create_server(("10.0.0.2", 8080))):
        agent.write("web", web(agent, 'ports = ["8080:80"]\n'))
        wait_for(lambda: (agent.status("web") or {}).get("error"), "it is said")
        error = agent.statuses("web")[0]["error"]
        assert "port 0.0.0.0:8080:80 of this machine is taken: pytest" in error or "(process" in error
    wait_for(lambda: reaches(agent.host, "127.0.0.1", 8080), "it starts once the port is free")
    agent.write("thief", web(agent, 'ports = ["127.0.0.1:8080:80"]\n'))
    wait_for(
        lambda: "pod web publishes it" in ((agent.status("thief") or {}).get("error") or ""), "it is said"
    )


def test_names(agent: LanAgent) -> None:
    agent.write("web", web(agent, '[network]\nextra_hosts = { nas = "10.0.0.9", me = "host-gateway" }\n'))
    agent.wait_phase("web", "running")

    def hosts() -> list[str]:
        return agent.tank("exec", "web", "--", "cat", "/etc/hosts").stdout.splitlines()

    assert hosts()[2:] == ["10.89.0.2 web", "10.0.0.9 nas", "10.89.0.1 me", "127.0.0.1 app"]
    file = agent.write("db", web(agent, 'network = "bridge"\n'))
    wait_for(lambda: "10.89.0.3 db" in hosts(), "a pod that comes has its name")
    assert agent.pod("db")
    file.unlink()
    wait_for(lambda: "10.89.0.3 db" not in hosts(), "a pod that goes has none")
