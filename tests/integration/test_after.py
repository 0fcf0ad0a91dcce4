"""Containers of a real pod that start after others: what they wait for, and what they do not."""

from __future__ import annotations

import os
import signal
from datetime import datetime
from pathlib import Path

import pytest

from tank_agent.api.types import ListedEvent
from tests.support.agent import Agent, wait_for
from tests.support.order import LATE, Order, container

_QUICK = 'interval = "1s"\nstart_interval = "500ms"\ntimeout = "20s"\nretries = 2\non_failure = "none"\n'
# Healthy while the test says "up".
_UP = f'[containers.health]\nexec = ["/bin/sh", "-c", "test -e /order/up"]\n{_QUICK}'
_UPDATE = '[update]\nmin_healthy = "1s"\ndeadline = "{}"\n'


def moment(event: ListedEvent) -> float:
    return datetime.fromisoformat(event.at).timestamp()


def wait_waits(agent: Agent, *waits: str, pod: str = "web") -> None:
    try:
        wait_for(lambda: (agent.status(pod) or {}).get("waits") == [*waits], "it says what it waits for")
    except AssertionError as error:
        raise AssertionError(f"{error}: {agent.status(pod)}\n{agent.log.read_text()[-4000:]}") from None


@pytest.mark.parametrize("how", ["exec", "http", "tcp"])
def test_it_waits_until_the_other_is_healthy(agent: Agent, order: Order, how: str) -> None:
    serve = "while [ ! -e /order/up ]; do sleep 0.02; done; /bin/busybox httpd -p 8080 -h /order"
    probe = {"http": 'http = { port = 8080, path = "/lines" }\n', "tcp": "tcp = 8080\n"}
    health = _UP if how == "exec" else f"[containers.health]\n{probe[how]}{_QUICK}"
    before = "" if how == "exec" else serve
    order.write("web", order.app("app", after=["db"]), order.app("db", before=before, extra=health))
    wait_waits(agent, "app waits for container db: starting")
    assert container(agent, "app")["phase"] == "pending"
    assert (agent.status("web") or {})["phase"] == "pending"
    order.wait("db begins")
    order.say("up")
    order.wait("db begins", "app begins")
    assert agent.wait_phase("web", "running")["waits"] == []
    # What it does later stops nothing.
    if how == "exec":
        order.unsay("up")
        wait_for(lambda: container(agent, "db")["health"]["state"] == "unhealthy", "it is unhealthy")
        assert agent.wait_phase("web", "running")["containers"][0]["restarts"] == 0
        assert order.lines == ["db begins", "app begins"]


def test_without_a_probe_it_waits_until_the_other_has_run_for_a_second(agent: Agent, order: Order) -> None:
    order.write("web", order.app("app", after=["db", "cache"]), order.app("db"), order.app("cache"))
    agent.wait_phase("web", "running")
    wait_for(lambda: len(order.lines) == 3, "all have begun")
    assert order.lines[2] == "app begins"
    started = {event.container: moment(event) for event in agent.client.events() if event.type == "started"}
    assert 1.0 <= started["app"] - max(started["db"], started["cache"]) < LATE


def test_many_in_a_chain_start_in_its_order_and_end_in_the_other(agent: Agent, order: Order) -> None:
    names = ["c5", "c2", "c4", "c1", "c3"]
    before = {name: [f"c{int(name[1]) - 1}"] if name != "c1" else [] for name in names}
    file = order.write("web", *(order.app(name, after=before[name]) for name in names))
    order.wait(*(f"c{number} begins" for number in range(1, 6)))
    agent.wait_phase("web", "running")
    order.forget()
    file.unlink()
    agent.wait_gone("web")
    assert order.lines == [f"c{number} ends" for number in range(5, 0, -1)]


def test_one_that_ended_as_it_should_is_ready(agent: Agent, order: Order) -> None:
    once = order.container("once", "echo once >> /order/lines")
    order.write("web", order.app("app", after=["once"]), once, head='restart = "on-failure"')
    order.wait("once", "app begins")


def test_one_that_fails_for_good_fails_what_waits_for_it(agent: Agent, order: Order) -> None:
    fails = order.container("first", "exit 4")
    order.write(
        "job",
        order.app("second", after=["first"]),
        fails,
        order.app("third", after=["second"]),
        head='restart = "never"',
    )
    status = agent.wait_phase("job", "failed")
    assert "container second does not start, since container first failed" in status["error"]
    assert "container third does not start, since container second failed" in status["error"]
    assert order.lines == []


