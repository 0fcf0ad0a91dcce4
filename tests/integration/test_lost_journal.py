"""A journal that is new, empty or an older one is never read as "nothing is wanted": what runs goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tank_agent import Pod
from tests.support.agent import SERVE, Agent, wait_for


def apply(agent: Agent, name: str) -> None:
    container = {"name": "app", "rootfs": str(agent.rootfs), "command": SERVE, "stop_grace": "300ms"}
    agent.client.apply(Pod.new({"name": name, "containers": [container]}))
    agent.wait_phase(name, "running")


def empty(journal: Path) -> None:
    (journal / "data.mdb").write_bytes(b"")


def remove(journal: Path) -> None:
    shutil.rmtree(journal)


def replace_by_older(journal: Path) -> None:
    shutil.rmtree(journal)
    shutil.copytree(journal.with_name("older"), journal)


@pytest.mark.parametrize("damage", [empty, remove, replace_by_older])
def test_pods_that_the_journal_does_not_know_go_on_until_somebody_says_a_word(
    agent: Agent, damage: Callable[[Path], None]
) -> None:
    journal = agent.data / "journal"
    apply(agent, "before")
    agent.kill()
    shutil.copytree(journal, journal.with_name("older"))
    agent.start()
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    for name in ("api", "other"):
        apply(agent, name)
    pids = {name: agent.pid(name) for name in ("web", "api", "other")}
    agent.kill()
    damage(journal)
    # Also after another start, and though a file asks for other pods.
    for _ in range(2):
        agent.start()
        agent.wait_phase("web", "running")
        agent.client.sync()
        for name in ("api", "other"):
            status = agent.wait_phase(name, "degraded")
            assert "the journal does not know it" in status["error"]
            assert "`tank delete`" in status["error"]
        assert {name: agent.pid(name) for name in pids} == pids
        assert {"api", "other"} <= {event.pod for event in agent.client.events() if event.type == "unclaimed"}
        assert agent.tank("plan").returncode == 0
        agent.kill()
    agent.start()
    assert agent.tank("sync", "--wait", "--timeout", "5").returncode == 1
    # One is wanted again, as it is; the other is not.
    apply(agent, "other")
    assert agent.pid("other") == pids["other"]
    assert agent.tank("delete", "api").returncode == 0
    agent.wait_gone("api")
    assert agent.tank("delete", "api").returncode == 0
    agent.client.delete("other")
    agent.wait_gone("other")
    if damage is replace_by_older:
        agent.client.delete("before")


def test_what_a_journal_let_go_is_removed_by_the_next_agent(agent: Agent) -> None:
    apply(agent, "api")
    file = agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    agent.kill()
    agent.launch(fault="runtime:signalled")
    wait_for(lambda: agent.tank("list").returncode == 0, "it answers")
    # Its answer may be lost with the agent.
    agent.tank("delete", "api")
    agent.died()
    file.unlink()
    agent.start()
    agent.wait_gone("api")
    agent.wait_gone("web")


def test_a_file_claims_what_runs_and_its_removal_ends_it(agent: Agent) -> None:
    file = agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.kill()
    text = file.read_text()
    file.unlink()
    remove(agent.data / "journal")
    agent.start()
    agent.wait_phase("web", "degraded")
    file.write_text(text)
    agent.wait_phase("web", "running")
    assert agent.pid("web") == pid
    file.unlink()
    agent.wait_gone("web")
