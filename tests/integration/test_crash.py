"""The agent is killed at every step of bringing up and of tearing down; the next one finishes the work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import tank_agent
from tank_agent.linux import mounts
from tests.support.agent import Agent, ended, wait_for


def _points() -> list[str]:
    """Return the fault points of the loop, the runtime and the network of pods without interfaces."""
    source = "".join(path.read_text() for path in sorted(Path(tank_agent.__file__).parent.rglob("*.py")))
    named = set(re.findall(r'point\("((?:runtime|loop|network:namespace)[^"]*)"\)', source))
    return sorted(named | {"runtime:record.json", "runtime:stopping.json"})


UP = [
    "loop:start-recorded",
    "network:namespace-made",
    "runtime:bundle-begun",
    "runtime:bundle-made",
    "runtime:conmon-spawned",
    "runtime:created",
    "runtime:overlay-made",
    "runtime:record.json",
    "runtime:started",
]
DOWN = [
    "network:namespace-unmounted",
    "runtime:cgroup-removed",
    "runtime:deleted",
    "runtime:detached",
    "runtime:removed",
    "runtime:signalled",
    "runtime:stopping.json",
]


@pytest.fixture
def stopped_agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent that does not run yet."""
    agent = Agent(tmp_path)
    with ended(agent):
        yield agent


def test_every_fault_point_is_tried() -> None:
    # Tried by test_limits.py, test_mounts.py, test_contents.py, test_user_namespace.py, and by the tests of
    # the network alone.
    elsewhere = {
        "network:namespace-pinned",
        "runtime:bound-again",
        "runtime:content-beneath",
        "runtime:content-mounted",
        "runtime:content-signalled",
        "runtime:content-written",
        "runtime:layers-mapped",
        "runtime:limits-written",
        "runtime:mounted-again",
        "runtime:secrets-mounted",
        "runtime:secrets-removed",
        "runtime:subpath-made",
    }
    assert elsewhere <= set(_points())
    assert set(UP) | set(DOWN) | elsewhere == set(_points())


@pytest.mark.parametrize("point", UP)
def test_killed_while_bringing_up(stopped_agent: Agent, point: str) -> None:
    agent = stopped_agent
    agent.write("web", agent.pod_text())
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    before = agent.output("web")
    agent.start()
    status = agent.wait_phase("web", "running")
    assert len(agent.conmons()) == 1
    # What ran already goes on; what never began begins once, and neither counts as a restart.
    wait_for(lambda: agent.output("web"), "it prints")
    assert agent.output("web") == ["started"]
    assert status["containers"][0]["restarts"] == 0
    if point == "runtime:started":
        assert before in ([], ["started"])


def _left(agent: Agent) -> list[Path]:
    """Return what the agent's directories have of a pod, by its name."""
    places = [*agent.run.glob("*/*"), *(agent.data / "logs").iterdir(), *(agent.data / "overlay").iterdir()]
    return [path for path in places if path.name.startswith("web")]


@pytest.mark.parametrize(
    ("point", "network"),
    # Of the machine's network there is no namespace to make.
    [
        (point, mode)
        for point in UP
        for mode in ("none", "host")
        if (mode, point) != ("host", "network:namespace-made")
    ],
)
def test_killed_while_bringing_up_a_pod_whose_file_is_gone_by_the_next_start(
    stopped_agent: Agent, point: str, network: str
) -> None:
    agent = stopped_agent
    file = agent.write("web", agent.pod_text(head=f'network = "{network}"'))
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    file.unlink()
    agent.start()
    agent.wait_gone("web")
    assert _left(agent) == []


@pytest.mark.parametrize("first", ["runtime:bundle-made", "runtime:created"])
@pytest.mark.parametrize("point", ["runtime:deleted", "runtime:removed", "network:namespace-unmounted"])
def test_killed_again_while_it_takes_away_what_never_began(
    stopped_agent: Agent, first: str, point: str
) -> None:
    agent = stopped_agent
    file = agent.write("web", agent.pod_text())
    agent.launch(fault=first)
    assert agent.died() == -signal.SIGKILL
    file.unlink()
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_gone("web")
    assert _left(agent) == []