def test_an_update_whose_dependency_never_gets_ready_goes_back(agent: Agent, order: Order) -> None:
    order.say("up")
    order.write("web", order.app("app", after=["db"]), order.app("db", extra=_UP), head=_UPDATE.format("60s"))
    wait_for(lambda: "good" in str((agent.status("web") or {}).get("rollout")), "it is good")
    order.forget()
    sick = _UP.replace("/order/up", "/order/never")
    changed = 'env = { A = "b" }\n'
    order.write(
        "web",
        order.app("app", after=["db"], extra=changed),
        order.app("db", extra=f"{changed}{sick}"),
        head=_UPDATE.format("4s"),
    )
    wait_waits(agent, "app waits for container db: starting")
    order.wait("app ends", "db ends", "db begins", "db ends", "db begins", "app begins")
    status = agent.wait_phase("web", "degraded")
    assert "did not become healthy within 4s" in status["error"], status["error"]
    # What waits is not to blame.
    assert "container db is" in status["error"], status["error"]


def test_a_crash_of_the_other_restarts_nothing_and_a_crash_of_its_own_waits(
    agent: Agent, order: Order
) -> None:
    order.say("up")
    order.write("web", order.app("app", after=["db"]), order.app("db", extra=_UP))
    order.wait("db begins", "app begins")
    agent.wait_phase("web", "running")
    app, db = agent.pid("web", 0), agent.pid("web", 1)
    order.unsay("up")
    os.kill(db, signal.SIGKILL)
    order.wait("db begins", "app begins", "db begins")
    assert agent.pid("web", 0) == app
    os.kill(app, signal.SIGKILL)
    wait_waits(agent, "app waits for container db: starting")
    assert order.lines == ["db begins", "app begins", "db begins"]
    order.say("up")
    order.wait("db begins", "app begins", "db begins", "app begins")
    assert container(agent, "app")["restarts"] == 1


def test_an_update_of_several_stops_the_last_one_first(agent: Agent, order: Order) -> None:
    names = {"app": ["cache"], "cache": ["db"], "db": []}

    def write(word: str) -> None:
        changed = f'env = {{ A = "{word}" }}\n'
        parts = (order.app(name, after=after, extra=changed) for name, after in names.items())
        order.write("web", *parts)

    write("a")
    order.wait("db begins", "cache begins", "app begins")
    agent.wait_phase("web", "running")
    order.forget()
    write("b")
    order.wait("app ends", "cache ends", "db ends", "db begins", "cache begins", "app begins")


def test_one_that_hangs_at_its_end_delays_the_others_by_its_grace(agent: Agent, order: Order) -> None:
    hangs = order.container(
        "app",
        "trap '' TERM; echo app begins >> /order/lines; while :; do sleep 1000 & wait $!; done",
        extra='after = ["db"]\nstop_grace = "700ms"\n',
    )
    file = order.write("web", hangs, order.app("db"))
    order.wait("db begins", "app begins")
    agent.wait_phase("web", "running")
    order.forget()
    file.unlink()
    wait_for(lambda: (agent.status("web") or {}).get("phase") == "stopping", "it ends")
    assert order.lines == []
    agent.wait_gone("web")
    assert order.lines == ["db ends"]
    times = {(event.type, event.container): moment(event) for event in agent.client.events()}
    assert 0.6 <= times["killing", "app"] - times["stopping", "app"] < LATE
    assert times["killing", "app"] <= times["stopping", "db"]


def test_the_order_of_an_end_survives_a_kill_of_the_agent(agent: Agent, order: Order) -> None:
    slow = "while [ ! -e /order/go ]; do sleep 0.02; done"
    order.write("web", order.app("app", after=["db"], last=slow), order.app("db"))
    order.wait("db begins", "app begins")
    agent.wait_phase("web", "running")
    order.forget()
    agent.kill()
    # Only the records of what runs know the order now.
    (agent.pods / "web.toml").unlink()
    agent.start()
    wait_for(lambda: (agent.status("web") or {}).get("phase") == "stopping", "it ends")
    agent.kill()
    agent.start()
    assert order.lines == []
    order.say("go")
    agent.wait_gone("web")
    assert order.lines == ["app ends", "db ends"]
    assert not list(Path(agent.run / "containers").iterdir())
