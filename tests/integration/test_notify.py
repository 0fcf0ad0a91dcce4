"""Notifications of a real agent with real pods, to receivers of the test's own on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import SERVE, Agent, wait_for
from tests.support.receivers import Receiver, quiet_for, receiver

# Ends at once, always.
CRASHES = ["/bin/sh", "-c", "exit 3"]
# For as long, nothing may come that was told.
QUIET = 3.0


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def with_notify(home: Path, table: str, **reconcile: str) -> Agent:
    """Return an agent, not started, with this [notify]."""
    agent = Agent(home, **reconcile)
    agent.config.write_text(f"{agent.config.read_text()}[notify]\n{table}\n")
    return agent


def table_of(hook: Receiver, after: str = "2s", pause: str = "0s", **more: str) -> str:
    lines = {"after": after, "pause": pause, "webhook": f"{hook.url}/T0/canary-webhook-secret", **more}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())


@pytest.fixture
def agent(tmp_path: Path, hook: Receiver) -> Iterator[Agent]:
    """Return a running agent that tells of what lasts two seconds, without pauses."""
    made = with_notify(tmp_path, table_of(hook), backoff_base="0.2s", backoff_cap="1s")
    made.start()
    try:
        yield made
    finally:
        made.end()


def updating(deadline: str = "20s") -> str:
    return f'[update]\nmin_healthy = "1s"\ndeadline = "{deadline}"\nmax_restarts = 1\n'


def good_pod(agent: Agent, words: str = "one") -> str:
    return agent.pod_text(command=SERVE, head=updating(), extra=f'env = {{ WORDS = "{words}" }}')


def bad_pod(agent: Agent, words: str = "bad") -> str:
    return agent.pod_text(command=CRASHES, head=updating(), extra=f'env = {{ WORDS = "{words}" }}')


def outcome(agent: Agent, name: str, state: str = "good") -> None:
    def reached() -> bool:
        found = agent.status(name)
        return found is not None and found["rollout"] is not None and found["rollout"]["state"] == state

    wait_for(reached, f"the rollout of {name} is {state}: {agent.status(name)}")


def test_a_bad_update_gives_one_notification_and_its_mending_one(agent: Agent, hook: Receiver) -> None:
    agent.write("web", good_pod(agent))
    outcome(agent, "web")
    assert hook.titles == []
    agent.write("web", bad_pod(agent))
    wait_for(lambda: hook.told, "the rollback is told")
    outcome(agent, "web", "rolled-back")
    assert quiet_for(QUIET, lambda: len(hook.told) == 1), hook.titles
    told = hook.told[0]
    assert told["title"].endswith("web: its update failed, and was rolled back")
    assert (told["kind"], told["state"], told["event"], told["pod"]) == (
        "update",
        "bad",
        "rolled-back",
        "web",
    )
    assert "exit code 3" in told["message"] and "exit code 3" in told["text"]
    agent.write("web", good_pod(agent, "two"))
    wait_for(lambda: len(hook.told) == 2, "its mending is told")
    assert hook.titles[1] == "web: it is good again"
    assert (hook.told[1]["state"], hook.told[1]["event"]) == ("good", "update-good")
    assert quiet_for(1, lambda: len(hook.told) == 2), hook.titles