@pytest.mark.parametrize("point", DOWN)
def test_killed_while_tearing_down(stopped_agent: Agent, point: str) -> None:
    agent = stopped_agent
    agent.write("web", agent.pod_text())
    agent.start()
    agent.wait_phase("web", "running")
    agent.kill()
    (agent.pods / "web.toml").unlink()
    agent.write("other", agent.pod_text())
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_gone("web")
    agent.wait_phase("other", "running")
    assert len(agent.conmons()) == 1


@pytest.mark.parametrize("point", [point for point in DOWN + UP if point != "network:namespace-pinned"])
def test_killed_while_replacing(stopped_agent: Agent, point: str) -> None:
    agent = stopped_agent
    agent.write("web", agent.pod_text())
    agent.start()
    agent.wait_phase("web", "running")
    agent.wait_output("web", "started")
    agent.kill()
    agent.write("web", agent.pod_text(extra='env = { EDITED = "yes" }'))
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    status = agent.wait_phase("web", "running")
    assert status["generation"] == 2
    assert len(agent.conmons()) == 1
    # crun says that it is started a moment before its init becomes the program.
    environment = Path(f"/proc/{agent.pid('web')}/environ")
    wait_for(lambda: b"EDITED=yes" in environment.read_bytes().split(b"\0"), "the new one runs")
    wait_for(lambda: len(agent.output("web")) >= 2, "both have printed")
    assert agent.output("web") == ["started", "started"]


def test_a_killed_agent_leaves_containers_alone(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.write("web", agent.pod_text())
    agent.write("two", agent.pod_text())
    agent.start()
    pids = [agent.wait_phase(name, "running") and agent.pid(name) for name in ("web", "two")]
    for _ in range(3):
        agent.kill()
        agent.start()
        assert [agent.wait_phase(name, "running") and agent.pid(name) for name in ("web", "two")] == pids
    assert agent.output("web") == ["started"]
    # The ends of adopted containers are noticed as well as those of one's own.
    agent.stop()
    agent.start()
    os.kill(agent.pid("web"), signal.SIGKILL)
    wait_for(lambda: agent.output("web") == ["started", "started"], "the adopted container is restarted")
    status = agent.wait_phase("web", "running")
    assert status["containers"][0]["restarts"] == 1
    assert status["containers"][0]["exit"]["signal"] == signal.SIGKILL


def test_a_monitor_that_is_killed_while_no_agent_runs(stopped_agent: Agent) -> None:
    agent = stopped_agent
    # Silent, and it ends by SIGKILL only.
    agent.write("web", agent.pod_text(command=["/bin/sleep", "100000"]))
    agent.start()
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.kill()
    for monitor in agent.conmons():
        os.kill(monitor, signal.SIGKILL)
    wait_for(lambda: not agent.conmons(), "the monitor is gone")
    assert Path(f"/proc/{pid}").exists()
    agent.start()
    # What nobody watches is replaced.
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "it is ended")
    status = agent.wait_phase("web", "running")
    assert status["containers"][0]["restarts"] == 1
    assert len(agent.conmons()) == 1


def test_an_end_while_no_agent_runs_is_recorded(stopped_agent: Agent) -> None:
    agent = stopped_agent
    command = ["/bin/sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 3"]
    agent.write("job", agent.pod_text(command=command, head='restart = "never"'))
    agent.start()
    agent.wait_phase("job", "running")
    root = Path(f"/proc/{agent.pid('job')}/root")
    agent.kill()
    (root / "tmp" / "go").touch()
    wait_for(lambda: not root.exists(), "the job ends")
    agent.start()
    status = agent.wait_phase("job", "failed")
    assert status["containers"][0]["exit"]["code"] == 3
    assert status["containers"][0]["restarts"] == 0


