"""Somebody removes what the agent keeps in run_dir, piece by piece: containers go on, and all is mended."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tank_agent.errors import AgentUnreachable
from tests.support.agent import Agent, wait_for

EDITED = 'env = { EDITED = "yes" }'
# What a pod leaves there; `*` is what its run's id ends with.
OF_A_POD = [
    "containers/{}-app-*",
    "containers/{}-app-*/attach",
    "containers/{}-app-*/config.json",
    "containers/{}-app-*/conmon.log",
    "containers/{}-app-*/conmon.pid",
    "containers/{}-app-*/container.pid",
    "containers/{}-app-*/crun.log",
    "containers/{}-app-*/ctl",
    "containers/{}-app-*/record.json",
    "containers/{}-app-*/rootfs",
    "containers/{}-app-*/sync",
    "containers/{}-app-*/winsz",
    "crun/{}-app-*",
    "crun/{}-app-*/config.json",
    "crun/{}-app-*/seccomp.bpf",
    "crun/{}-app-*/status",
    "netns/{}",
    "pods/{}",
    "pods/{}/hostname",
    "pods/{}/hosts",
    "pods/{}/resolv.conf",
]
# What all pods share; those of the control groups are not there on every host.
SHARED = ["agent.lock", "containers", "crun", "exec", "netns", "pods", "tank.sock"]
VIEW = ["cgroup-view", "cgroup-view.fstab", "cgroup-view.sh"]


def remove(agent: Agent, pieces: Iterable[str]) -> None:
    """Remove files and directories below run_dir as `rm -rf` does: what is mounted there stays."""
    for path in [path for piece in pieces for path in agent.run.glob(piece)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            # A namespace that is mounted there.
            with suppress(OSError):
                path.unlink()


def statuses(agent: Agent) -> dict[str, dict[str, Any]] | None:
    """Return the status of every pod by name; None while nobody listens."""
    try:
        return {pod["name"]: pod for pod in agent.statuses()}
    except AgentUnreachable:
        return None


def wait_until_all_run(agent: Agent, names: Iterable[str], generation: int) -> dict[str, int]:
    """Wait until pods are well and run what they should, and return their processes."""
    wanted = dict.fromkeys(names, ("running", None, generation))

    def found() -> dict[str, tuple[object, ...]]:
        now = statuses(agent) or {}
        return {name: (pod["phase"], pod["error"], pod["generation"]) for name, pod in now.items()}

    wait_for(lambda: found() == wanted, f"all run as generation {generation}: {found()}", 40)
    return {name: pod["containers"][0]["pid"] for name, pod in (statuses(agent) or {}).items()}


def live_through(agent: Agent, pods: dict[str, list[str]]) -> None:
    """Take pieces of run_dir away under an agent: it starts again, pods are changed, and removed."""
    for name in pods:
        agent.write(name, agent.pod_text())
    before = wait_until_all_run(agent, pods, 1)
    lost = [piece for pieces in pods.values() for piece in pieces]
    remove(agent, lost)
    agent.kill()
    agent.start()
    assert wait_until_all_run(agent, pods, 1) == before
    remove(agent, lost)
    for name in pods:
        agent.write(name, agent.pod_text(extra=EDITED))
    after = wait_until_all_run(agent, pods, 2)
    assert not set(after.values()) & set(before.values())
    remove(agent, lost)
    for name in pods:
        (agent.pods / f"{name}.toml").unlink()
    wait_for(lambda: statuses(agent) == {}, "all are gone", 40)
    assert "Traceback" not in agent.log.read_text()


def test_the_tables_name_all_that_is_in_run_dir(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    (run,) = (path.name for path in (agent.run / "containers").iterdir())
    there = {str(path.relative_to(agent.run)) for path in agent.run.rglob("*")}
    named = {piece.format("web").replace("web-app-*", run) for piece in (*OF_A_POD, *SHARED, *VIEW)}
    assert there <= named


def test_a_pod_outlives_each_of_its_files(agent: Agent) -> None:
    live_through(agent, {f"p{number}": [piece.format(f"p{number}")] for number, piece in enumerate(OF_A_POD)})


@pytest.mark.parametrize("pieces", [*([piece] for piece in SHARED), VIEW, ["*"]], ids=" ".join)
def test_pods_outlive_what_they_share(agent: Agent, pieces: list[str]) -> None:
    live_through(agent, {"web": pieces})


def test_the_whole_run_dir_comes_back(agent: Agent, tmp_path: Path) -> None:
    agent.write("web", agent.pod_text())
    pid = wait_until_all_run(agent, ["web"], 1)
    remove(agent, ["*"])
    wait_for(lambda: statuses(agent) is not None, "it listens again")
    assert wait_until_all_run(agent, ["web"], 1) == pid
    assert agent.tank("exec", "web", "--", "/bin/true").returncode in (0, 1)
    other = Agent(tmp_path / "other")
    other.config.write_text(agent.config.read_text().replace(str(agent.data), str(other.data)))
    other.launch()
    assert other.died() == 1
    assert "another agent runs with" in other.log.read_text()
