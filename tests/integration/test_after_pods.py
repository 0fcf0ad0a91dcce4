"""Pods that start after other pods, and end before them, on a real agent."""

from __future__ import annotations

import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tank_agent.api.types import ListedEvent
from tests.support.agent import Agent, ended, running_agent, wait_for
from tests.support.order import LATE, Order

_UP = (
    '[containers.health]\nexec = ["/bin/sh", "-c", "test -e /order/up"]\n'
    'interval = "1s"\nstart_interval = "500ms"\ntimeout = "20s"\nretries = 2\non_failure = "none"\n'
)


def after(*names: str) -> str:
    return f"after = {list(names)!r}"


def status(agent: Agent, pod: str) -> dict[str, Any]:
    return agent.status(pod) or {}


def moment(event: ListedEvent) -> float:
    return datetime.fromisoformat(event.at).timestamp()


def wait_waits(agent: Agent, pod: str, *waits: str) -> None:
    wait_for(lambda: status(agent, pod).get("waits") == [*waits], f"{pod} waits for {waits}")


def test_files_may_come_in_any_order(agent: Agent, order: Order) -> None:
    order.write("app", order.app("app"), head=after("cache"))
    wait_waits(agent, "app", "waits for pod cache: there is no such pod")
    assert status(agent, "app")["phase"] == "pending"
    assert "waits for pod cache" in agent.tank("status", "app").stdout
    order.write("cache", order.app("cache"), head=after("db"))
    wait_waits(agent, "cache", "waits for pod db: there is no such pod")
    assert agent.tank("wait", "app", "--timeout", "0.2s").returncode == 1
    order.write("db", order.app("db"))
    order.wait("db begins", "cache begins", "app begins")
    for name in ("app", "cache", "db"):
        assert agent.wait_phase(name, "running")["waits"] == []
    # A wait has no network to hold.
    started = {event.pod: moment(event) for event in agent.client.events() if event.type == "started"}
    assert 1.0 <= started["cache"] - started["db"] < LATE
    assert 1.0 <= started["app"] - started["cache"] < LATE


def test_it_waits_for_health_and_starts_at_once_then(tmp_path: Path) -> None:
    with running_agent(tmp_path, resync="600s") as agent:
        order = Order(agent)
        order.write("app", order.app("app"), head=after("db"))
        order.write("db", order.app("db", extra=_UP))
        wait_waits(agent, "app", "waits for pod db: starting")
        order.say("up")
        order.wait("db begins", "app begins")


def test_the_gate_is_only_at_the_first_start_of_a_boot(agent: Agent, order: Order) -> None:
    order.say("up")
    order.write("app", order.app("app"), head=after("db"))
    order.write("db", order.app("db", extra=_UP))
    order.wait("db begins", "app begins")
    agent.wait_phase("app", "running")
    order.unsay("up")
    wait_for(lambda: status(agent, "db")["health"] == "unhealthy", "the other is unhealthy")
    os.kill(agent.pid("app"), signal.SIGKILL)
    order.wait("db begins", "app begins", "app begins")
    order.write("app", order.app("app", extra='env = { A = "b" }\n'), head=after("db"))
    order.wait("db begins", "app begins", "app begins", "app ends", "app begins")
    agent.kill()
    agent.start()
    agent.wait_phase("app", "running")
    assert order.lines[-1] == "app begins"


def test_a_pod_that_runs_already_waits_for_nobody_that_it_names_later(agent: Agent, order: Order) -> None:
    order.write("app", order.app("app"))
    order.wait("app begins")
    agent.wait_phase("app", "running")
    order.write("app", order.app("app", extra='env = { A = "b" }\n'), head=after("nobody"))
    order.wait("app begins", "app ends", "app begins")


