"""A person stops, starts and restarts pods: what runs, over agents and reboots, and what is said of it."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tank_agent.errors import AgentUnreachable, NotRunning, Stalled
from tests.support.agent import SERVE, Agent, running_agent, wait_for

TWO = """
[[containers]]
name = "db"
rootfs = "{rootfs}"
command = {serve}
[[containers]]
name = "app"
after = ["db"]
rootfs = "{rootfs}"
command = {serve}
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("hand"), backoff_base="60s", backoff_cap="60s") as started:
        yield started


def status_of(agent: Agent, pod: str) -> dict[str, Any]:
    found = agent.status(pod)
    assert found is not None
    return found


def run_of(agent: Agent, pod: str, container: str = "app") -> tuple[int, str]:
    """Return the process and the start of a container that runs."""
    found = next(one for one in status_of(agent, pod)["containers"] if one["name"] == container)
    return found["pid"], found["started_at"]


def two(agent: Agent, name: str, head: str = "") -> None:
    """Run a pod of two containers, of which one starts after the other."""
    agent.write(name, head + TWO.format(rootfs=agent.rootfs, serve=json.dumps(SERVE)))
    agent.client.wait(name, "ready")


def events(agent: Agent, pod: str) -> list[Any]:
    return list(agent.client.events(pod=pod))


def restarts(agent: Agent, pod: str) -> int:
    return sum(one["restarts"] for one in status_of(agent, pod)["containers"])


