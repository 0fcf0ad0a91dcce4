"""Pods that nobody declares in a directory: `tank apply`, seeds, and who may change what."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent import Client, Pod
from tank_agent.errors import OwnedElsewhere
from tests.support.agent import Agent, ended, wait_for


@pytest.fixture
def seeded(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent, not yet started, with one seed in seed.d and one in agent.toml."""
    agent = Agent(tmp_path)
    (tmp_path / "seed.d").mkdir()
    (tmp_path / "seed.d" / "first.toml").write_text(agent.pod_text())
    inline = agent.pod_text(head='name = "second"').replace("[[containers]]", "[[pods.containers]]")
    agent.config.write_text(f"{agent.config.read_text()}\n[[pods]]\n{inline}")
    with ended(agent):
        yield agent


def test_apply_get_list_delete(agent: Agent) -> None:
    applied = agent.tank("apply", "-", stdin=agent.pod_text(head='name = "web"'))
    assert applied.returncode == 0, applied.stderr
    waited = agent.tank("wait", "web", "--timeout", "20s")
    assert waited.returncode == 0, waited.stderr
    assert agent.status("web") is not None and agent.status("web")["owner"] == "api"  # type: ignore[index]
    text = agent.tank("get", "web").stdout
    assert "[[containers]]" in text
    listed = agent.tank("list", "-o", "json")
    assert [pod["name"] for pod in json.loads(listed.stdout)] == ["web"]
    pid = agent.pid("web")
    # What `get` prints can be applied again, and means the same.
    assert agent.tank("apply", "-", stdin=text).returncode == 0
    assert agent.pid("web") == pid
    assert agent.tank("delete", "web").returncode == 0
    assert agent.tank("wait", "web", "--for", "deleted").returncode == 0
    assert agent.tank("delete", "web").returncode == 0
    assert agent.tank("get", "web").returncode == 1


def test_an_applied_pod_survives_the_agent(agent: Agent) -> None:
    agent.client.apply(Pod.new({"name": "web", "containers": [_container(agent)]}))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.kill()
    agent.start()
    agent.wait_phase("web", "running")
    assert agent.pid("web") == pid
    agent.client.delete("web")
    agent.wait_gone("web")


def test_the_api_cannot_change_what_a_file_owns(agent: Agent) -> None:
    file = agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    refused = agent.tank("apply", "-", stdin=agent.pod_text(head='name = "web"'))
    assert refused.returncode == 1
    assert str(file) in refused.stderr
    with pytest.raises(OwnedElsewhere):
        agent.client.delete("web")
    assert agent.wait_phase("web", "running")["generation"] == 1


def test_a_file_cannot_take_what_the_api_owns(agent: Agent) -> None:
    agent.client.apply(Pod.new({"name": "web", "containers": [_container(agent)]}))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    file = agent.write("web", agent.pod_text())
    agent.client.sync()
    status = agent.status("web")
    assert status is not None
    assert (status["owner"], agent.pid("web")) == ("api", pid)
    assert str(file) in status["error"]
    agent.client.delete("web")
    wait_for(lambda: (agent.status("web") or {}).get("owner") == f"dir:{file}", "the file takes over")


def test_an_invalid_apply_stores_nothing(agent: Agent) -> None:
    wrong = agent.tank("apply", "-", stdin=agent.pod_text(head='name = "Web"\nrestart = "sometimes"'))
    assert wrong.returncode == 2
    assert "name" in wrong.stderr and "restart" in wrong.stderr
    assert agent.client.list() == []


def test_seeds_are_a_starting_point_and_never_clobber(seeded: Agent) -> None:
    agent = seeded
    agent.start()
    for name in ("first", "second"):
        assert agent.wait_phase(name, "running")["owner"] == "seed"
    # Changed and deleted at run time: neither comes back.
    text = agent.pod_text(head='name = "first"', extra='env = { CHANGED = "yes" }')
    assert agent.tank("apply", "-", stdin=text).returncode == 0
    agent.client.delete("second")
    agent.wait_gone("second")
    (agent.home / "seed.d" / "third.toml").write_text(agent.pod_text())
    agent.kill()
    agent.start()
    agent.wait_phase("third", "running")
    assert agent.client.get("first").pod.containers[0].env == {"CHANGED": "yes"}
    assert [pod.name for pod in agent.client.list()] == ["first", "third"]
    # A seed file that goes takes nothing with it.
    (agent.home / "seed.d" / "third.toml").unlink()
    agent.stop()
    agent.start()
    agent.client.sync()
    assert agent.wait_phase("third", "running")["owner"] == "seed"


