"""What status, list and plan say of published ports and bridges, on a real agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import wait_for
from tests.support.lan import LanAgent, stopped_lan_agent


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[LanAgent]:
    with stopped_lan_agent(tmp_path) as made:
        made.host(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        yield made


@pytest.fixture
def agent(stopped: LanAgent) -> LanAgent:
    stopped.start()
    return stopped


def sleeping(agent: LanAgent, head: str) -> str:
    return agent.pod_text(command=["/bin/sleep", "1000"], head=head)


def shown(agent: LanAgent, name: str) -> list[str]:
    return [f"{port['address']}:{port['host']}" for port in agent.statuses(name)[0]["ports"]]


def planned(agent: LanAgent, name: str, text: str) -> dict[str, Any]:
    file = agent.home / f"{name}.toml"
    file.write_text(text)
    report = json.loads(agent.tank("plan", str(file), "-o", "json").stdout)
    return next(pod for pod in report["pods"] if pod["name"] == name)


def test_ports_and_bridges_are_shown(agent: LanAgent) -> None:
    agent.write("web", sleeping(agent, 'ports = ["8080:80", "127.0.0.1:53:53/udp"]\n'))
    agent.write("plain", sleeping(agent, '[network]\nbridges = ["front", "back"]\n'))
    status = agent.wait_phase("web", "running")
    assert shown(agent, "web") == ["0.0.0.0:8080", "127.0.0.1:53"]
    assert status["bridges"] == {"default": status["addresses"]}
    text = agent.tank("status", "web").stdout
    assert f"{status['addresses'][0]} (default)" in text
    assert "0.0.0.0:8080→80/tcp" in text and "127.0.0.1:53→53/udp" in text
    plain = agent.wait_phase("plain", "running")
    assert list(plain["bridges"]) == ["front", "back"]
    assert [lease for leases in plain["bridges"].values() for lease in leases] == plain["addresses"]
    assert plain["ports"] == []
    listed = {pod["name"]: pod["ports"] for pod in json.loads(agent.tank("list", "-o", "json").stdout)}
    assert [port["address"] for port in listed["web"]] == ["0.0.0.0", "127.0.0.1"]
    # A pod in the host's network has no ports of ours.
    pid = agent.pid("web")
    agent.write("web", sleeping(agent, 'network = "host"\n'))
    wait_for(lambda: agent.pid("web") != pid, "it moves")
    status = agent.wait_phase("web", "running")
    assert (status["ports"], status["bridges"]) == ([], {})


def test_a_plan_says_what_a_pod_takes_and_what_it_waits_for(agent: LanAgent) -> None:
    agent.write("web", sleeping(agent, 'ports = ["8080:80"]\n'))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    new = planned(
        agent, "new", sleeping(agent, 'ports = ["127.0.0.1:8080:80"]\n[network]\nbridges = ["a", "b"]\n')
    )
    assert new["change"] == "create"
    assert new["notes"] == [
        "is in bridges a, b",
        "publishes 127.0.0.1:8080→80/tcp",
        # It alone replaces all of pods_dir.
        "waits for port 127.0.0.1:8080→80/tcp until pod web has gone",
    ]
    edit = planned(agent, "web", sleeping(agent, 'ports = ["9090:80"]\n'))
    assert edit["change"] == "update"
    assert edit["diff"] == ['ports: ["8080:80"] → ["9090:80"] (changed live, nothing restarts)']
    assert edit["actions"] == ["bring the network up to date: the pod's file changed it"]
    assert edit["notes"] == []
    agent.write("web", sleeping(agent, 'ports = ["9090:80"]\n'))
    wait_for(lambda: shown(agent, "web") == ["0.0.0.0:9090"], "the edit is done")
    assert agent.pid("web") == pid


def test_a_pod_that_waits_for_a_port_says_so(agent: LanAgent) -> None:
    holder = agent.write("holder", sleeping(agent, 'ports = ["8080:80"]\n'))
    agent.wait_phase("holder", "running")
    agent.write("web", sleeping(agent, 'ports = ["127.0.0.1:8080:80"]\n'))
    agent.write("edited", sleeping(agent, 'ports = ["81:80"]\n'))
    agent.wait_phase("edited", "running")
    pid = agent.pid("edited")
    agent.write("edited", sleeping(agent, 'ports = ["8080:81"]\n'))

    def says_so(name: str) -> bool:
        status = agent.statuses(name)[0]
        return "pod holder publishes it" in (status["error"] or "") and bool(status["next_retry"])

    wait_for(lambda: says_so("web") and says_so("edited"), "both say why they wait, and until when")
    # It has none before it has all; one that runs keeps what it had.
    assert shown(agent, "web") == []
    assert shown(agent, "edited") == ["0.0.0.0:81"]
    assert agent.pid("edited") == pid
    waiting = json.loads(agent.tank("plan", "-o", "json").stdout)["pods"]
    notes = {pod["name"]: pod["notes"] for pod in waiting}
    assert notes["holder"] == []
    assert "which pod holder publishes" in "".join(notes["edited"])
    # The one of them that comes later waits for the other then.
    holder.unlink()
    both = (["127.0.0.1:8080", "0.0.0.0:81"], ["0.0.0.0:8080"])
    wait_for(lambda: shown(agent, "web") + shown(agent, "edited") in both, "one of them has it")


def test_the_last_port_takes_a_pod_out_of_the_bridge(agent: LanAgent) -> None:
    agent.write("web", sleeping(agent, 'ports = ["8080:80"]\n'))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.write("web", sleeping(agent, ""))

    def out() -> bool:
        status = agent.statuses("web")[0]
        return (status["ports"], status["bridges"], status["addresses"]) == ([], {}, [])

    wait_for(out, "it has neither ports nor addresses")
    wait_for(lambda: "tank-default" not in agent.host.links(), "nobody needs the bridge")
    assert agent.pid("web") == pid
    agent.write("web", sleeping(agent, 'ports = ["8080:80"]\n'))
    wait_for(lambda: shown(agent, "web") == ["0.0.0.0:8080"], "it is back")
    assert agent.pid("web") == pid


def test_the_first_bridge_is_the_one_of_eth0(agent: LanAgent) -> None:
    agent.write("web", sleeping(agent, '[network]\nbridges = ["a", "b"]\n'))
    before = agent.wait_phase("web", "running")["bridges"]
    pid = agent.pid("web")

    def first() -> tuple[str, str]:
        """Return the addresses of eth0 and eth1."""
        lines = [line.split() for line in agent.pod("web").ip("-4 -br addr").splitlines()]
        by_name = {words[0].partition("@")[0]: words[-1] for words in lines}
        return by_name.get("eth0", ""), by_name.get("eth1", "")

    assert first() == (*before["a"], *before["b"])
    agent.write("web", sleeping(agent, '[network]\nbridges = ["b", "a"]\n'))
    wait_for(lambda: first() == (*before["b"], *before["a"]), "they change places")
    wait_for(lambda: list(agent.statuses("web")[0]["bridges"]) == ["b", "a"], "the status says so")
    gateway = before["b"][0].rpartition(".")[0]
    assert f"default via {gateway}.1 dev eth0" in agent.pod("web").ip("route")
    assert agent.pid("web") == pid
