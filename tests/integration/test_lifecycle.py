"""Signals to a real agent: readiness and reload as systemd sees them; and the drain of pods without one."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, ended, wait_for


class Manager:
    """The socket that systemd listens on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(20)

    def next(self, key: str) -> dict[str, str]:
        """Return the next message that sets `key`."""
        while True:
            message = dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))
            if key in message:
                return message


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    with made.socket:
        yield made


@pytest.fixture
def notifying(tmp_path: Path, manager: Manager) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    agent.launch(env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "400000"})
    with ended(agent):
        yield agent


def reload(agent: Agent, manager: Manager) -> str:
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    assert manager.next("RELOADING")["MONOTONIC_USEC"].isdigit()
    return manager.next("READY")["STATUS"]


def test_ready_when_pods_are_looked_at_and_then_alive(notifying: Agent, manager: Manager) -> None:
    assert manager.next("READY")["STATUS"] == "0 pods"
    # It answers from now on.
    assert notifying.client.info().pid
    for _ in range(3):
        assert manager.next("WATCHDOG") == {"WATCHDOG": "1"}
    notifying.stop()
    assert manager.next("STOPPING") == {"STOPPING": "1"}


def test_reload_applies_paces_and_seeds_and_names_what_needs_a_restart(
    notifying: Agent, manager: Manager
) -> None:
    manager.next("READY")
    text = notifying.config.read_text().replace(
        'backoff_base = "0s"', 'backoff_base = "1h"\nbackoff_cap = "1h"'
    )
    seed = notifying.pod_text(head="[[pods]]\nname = 'seeded'").replace(
        "[[containers]]", "[[pods.containers]]"
    )
    notifying.config.write_text(f"{text}workers = 7\n{seed}")
    assert reload(notifying, manager) == (
        "1 pods; changed and waiting for a restart of the agent: reconcile.workers"
    )
    notifying.wait_phase("seeded", "running")
    notifying.write("failing", notifying.pod_text(command=["/bin/sh", "-c", "exit 1"]))
    assert notifying.wait_phase("failing", "backing-off")["next_retry"] is not None


def test_a_configuration_with_errors_changes_nothing(notifying: Agent, manager: Manager) -> None:
    manager.next("READY")
    good = notifying.config.read_text()
    notifying.config.write_text("nonsense = 1\n")
    errors = "0 pods; agent.toml has errors, the former one counts"
    assert reload(notifying, manager) == errors
    assert "nonsense" in notifying.log.read_text()
    # `systemctl status` still says it when somebody looks.
    assert manager.next("STATUS")["STATUS"] == errors
    notifying.config.write_text(good)
    assert reload(notifying, manager) == "0 pods"
    assert manager.next("STATUS")["STATUS"] == "0 pods"


def test_drain_stops_what_a_dead_agent_left_and_the_next_one_starts_it_again(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    refused = agent.tank("agent", "--config", str(agent.config), "--drain")
    assert refused.returncode == 1
    assert "another agent runs" in refused.stderr
    agent.kill()
    drained = agent.tank("agent", "--config", str(agent.config), "--drain")
    assert drained.returncode == 0, drained.stderr
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the container is gone")
    assert agent.leftovers() == []
    agent.start()
    assert agent.wait_phase("web", "running")["containers"][0]["restarts"] <= 1


@pytest.mark.parametrize("text", ["nonsense = 1\n", "not TOML"])
def test_a_configuration_with_errors_does_not_keep_pods_from_stopping_in_order(
    agent: Agent, text: str
) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    agent.kill()
    good = agent.config.read_text()
    agent.config.write_text(text)
    # Where data_dir was, only the run_dir knows.
    drained = agent.tank("agent", "--config", str(agent.config), "--run-dir", str(agent.run), "--drain")
    assert drained.returncode == 0, drained.stderr
    assert "the settings have errors" in drained.stderr + drained.stdout
    assert agent.leftovers() == []
    agent.config.write_text(good)
    agent.start()
    agent.wait_phase("web", "running")
    assert [e.message for e in agent.client.events() if e.type == "stopping"] == ["signal 15"]


def test_what_runs_once_does_not_run_again_after_a_shutdown(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.write("job", agent.pod_text(head='restart = "never"'))
    agent.write("retried", agent.pod_text(head='restart = "on-failure"'))
    agent.start("--stop-pods")
    with ended(agent):
        for name in ("job", "retried"):
            agent.wait_phase(name, "running")
        assert agent.stop() == 0
        agent.start()
        agent.wait_phase("retried", "running")
        status = agent.wait_phase("job", "failed")
        assert "stopped before its end" in status["containers"][0]["exit"]["reason"]
        assert agent.output("job") == ["started"]
        # It runs again when it is another.
        agent.write("job", agent.pod_text(head='restart = "never"', extra='env = { A = "b" }'))
        agent.wait_phase("job", "running")