def test_stopped_it_stays_over_agents_and_a_new_file_until_it_is_started(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.client.wait("web", "ready")
    first = run_of(agent, "web")
    said = agent.tank("stop", "web", "web", "nobody", "--wait")
    assert said.returncode == 1
    assert said.stdout == "web stops; `tank start web` starts it again\n"
    assert "there is no pod nobody" in said.stderr
    status = status_of(agent, "web")
    assert (status["phase"], status["containers"][0]["phase"]) == ("stopped", "stopped")
    assert status["stopped"] is not None
    assert agent.tank("stop", "web").stdout == f"web is stopped already, since {status['stopped']}\n"
    assert "`tank start web` starts it" in agent.tank("status", "web").stdout
    assert "stopped" in agent.tank("status").stdout
    why = agent.tank("why", "web").stdout
    assert f"web is stopped since {status['stopped']}" in why
    assert "`tank start web` lets it run again" in why
    agent.kill()
    agent.start()
    agent.write("web", agent.pod_text(extra='env = { NEW = "1" }'))
    wait_for(lambda: status_of(agent, "web")["generation"] == 2, "the file counts")
    agent.client.sync(wait=20)
    assert status_of(agent, "web")["phase"] == "stopped"
    assert agent.tank("start", "web", "--wait").stdout == "web was stopped, and runs again\n"
    assert run_of(agent, "web") != first
    assert agent.client.exec("web", ["sh", "-c", "test $NEW = 1"]).status == 0
    assert restarts(agent, "web") == 0
    assert agent.tank("start", "web").stdout.startswith(
        "web is not stopped: it is running; `tank restart web`"
    )
    asked = {event.type: event for event in events(agent, "web") if event.type.endswith("-asked")}
    assert asked["stop-asked"].message.startswith("stopped: nothing of it runs")
    assert {event.by for event in asked.values()} == {"root"}
    assert asked["start-asked"].cause == "tank start by root"
    assert [event.cause for event in events(agent, "web") if event.type == "stopping"] == [
        "tank stop by root"
    ]


def test_a_stopped_pod_with_what_else_a_person_types(agent: Agent) -> None:
    text = agent.pod_text(head='name = "mine"')
    file = agent.home / "mine.toml"
    file.write_text(text)
    agent.client.apply(file)
    agent.client.stop("mine")
    agent.client.wait("mine", "stopped")
    with pytest.raises(NotRunning, match="mine/app is not running: it is stopped"):
        agent.client.exec("mine", ["true"])
    file.write_text(text + 'env = { NEW = "1" }\n')
    assert "mine changed; it is stopped until `tank start mine`" in agent.tank("apply", str(file)).stdout
    assert "it is stopped, and runs once you `tank start mine`" in agent.tank("rollback", "mine").stdout
    agent.write("behind", 'after = ["mine"]\n' + agent.pod_text())
    waits = ("waits for pod mine: stopped",)
    assert agent.client.wait("behind", "pending").waits == waits
    assert "`tank start mine` starts pod mine" in agent.tank("why", "behind").stdout
    (planned,) = [pod for pod in agent.client.plan().pods if pod.name == "mine"]
    assert planned.actions == ()
    assert "nothing of it runs until `tank start mine`" in planned.notes[0]
    assert agent.client.restart("mine").change == "started"
    agent.client.wait("behind", "ready")
    agent.client.stop("mine")
    assert agent.client.delete("mine")
    agent.client.wait("mine", "deleted")
    # One of that name that comes later was never stopped.
    agent.client.apply(file)
    agent.client.wait("mine", "ready")
    agent.client.delete("mine")


def test_a_restart_is_in_order_afresh_and_no_failure(agent: Agent) -> None:
    two(agent, "both")
    before = {name: run_of(agent, "both", name) for name in ("db", "app")}
    said = agent.tank("restart", "both", "--wait")
    assert (said.returncode, said.stdout) == (0, "both restarts\n")
    after = {name: run_of(agent, "both", name) for name in ("db", "app")}
    assert all(after[name] != before[name] for name in before)
    order = [
        (event.type, event.container)
        for event in events(agent, "both")
        if event.type in ("stopping", "started")
    ]
    assert order[2:] == [("stopping", "app"), ("stopping", "db"), ("started", "db"), ("started", "app")]
    assert restarts(agent, "both") == 0
    agent.client.restart("both/app")
    agent.client.wait("both", "ready")
    assert run_of(agent, "both", "db") == after["db"]
    assert run_of(agent, "both", "app") != after["app"]
    with pytest.raises(Exception, match="pod both has no container nobody"):
        agent.client.restart("both/nobody")


def test_what_ended_starts_afresh_at_once(agent: Agent) -> None:
    text = 'restart = "{}"\n' + agent.pod_text(command=["/bin/sh", "-c", "echo ran; exit {}"])
    for policy, code, phase in (
        ("always", 3, "backing-off"),
        ("never", 3, "failed"),
        ("never", 0, "completed"),
    ):
        name = f"once-{phase}"
        agent.write(name, text.format(policy, code))
        agent.client.wait(name, phase)
        assert agent.output(name).count("ran") == 1
        agent.client.restart(name)
        wait_for(lambda name=name: agent.output(name).count("ran") == 2, "it runs again")
        agent.client.wait(name, phase)


def test_a_job_is_run_and_not_restarted_and_stopped_it_begins_none(agent: Agent) -> None:
    agent.write("nightly", 'schedule = "0 3 * * *"\nrestart = "never"\n' + agent.pod_text())
    agent.client.wait("nightly", "scheduled")
    with pytest.raises(Stalled, match="nightly is a job") as caught:
        agent.client.restart("nightly")
    assert caught.value.hint == "`tank run nightly` runs it now"
    agent.client.run("nightly")
    agent.client.wait("nightly", "running")
    assert agent.client.stop("nightly").message.startswith("nightly stops, and its run 1 ends")
    agent.client.wait("nightly", "stopped")
    job = agent.client.status("nightly").job
    assert job is not None and job.run is None
    assert (job.runs[-1].outcome, job.runs[-1].reason) == ("failed", "its pod was stopped")
    with pytest.raises(Stalled, match="job nightly is stopped since"):
        agent.client.run("nightly")
    assert "at the times of its schedule" in agent.client.start("nightly").message
    agent.client.wait("nightly", "scheduled")


def test_init_containers_run_again_with_the_whole_pod_only(agent: Agent) -> None:
    init = f'[[containers]]\nname = "init"\ninit = true\nrootfs = "{agent.rootfs}"\n'
    init += 'command = ["/bin/echo", "prepared"]\n'
    agent.write("prepared", agent.pod_text() + init)
    agent.client.wait("prepared", "ready")
    agent.client.restart("prepared/app")
    agent.client.wait("prepared", "ready")
    assert agent.output("prepared", "init").count("prepared") == 1
    agent.client.restart("prepared")
    agent.client.wait("prepared", "ready")
    assert agent.output("prepared", "init").count("prepared") == 2
    with pytest.raises(Stalled, match="container init of prepared is init"):
        agent.client.restart("prepared/init")


def test_a_file_of_the_host_that_was_replaced_is_seen_by_the_next_run(agent: Agent, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    conf.write_text("old")
    mounts = f'[[volumes]]\nname = "conf"\nhost = "{conf}"\n'
    mount = '[[containers.mounts]]\nvolume = "conf"\npath = "/conf"\n'
    agent.write("reader", mounts + agent.pod_text(extra=mount))
    agent.client.wait("reader", "ready")
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").rename(conf)
    assert agent.tank("exec", "reader", "--", "cat", "/conf").stdout == "old"
    agent.client.restart("reader")
    # A session waits for the next run.
    assert agent.tank("exec", "reader", "--", "cat", "/conf").stdout == "new"


# Where the agent is killed: on the way to the end, between the runs, and on the way up.
FAULTS = [
    "runtime:signalled",
    "runtime:signalled@2",
    "runtime:deleted",
    "runtime:cgroup-removed",
    "runtime:removed",
    "network:namespace-unmounted",
    "network:namespace-pinned",
    "runtime:bundle-begun",
    "runtime:bundle-made",
    "runtime:overlay-made",
    "runtime:conmon-spawned",
    "runtime:created",
    "loop:start-recorded",
    "runtime:started",
    "loop:start-recorded@2",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_kill_at_any_moment_makes_one_restart_of_it(tmp_path: Path, fault: str) -> None:
    with running_agent(tmp_path) as agent:
        two(agent, "killed")
        agent.kill()
        agent.launch(fault=fault)
        wait_for(agent._answers, "the agent answers")
        with contextlib.suppress(AgentUnreachable):
            # It may die before it has answered.
            agent.client.restart("killed")
        assert agent.died() == -signal.SIGKILL
        agent.start()
        agent.client.wait("killed", "ready")
        printed = [agent.output("killed", container) for container in ("db", "app")]
        assert printed == [["started", "started"]] * 2
        assert restarts(agent, "killed") == 0
