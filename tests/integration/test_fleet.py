"""A fleet of three machines on one repository: who is told of a push, by whom, and how often.

Three agents with directories of their own stand for the machines. Each has a receiver of its own for its
notifications, and all write to one forge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.agent import SERVE, Agent, ended, wait_for
from tests.support.forges import TOKEN, Served, forge
from tests.support.git import Work
from tests.support.receivers import Receiver, quiet_for, receiver

HOSTS = ("edge-1", "edge-2", "edge-3")
UPDATE = '[update]\nmin_healthy = "3s"\ndeadline = "30s"\nmax_restarts = 1\n'
QUIET = 4.0
# Each lasts long enough for the update to be seen on its way, and ends before it is good.
FAILS = ["/bin/sh", "-c", "sleep 2; exit 3"]


def everywhere(*states: str) -> dict[str, list[str]]:
    return {host: [*states] for host in HOSTS}


class Machines:
    """Three agents that follow one bare repository, not running yet."""

    def __init__(self, home: Path, served: Served, hooks: Sequence[Receiver]) -> None:
        self.work = Work(home)
        self.forge = served.forge
        token = home / "status.token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        self.agents: list[Agent] = []
        for host, hook in zip(HOSTS, hooks, strict=True):
            (home / host).mkdir()
            agent = Agent(home / host)
            text = agent.config.read_text()
            agent.config.write_text(
                f'{text}[git]\nurl = "{self.work.bare}"\nbranch = "main"\npath = "pods"\n'
                f'[git.status]\nforge = "github"\napi = "{served.url}"\nproject = "acme/fleet"\n'
                f'token_file = "{token}"\ncontext = "tank/{host}"\n'
                f'[notify]\nwebhook = "{hook.url}/hook"\nafter = "2s"\npause = "0s"\n'
            )
            self.agents.append(agent)

    def push(self, words: str, command: list[str] | None = None) -> str:
        """Push the pod that all machines run, and return the commit."""
        first = self.agents[0]
        text = first.pod_text(command=command or SERVE, head=UPDATE, extra=f'env = {{ WORDS = "{words}" }}')
        self.work.write("pods/web.toml", text)
        return self.work.commit(words)

    def states(self, commit: str) -> dict[str, list[str]]:
        """Return the states of a commit by machine, oldest first."""
        return {host: self.forge.of(commit, f"tank/{host}") for host in HOSTS}

    def wait(self, commit: str, *states: str) -> None:
        """Wait until every machine has told these states of a commit."""
        wait_for(
            lambda: self.states(commit) == everywhere(*states),
            f"{states} of all machines, not {self.states(commit)}",
            120.0,
        )


@pytest.fixture
def hooks() -> Iterator[tuple[Receiver, ...]]:
    with ExitStack() as stack:
        yield tuple(stack.enter_context(receiver()) for _ in HOSTS)


def test_a_bad_push_is_told_once_by_each_machine_and_so_is_the_fix(
    tmp_path: Path, hooks: tuple[Receiver, ...]
) -> None:
    with forge("github") as served, ExitStack() as stack:
        fleet = Machines(tmp_path, served, hooks)
        good = fleet.push("one")
        for agent in fleet.agents:
            stack.enter_context(ended(agent))
            agent.start()
        fleet.wait(good, "pending", "success")
        assert [hook.titles for hook in hooks] == [[], [], []]

        bad = fleet.push("two", FAILS)
        fleet.wait(bad, "pending", "failure")
        wait_for(lambda: all(hook.told for hook in hooks), "each machine tells of its rollback")
        for host in HOSTS:
            assert (
                fleet.forge.last(bad, f"tank/{host}")
                == "web: rolled back: container app ended with exit code 3"
            )
        # One notification and one red status a machine, however long it stays so.
        assert quiet_for(QUIET, lambda: all(len(hook.told) == 1 for hook in hooks)), [h.titles for h in hooks]
        assert [hook.titles for hook in hooks] == [["web: its update failed, and was rolled back"]] * 3
        assert fleet.states(bad) == everywhere("pending", "failure")
        assert all(agent.pid("web") for agent in fleet.agents)

        # A machine that starts again in between has nothing to add.
        fleet.agents[1].kill()
        fleet.agents[1].start()

        mended = fleet.push("three")
        fleet.wait(mended, "pending", "success")
        wait_for(lambda: all(len(hook.told) == 2 for hook in hooks), "each machine tells of its mending")
        assert quiet_for(QUIET, lambda: all(len(hook.told) == 2 for hook in hooks)), [h.titles for h in hooks]
        assert [hook.titles[1] for hook in hooks] == ["web: it is good again"] * 3
        assert fleet.states(mended) == everywhere("pending", "success")
        assert fleet.states(bad) == everywhere("pending", "failure")
        assert len(served.forge.asked) == 3 * 6