def test_pods_d_wins_over_a_seed_of_the_same_name(seeded: Agent) -> None:
    agent = seeded
    file = agent.write("first", agent.pod_text())
    agent.start()
    assert agent.wait_phase("first", "running")["owner"] == f"dir:{file}"
    # Both say how it is; a seed is for who has no such pod.
    assert agent.tank("sync", "--wait").returncode == 0


def test_a_seed_with_mistakes_is_shown_until_it_is_mended(seeded: Agent) -> None:
    agent = seeded
    text = agent.config.read_text()
    agent.config.write_text(text.replace('name = "second"', 'name = "second"\nrestrt = "x"'))
    agent.start()
    agent.wait_phase("first", "running")
    status = agent.wait_phase("second", "failed")
    assert (status["owner"], "unknown key; did you mean restart?" in status["error"]) == ("seed", True)
    agent.config.write_text(text)
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_phase("second", "running")


def test_plan_says_what_would_be_done_and_does_nothing(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    assert agent.tank("plan").returncode == 0
    new = agent.home / "new"
    new.mkdir()
    (new / "web.toml").write_text(agent.pod_text(extra='env = { A = "1" }'))
    (new / "db.toml").write_text(agent.pod_text())
    planned = agent.tank("plan", str(new), "-o", "json")
    assert planned.returncode == 2, planned.stderr
    pods = {pod["name"]: pod for pod in json.loads(planned.stdout)["pods"]}
    assert {name: pod["change"] for name, pod in pods.items()} == {"web": "update", "db": "create"}
    assert pods["db"]["actions"] == ["make the network namespace", "start container app"]
    assert pods["web"]["actions"][0] == "stop container app"
    assert any("env" in line and "restarts container app" in line for line in pods["web"]["diff"])
    assert (agent.pid("web"), [pod.name for pod in agent.client.list()]) == (pid, ["web"])


def test_events_tell_the_story(agent: Agent) -> None:
    file = agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    file.unlink()
    agent.wait_gone("web")
    lines = agent.tank("events", "-o", "json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert set(events[0]) == {"seq", "at", "pod", "container", "type", "message", "revision", "cause", "by"}
    assert [event["type"] for event in events] == ["started", "stopping", "stopped", "removed"]
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)


def test_status_has_the_fields_of_the_contract(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    status = json.loads(agent.tank("status", "web", "-o", "json").stdout)
    assert {"name", "phase", "owner", "revision", "generation", "error", "next_retry"} <= set(status)
    assert status["addresses"] == []
    container = status["containers"][0]
    assert {"name", "phase", "pid", "restarts", "image", "exit"} <= set(container)
    assert Path(f"/proc/{container['pid']}").exists()
    assert isinstance(json.loads(agent.tank("status", "-o", "json").stdout), list)


def test_two_agents_never_share_directories(agent: Agent) -> None:
    second = agent.tank("agent", "--config", str(agent.config))
    assert second.returncode == 1
    assert "another agent" in second.stderr


def test_ctrl_c_with_stop_pods_stops_everything(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    with ended(agent):
        agent.write("web", agent.pod_text())
        agent.start("--stop-pods")
        agent.wait_phase("web", "running")
        assert agent.stop(signal.SIGINT) == 0
        assert agent.leftovers() == []
        # Stopping was not the pod's fault: it comes back as it was.
        agent.start()
        assert agent.wait_phase("web", "running")["containers"][0]["exit"] is None


def _container(agent: Agent) -> dict[str, object]:
    script = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"
    return {"name": "app", "rootfs": str(agent.rootfs), "command": ["/bin/sh", "-c", script]}


def test_client_reads_the_socket_from_the_environment(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANK_SOCKET", str(agent.run / "tank.sock"))
    assert Client().info().run_dir == os.fspath(agent.run)
