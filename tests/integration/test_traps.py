"""Traps that users of other orchestrators fell into (links in the tests); here each of them ends well."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.agent import Agent, wait_for

# Holds a lock on its volume while it lives, says when somebody else does, and needs a moment to end.
ALONE = """
busybox() {{ /bin/busybox "$@"; }}
busybox mkdir /data/lock || echo overlap
trap 'sleep {ends}; busybox rmdir /data/lock; exit 0' TERM
echo {word}
while :; do sleep 1000 & wait $!; done
"""
MOUNT = (
    'stop_grace = "10s"\n[[containers.mounts]]\nvolume = "data"\npath = "/data"\n[[volumes]]\nname = "data"'
)


def alone(agent: Agent, word: str, ends: float = 0.5) -> str:
    """Return a pod of which two at a time would show."""
    script = ALONE.format(word=word, ends=ends)
    return agent.pod_text(command=["/bin/sh", "-c", script], extra=MOUNT)


def words(agent: Agent) -> list[str]:
    return agent.output("web")


def test_edits_within_the_grace_end_at_the_last_one_and_never_run_side_by_side(agent: Agent) -> None:
    # kubernetes#97722 (stuck after two quick edits), #112814 (old and new together).
    agent.write("web", alone(agent, "one"))
    wait_for(lambda: words(agent) == ["one"], "the first runs")
    agent.write("web", alone(agent, "two"))
    agent.wait_phase("web", "stopping")
    agent.write("web", alone(agent, "three"))
    agent.client.sync()
    agent.write("web", alone(agent, "four"))
    wait_for(lambda: words(agent)[-1] == "four", "the last runs")
    agent.wait_phase("web", "running")
    assert words(agent) == ["one", "four"]


def test_an_edit_that_is_taken_back_within_the_grace_runs_again(agent: Agent) -> None:
    agent.write("web", alone(agent, "one"))
    wait_for(lambda: words(agent) == ["one"], "the first runs")
    agent.write("web", alone(agent, "two"))
    agent.wait_phase("web", "stopping")
    agent.write("web", alone(agent, "one"))
    wait_for(lambda: words(agent) == ["one", "one"], "the first runs again")
    agent.wait_phase("web", "running")


def test_a_file_that_comes_back_within_the_grace_runs_again(agent: Agent) -> None:
    # kubernetes#109596, #52939: pods that never come back.
    file = agent.write("web", alone(agent, "one"))
    wait_for(lambda: words(agent) == ["one"], "the first runs")
    log = agent.data / "logs" / "web" / "app.log"
    with log.open() as kept:
        file.unlink()
        agent.wait_phase("web", "stopping")
        agent.write("web", alone(agent, "two"))
        wait_for(lambda: log.exists() and words(agent)[-1:] == ["two"], "the second runs")
        agent.wait_phase("web", "running")
        assert "overlap" not in kept.read() + log.read_text()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_what_changed_while_no_agent_ran_is_made_so_at_its_start(agent: Agent, end: str) -> None:
    # kubernetes#112814, #43292 (pods stay after their file went), doco-cd#1746 (missed while it was down).
    agent.write("web", alone(agent, "one"))
    gone = agent.write("gone", agent.pod_text())
    agent.write("kept", agent.pod_text())
    for name in ("web", "gone", "kept"):
        agent.wait_phase(name, "running")
    kept = agent.pid("kept")
    getattr(agent, end)()
    agent.write("web", alone(agent, "two"))
    agent.write("new", agent.pod_text())
    gone.unlink()
    agent.start()
    agent.wait_gone("gone")
    agent.wait_phase("new", "running")
    wait_for(lambda: words(agent) == ["one", "two"], "the change runs alone")
    agent.wait_phase("web", "running")
    assert agent.pid("kept") == kept


def test_drift_of_the_time_without_an_agent_is_healed(agent: Agent) -> None:
    # k3s#3711, doco-cd#1746.
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.kill()
    link = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "link"]
    subprocess.run([*link, "set", "lo", "down"], check=True)
    agent.start()

    def is_up() -> bool:
        shown = subprocess.run([*link, "show", "lo"], check=True, capture_output=True, text=True).stdout
        return "LOOPBACK,UP" in shown

    wait_for(is_up, "loopback is up again")
    assert agent.pid("web") == pid


def test_an_image_that_cannot_be_had_leaves_the_old_container_running(agent: Agent) -> None:
    # podman#18353, docker/compose#1663: the old one goes only when the new image is there.
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    image = f'image = "127.0.0.1:9/web:1"\n# rootfs = "{agent.rootfs}"'
    agent.write("web", agent.pod_text().replace(f'rootfs = "{agent.rootfs}"', image))
    wait_for(lambda: "127.0.0.1:9" in ((agent.status("web") or {})["error"] or ""), "the status says why")
    agent.client.sync(wait=2)
    assert agent.pid("web") == pid
    agent.write("web", agent.pod_text())
    agent.client.sync(wait=10)
    status = agent.wait_phase("web", "running")
    assert (status["error"], agent.pid("web"), words(agent)) == (None, pid, ["started"])


def test_a_renamed_file_can_still_be_removed(agent: Agent) -> None:
    # portainer#11704.
    first = agent.write("a", agent.pod_text(head='name = "web"'))
    agent.wait_phase("web", "running")
    second = first.rename(agent.pods / "b.toml")
    wait_for(lambda: (agent.status("web") or {}).get("owner") == f"dir:{second}", "the owner moves")
    second.unlink()
    agent.wait_gone("web")


def test_a_backup_beside_the_file_is_never_taken_for_it(agent: Agent) -> None:
    # kubernetes#136962: web.toml.bak won over web.toml.
    file = agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    text = alone(agent, "backup")
    for name in ("web.toml.bak", "web.toml~", ".web.toml.swp", "web.toml.orig", "#web.toml#", "4913"):
        (file.parent / name).write_text(text)
    agent.client.sync()
    assert (agent.pid("web"), [pod["name"] for pod in agent.statuses()]) == (pid, ["web"])
    # Also when they are all that is there.
    file.unlink()
    agent.wait_gone("web")
    assert agent.statuses() == []
    for entry in file.parent.iterdir():
        entry.unlink()


def test_data_stays_until_somebody_says_otherwise(agent: Agent) -> None:
    # argo-cd#3484, komodo#1030, dockhand#831: prune took data along.
    agent.write("web", alone(agent, "one", ends=0))
    agent.wait_phase("web", "running")
    data = Path(agent.data, "volumes", "web", "data")
    (data / "kept").write_text("data")
    (agent.pods / "web.toml").unlink()
    agent.wait_gone("web")
    agent.write("web", alone(agent, "two", ends=0))
    agent.wait_phase("web", "running")
    assert (data / "kept").read_text() == "data"
    refused = agent.tank("volume", "rm", "web/data")
    assert (refused.returncode, [entry.name for entry in data.parent.iterdir()]) == (1, ["data"])