def test_run_dir_lost_while_no_agent_runs(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.write("web", agent.pod_text())
    agent.start()
    agent.wait_phase("web", "running")
    first = agent.pid("web")
    agent.kill()
    subprocess.run(f"umount {agent.run}/netns/*; rm -rf {agent.run}/*", shell=True, check=True)
    agent.start()
    assert agent.wait_phase("web", "running")["error"] is None
    # Found again by what its private directory below data_dir says; what it lost in run_dir is made again.
    assert agent.pid("web") == first
    assert len(agent.conmons()) == 1
    agent.write("web", agent.pod_text(extra='env = { WORD = "new" }'))
    wait_for(lambda: not Path(f"/proc/{first}").exists(), "it can be replaced")
    agent.wait_phase("web", "running")
    assert len(agent.conmons()) == 1


def test_what_resists_removal_keeps_no_agent_from_starting(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.write("web", agent.pod_text())
    agent.start()
    agent.wait_phase("web", "running")
    stubborn = Path(f"/proc/{agent.pid('web')}/root/tmp/stubborn")
    stubborn.touch()
    agent.kill()
    (upper,) = (agent.data / "overlay").iterdir()
    subprocess.run(["chattr", "+i", str(upper / "upper" / "tmp" / "stubborn")], check=True)
    try:
        agent.write("web", agent.pod_text(extra='env = { WORD = "new" }'))
        agent.start()
        wait_for(lambda: "cannot delete what a container left" in agent.log.read_text(), "it is told")
        agent.kill()
        agent.start()
        agent.wait_phase("web", "running")
    finally:
        for path in agent.data.glob("*/*/upper/tmp/stubborn"):
            subprocess.run(["chattr", "-i", str(path)], check=True)


def test_a_program_that_looks_like_a_monitor_is_not_believed(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.write("web", agent.pod_text())
    agent.start()
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.kill()
    (bundle,) = (agent.run / "containers").iterdir()
    words = ["conmon", "-c", "echo; read _", "-b", str(bundle)]
    impostors = [
        subprocess.Popen(words, executable="/bin/sh", user=65534, group=65534, stdin=-1, stdout=-1)
        for _ in range(3)
    ]
    try:
        for impostor in impostors:
            assert impostor.stdout is not None
            impostor.stdout.read(1)
        agent.start()
        agent.wait_phase("web", "running")
    finally:
        for impostor in impostors:
            impostor.communicate(b"\n")
    # It looks again whenever one of its monitors has ended.
    agent.tank("sync")
    assert agent.wait_phase("web", "running")["containers"][0]["restarts"] == 0
    assert agent.pid("web") == pid


def test_a_start_that_the_disk_refuses_is_told_and_tried_again(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.start()
    obstacle = agent.data / "logs" / "web"
    obstacle.touch()
    agent.write("web", agent.pod_text())

    def error() -> str:
        return str((agent.status("web") or {}).get("error"))

    wait_for(lambda: f"cannot start {obstacle}: File exists" in error(), "the error names it")
    obstacle.unlink()
    agent.wait_phase("web", "running")
    wait_for(lambda: agent.output("web") == ["started"], "it prints")


def test_what_a_killed_run_of_crun_left_is_removed(agent: Agent) -> None:
    """crun mounts its own program over an empty file before all else; killed then, it leaves both behind."""
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    (mounted, empty) = (agent.run / "crun" / f"crun.{name}" for name in ("AbC123", "xyz789"))
    mounted.touch(0o000)
    empty.touch(0o000)
    mounts.mount("/usr/bin/crun", mounted, "", mounts.MS_BIND)
    pid = agent.pid("web")
    wait_for(lambda: not mounted.exists() and not empty.exists(), "a resync removes what stays")
    agent.write("web", agent.pod_text(extra='env = { A = "b" }'))

    def is_replaced() -> bool:
        status = agent.wait_phase("web", "running")
        return bool(status["containers"][0]["pid"] != pid)

    wait_for(is_replaced, "it is replaced")
    mounted.touch(0o000)
    agent.kill()
    agent.start()
    assert not mounted.exists()
