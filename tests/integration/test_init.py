"""Init containers on a real agent: they run one by one, each to its end, before all others of the pod."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.support.agent import Agent, ended, running_agent, wait_for
from tests.support.order import Order, container
from tests.support.terminal import terminal

_FAILS = "test -e /order/mended"


def test_init_containers_run_one_by_one_and_before_all_others(agent: Agent, order: Order) -> None:
    order.write(
        "web",
        order.app("app"),
        order.init("one", until="one"),
        order.app("side"),
        order.init("two", until="two"),
    )
    order.wait("one begins")
    wait_for(lambda: container(agent, "one")["phase"] == "running", "the first one runs")
    status = agent.wait_phase("web", "pending")
    assert status["waits"] == [
        "app waits for init container one: running",
        "side waits for init container one: running",
        "two waits for init container one: running",
    ]
    assert "waits for init container one" in agent.tank("status", "web").stdout
    assert "pending" in agent.tank("status").stdout
    assert agent.tank("wait", "web", "--for", "running", "--timeout", "0.2s").returncode == 1
    order.say("one")
    order.wait("one begins", "one ends", "two begins")
    assert container(agent, "one")["phase"] == "completed"
    order.say("two")
    assert agent.tank("wait", "web", "--for", "running").returncode == 0
    wait_for(lambda: len(order.lines) == 6, "all have begun")
    assert order.lines[:4] == ["one begins", "one ends", "two begins", "two ends"]
    assert sorted(order.lines[4:]) == ["app begins", "side begins"]
    status = agent.wait_phase("web", "running")
    assert status["waits"] == []
    for name, phase in {"one": "completed", "two": "completed", "app": "running"}.items():
        found = container(agent, name)
        assert (found["phase"], found["restarts"]) == (phase, 0)
    assert container(agent, "one")["exit"]["code"] == 0


def test_one_that_fails_is_tried_again_and_the_pod_says_so(tmp_path: Path) -> None:
    with running_agent(tmp_path, backoff_base="600s", backoff_cap="600s") as agent:
        order = Order(agent)
        order.write("web", order.init("setup", then="echo no room; exit 3"), order.app())
        status = agent.wait_phase("web", "backing-off")
        assert status["waits"] == ["app waits for init container setup: not running"]
        assert "setup: ended with exit code 3" in status["error"]
        assert status["next_retry"] is not None
        shown = agent.tank("status", "web").stdout
        assert "app waits for init container setup" in shown
        assert order.lines == ["setup begins", "setup ends"]
        agent.wait_output("web", "no room", container="setup")


def test_retries_go_on_until_one_ends_well(agent: Agent, order: Order) -> None:
    order.write("web", order.init("setup", then=_FAILS), order.app())
    wait_for(lambda: len(order.lines) >= 6, "it was tried three times")
    assert "app begins" not in order.lines
    order.say("mended")
    agent.wait_phase("web", "running")
    wait_for(lambda: "app begins" in order.lines, "the other one runs")
    assert order.lines[-2:] == ["setup ends", "app begins"]
    assert set(order.lines[:-1]) == {"setup begins", "setup ends"}
    assert container(agent, "app")["restarts"] == 0
    assert container(agent, "setup")["restarts"] >= 2


@pytest.mark.parametrize("policy", ["never", "on-failure", "always"])
def test_a_job_with_init_containers(agent: Agent, order: Order, policy: str) -> None:
    job = order.container("job", "echo job runs >> /order/lines")
    if policy == "always":
        job = order.app("job")
    order.write("job", order.init("setup"), job, head=f'restart = "{policy}"')
    agent.wait_phase("job", "running" if policy == "always" else "completed")
    wait_for(lambda: len(order.lines) == 3, "all was done")
    assert order.lines[:2] == ["setup begins", "setup ends"]


def test_one_that_fails_and_is_never_tried_again_fails_the_pod(agent: Agent, order: Order) -> None:
    order.write(
        "job",
        order.init("setup", then="exit 7"),
        order.init("later"),
        order.container("job", "echo job runs >> /order/lines"),
        head='restart = "never"',
    )
    status = agent.wait_phase("job", "failed")
    assert "setup: ended with exit code 7" in status["error"]
    assert "container job does not start, since container setup failed" in status["error"]
    assert status["waits"] == []
    assert [found["phase"] for found in status["containers"]] == ["failed", "failed", "failed"]
    assert order.lines == ["setup begins", "setup ends"]
    wait_for(lambda: not list((agent.run / "netns").glob("*")), "its network is gone")
    # Another command is another try.
    order.forget()
    order.write(
        "job",
        order.init("setup"),
        order.init("later"),
        order.container("job", "echo job runs >> /order/lines"),
        head='restart = "never"',
    )
    agent.wait_phase("job", "completed")
    order.wait("setup begins", "setup ends", "later begins", "later ends", "job runs")


def test_a_changed_one_runs_again_while_nothing_else_does(agent: Agent, order: Order) -> None:
    order.write("web", order.init("setup"), order.init("stays"), order.app(), order.app("side"))
    agent.wait_phase("web", "running")
    wait_for(lambda: {"app begins", "side begins"} <= set(order.lines), "all have begun")
    order.forget()
    changed = order.init("setup", extra='env = { A = "b" }\n')
    order.write("web", changed, order.init("stays"), order.app(), order.app("side"))
    wait_for(lambda: len(order.lines) == 6, "all is done")
    assert sorted(order.lines[:2]) == ["app ends", "side ends"]
    assert order.lines[2:4] == ["setup begins", "setup ends"]
    assert sorted(order.lines[4:]) == ["app begins", "side begins"]
    agent.wait_phase("web", "running")


def test_neither_a_crash_nor_a_change_of_another_runs_it_again(tmp_path: Path) -> None:
    with running_agent(tmp_path, backoff_base="300ms", backoff_cap="300ms") as agent:
        order = Order(agent)
        inside = "/bin/busybox ip link set lo up; /bin/busybox ip addr add 192.0.2.7/32 dev lo"
        shows = "/bin/busybox ip -4 addr show dev lo | /bin/busybox grep -c 192.0.2.7 >> /order/lines"
        powers = '[containers.security]\ncapabilities = { add = ["NET_ADMIN"] }\n'
        setup = order.init("setup", then=inside, extra=powers)
        order.write("web", setup, order.app(before=shows))
        order.wait("setup begins", "setup ends", "app begins", "1")
        first = agent.pid("web", 1)
        network = Path(f"/proc/{first}/ns/net").stat().st_ino
        order.forget()
        os.kill(first, signal.SIGKILL)
        order.wait("app begins", "1")
        assert Path(f"/proc/{agent.pid('web', 1)}/ns/net").stat().st_ino == network
        order.forget()
        order.write("web", setup, order.app(before=shows, extra='env = { A = "b" }\n'))
        order.wait("app ends", "app begins", "1")
        # Of the network that it prepared nothing is left once it is to run again.
        order.forget()
        other = order.init("setup", then=inside, extra=f'env = {{ A = "b" }}\n{powers}')
        order.write("web", other, order.app(before=shows, extra='env = { A = "b" }\n'))
        order.wait("app ends", "setup begins", "setup ends", "app begins", "1")
        assert container(agent, "setup")["restarts"] == 0


def test_it_runs_again_in_each_boot(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    order = Order(agent)
    order.write("web", order.init("setup"), order.app())
    agent.start("--stop-pods")
    with ended(agent):
        order.wait("setup begins", "setup ends", "app begins")
        assert agent.stop() == 0
        shutil.rmtree(agent.run)
        order.forget()
        # The script takes the place of the agent's own start.
        script = Path(__file__).parents[1] / "support/other_boot.py"
        agent.through = [sys.executable, "-P", str(script), "another"]
        agent.start()
        order.wait("setup begins", "setup ends", "app begins")
        assert container(agent, "setup")["exit"]["code"] == 0


def test_a_volume_that_it_fills_is_what_the_others_read(agent: Agent, order: Order) -> None:
    mounts = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
    data = '[[volumes]]\nname = "data"\n'
    order.write(
        "web",
        order.init("setup", then="echo prepared > /data/word", extra=mounts),
        order.app(before="cat /data/word", extra=mounts),
        head=data,
    )
    agent.wait_output("web", "prepared")


def test_sessions_and_logs_of_one_that_runs_and_of_one_that_ran(agent: Agent, order: Order) -> None:
    order.write(
        "web",
        order.init("setup", until="on", then="echo done", extra="tty = true\n"),
        order.app(before="echo serving"),
    )
    order.wait("setup begins")
    inside = agent.tank("exec", "web/setup", "--", "/bin/echo", "inside")
    assert (inside.returncode, inside.stdout) == (0, "inside\n"), inside.stderr
    order.say("on")
    agent.wait_phase("web", "running")
    agent.wait_output("web", "serving")
    printed = agent.tank("logs", "web/setup")
    assert printed.stdout == "done\n", printed
    refused = agent.tank("exec", "web/setup", "--", "/bin/true")
    assert refused.returncode != 0
    assert "setup" in refused.stderr
    assert "serving" in agent.tank("logs", "web").stdout
    # Without a name, a session is in the container that serves.
    assert agent.tank("exec", "web", "--", "/bin/echo", "inside").stdout == "inside\n"


def test_attach_to_one_that_asks(agent: Agent, order: Order) -> None:
    script = "echo name?; read name; echo $name >> /order/lines"
    asks = order.container("setup", script, extra="init = true\ntty = true\n")
    order.write("web", asks, order.app())
    wait_for(lambda: "running" in str(agent.status("web")), "it runs")
    with terminal(agent, "attach", "web/setup") as user:
        user.expect("name?")
        user.line("luis")
        assert user.end() == 0
    order.wait("luis", "app begins")


_MOMENTS = [
    "loop:start-recorded",
    "loop:start-recorded@2",
    "network:namespace-made",
    "runtime:bundle-begun",
    "runtime:bundle-begun@2",
    "runtime:bundle-made",
    "runtime:conmon-spawned",
    "runtime:created",
    "runtime:created@2",
    "runtime:record.json",
    "runtime:started",
    "runtime:started@2",
    "runtime:deleted",
    "runtime:detached",
    "runtime:cgroup-removed",
    "runtime:removed",
]


@pytest.mark.parametrize("moment", _MOMENTS)
def test_a_kill_of_the_agent_at_any_moment_of_it(tmp_path: Path, moment: str) -> None:
    agent = Agent(tmp_path)
    order = Order(agent)
    adds = "/bin/busybox ip link set lo up; /bin/busybox ip addr add 192.0.2.7/32 dev lo"
    shows = "/bin/busybox ip -4 addr show dev lo | /bin/busybox grep -c 192.0.2.7 >> /order/lines"
    order.write(
        "web",
        order.init(
            "setup", then=adds, extra='[containers.security]\ncapabilities = { add = ["NET_ADMIN"] }\n'
        ),
        order.app(before=shows),
    )
    agent.launch(fault=moment)
    with ended(agent):
        assert agent.died() == -signal.SIGKILL
        agent.start()
        agent.wait_phase("web", "running")
        wait_for(lambda: order.lines[-1:] == ["1"], "the app sees what was prepared")
        begun = [line for line in order.lines if line.startswith("setup")]
        # Once, or again, and never beside the other.
        assert begun in (["setup begins", "setup ends"] * times for times in (1, 2))
        assert order.lines == [*begun, "app begins", "1"]
        assert len(agent.conmons()) == 1


def test_one_that_runs_is_adopted(agent: Agent, order: Order) -> None:
    order.write("web", order.init("setup", until="on"), order.app())
    order.wait("setup begins")
    wait_for(lambda: container(agent, "setup")["phase"] == "running", "it runs")
    pid = agent.pid("web", 0)
    agent.kill()
    agent.start()
    assert agent.pid("web", 0) == pid
    assert agent.wait_phase("web", "pending")["waits"] == ["app waits for init container setup: running"]
    # Its end while no agent runs counts as well.
    agent.kill()
    order.say("on")
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "it has ended")
    agent.start()
    order.wait("setup begins", "setup ends", "app begins")
    assert container(agent, "setup")["restarts"] == 0