@pytest.mark.parametrize("policy", ["never", "on-failure"])
def test_a_job_that_ended_well_is_ready_and_one_that_failed_is_not(
    agent: Agent, order: Order, policy: str
) -> None:
    order.write("app", order.app("app"), head=after("job"))
    order.write("job", order.container("job", "exit 3"), head='restart = "never"')
    agent.wait_phase("job", "failed")
    wait_waits(agent, "app", "waits for pod job: not running")
    order.write("job", order.container("job", "echo job >> /order/lines"), head=f'restart = "{policy}"')
    order.wait("job", "app begins")
    agent.wait_phase("job", "completed")


def test_one_that_goes_away_while_another_waits(agent: Agent, order: Order) -> None:
    order.write("app", order.app("app"), head=after("db"))
    file = order.write("db", order.app("db", extra=_UP))
    wait_waits(agent, "app", "waits for pod db: starting")
    file.unlink()
    wait_waits(agent, "app", "waits for pod db: there is no such pod")
    # Nobody is waited for any more.
    order.write("app", order.app("app"))
    order.wait("db begins", "db ends", "app begins")


def test_a_suspended_pod_is_ready_if_it_runs(agent: Agent, order: Order) -> None:
    order.write("db", order.app("db"))
    agent.wait_phase("db", "running")
    assert agent.tank("suspend", "db").returncode == 0
    order.write("app", order.app("app"), head=after("db"))
    order.wait("db begins", "app begins")
    assert agent.tank("resume", "db").returncode == 0


def test_pods_end_in_the_reverse_order_at_a_stop_of_all(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    order = Order(agent)
    order.write("app", order.app("app", after=["side"]), order.app("side"), head=after("cache"))
    order.write("cache", order.app("cache"), head=after("db"))
    order.write("db", order.app("db"))
    order.write("alone", order.app("alone"))
    agent.start("--stop-pods")
    began = ["db begins", "cache begins", "side begins", "app begins"]
    with ended(agent):
        for stop in ("stop-pods", "drain"):
            wait_for(lambda: len(order.lines) == 5, "all run")
            assert [line for line in order.lines if "alone" not in line] == began
            for name in ("app", "cache", "db", "alone"):
                agent.wait_phase(name, "running")
            order.forget()
            if stop == "stop-pods":
                assert agent.stop() == 0
            else:
                agent.kill()
                drained = agent.tank("agent", "--config", str(agent.config), "--drain")
                assert drained.returncode == 0, drained.stderr
            ends = [line for line in order.lines if "alone" not in line]
            assert ends == ["app ends", "side ends", "cache ends", "db ends"]
            assert len(order.lines) == 5
            order.forget()
            # What was stopped starts in its order again, also in the same boot.
            agent.start("--stop-pods")
        wait_for(lambda: len(order.lines) == 5, "all run")
        assert [line for line in order.lines if "alone" not in line] == began
        for name in ("app", "cache", "db", "alone"):
            agent.wait_phase(name, "running")


def test_pods_that_go_together_end_in_the_reverse_order_and_one_alone_at_once(
    agent: Agent, order: Order
) -> None:
    files = [
        order.write("db", order.app("db")),
        order.write("cache", order.app("cache"), head=after("db")),
        order.write("app", order.app("app"), head=after("cache")),
    ]
    order.wait("db begins", "cache begins", "app begins")
    for name in ("app", "cache", "db"):
        agent.wait_phase(name, "running")
    order.forget()
    # The one that others need goes at once if they stay.
    files[0].unlink()
    agent.wait_gone("db")
    order.wait("db ends")
    files[0] = order.write("db", order.app("db"))
    order.wait("db ends", "db begins")
    agent.wait_phase("db", "running")
    order.forget()
    aside = agent.home / "aside"
    agent.pods.rename(aside)
    aside.rename(agent.pods)
    for file in files:
        file.unlink()
    for name in ("app", "cache", "db"):
        agent.wait_gone(name)
    assert order.lines.index("app ends") < order.lines.index("cache ends") < order.lines.index("db ends")


def test_one_that_hangs_delays_the_stop_by_its_grace_and_no_more(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    order = Order(agent)
    hangs = order.container(
        "app",
        "trap '' TERM; echo app begins >> /order/lines; while :; do sleep 1000 & wait $!; done",
        extra='stop_grace = "700ms"\n',
    )
    order.write("app", hangs, head=after("db"))
    order.write("db", order.app("db"))
    agent.start("--stop-pods")
    with ended(agent):
        order.wait("db begins", "app begins")
        agent.wait_phase("app", "running")
        order.forget()
        assert agent.stop() == 0
        assert order.lines == ["db ends"]
        agent.start()
        times = {(event.type, event.pod): moment(event) for event in agent.client.events()}
        assert 0.6 <= times["stopping", "db"] - times["stopping", "app"] < LATE
        order.wait("db ends", "db begins", "app begins")
        agent.wait_phase("app", "running")


def test_a_stop_goes_on_in_its_order_after_a_kill_of_the_agent(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    order = Order(agent)
    slow = "while [ ! -e /order/go ]; do sleep 0.02; done"
    order.write("app", order.app("app", last=slow), head=after("db"))
    order.write("db", order.app("db"))
    agent.start("--stop-pods")
    with ended(agent):
        order.wait("db begins", "app begins")
        agent.wait_phase("app", "running")
        order.forget()
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
        wait_for(lambda: list(agent.run.glob("containers/*/stopping.json")), "the first one is to end")
        agent.kill()
        assert order.lines == []
        order.say("go")
        # The next agent is to stop the rest.
        drained = agent.tank("agent", "--config", str(agent.config), "--drain")
        assert drained.returncode == 0, drained.stderr
        assert order.lines == ["app ends", "db ends"]
        agent.start()
        agent.wait_phase("app", "running")


def test_a_pod_that_nobody_knows_holds_up_no_removal(agent: Agent, order: Order) -> None:
    order.write("db", order.app("db"))
    order.write("app", order.app("app"), head=after("db"))
    order.wait("db begins", "app begins")
    agent.wait_phase("app", "running")
    agent.kill()
    journal = next(agent.data.glob("journal*"))
    journal.rename(agent.home / "lost")
    (agent.pods / "app.toml").rename(agent.home / "app.toml")
    agent.start()
    wait_for(lambda: "does not know it" in str(status(agent, "app")), "nobody knows it")
    agent.wait_phase("db", "running")
    (agent.pods / "db.toml").unlink()
    agent.wait_gone("db")
    assert order.lines[-1] == "db ends"
    (agent.home / "app.toml").rename(agent.pods / "app.toml")
    agent.wait_phase("app", "running")


def test_a_circle_that_a_failed_update_closes_keeps_no_pod_down(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    order = Order(agent)
    update = '[update]\nmin_healthy = "1s"\ndeadline = "60s"\nmax_restarts = 0\n'
    order.write("b", order.app("b"))
    order.write("a", order.app("a"), head=f"{after('b')}\n{update}")
    agent.start("--stop-pods")
    with ended(agent):
        wait_for(lambda: "good" in str(status(agent, "a").get("rollout")), "it is good")
        fails = order.container(
            "a", "echo bad begins >> /order/lines; while [ ! -e /order/go ]; do sleep 0.02; done"
        )
        order.write("a", fails, head=update)
        wait_for(lambda: "bad begins" in order.lines, "the update runs")
        order.write("b", order.app("b"), head=after("a"))
        wait_for(
            lambda: 'after = ["a"]' in agent.tank("get", "b").stdout, "it waits for the other from now on"
        )
        order.say("go")
        wait_for(lambda: "failed as an update" in str(status(agent, "a").get("error")), "it went back")
        assert 'after = ["b"]' in agent.tank("get", "a").stdout
        order.forget()
        assert agent.stop() == 0
        order.forget()
        agent.start("--stop-pods")
        agent.wait_phase("a", "degraded")
        agent.wait_phase("b", "running")
        wait_for(lambda: sorted(order.lines) == ["a begins", "b begins"], "both began")
