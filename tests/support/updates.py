"""Updates of pods, for tests: a push, the wait for its verdict, and what nobody else may notice of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.agent import DEADLINE, Agent, running_agent, wait_for

UPDATE = '[update]\nmin_healthy = "{min_healthy}"\ndeadline = "{deadline}"\nmax_restarts = {max_restarts}\n'
# Healthy once `program` has said its word, while /tmp/sick is absent, so that a test decides; says why when
# it is not. A probe may come before the program's first line: what is to be sick must not be healthy then.
HEALTH = """
[containers.health]
exec = ["/bin/sh", "-c", "test ! -e /tmp/sick || { cat /tmp/sick; exit 1; }; test -e /dev/shm/begun"]
interval = "1s"
start_interval = "500ms"
timeout = "20s"
retries = 2
on_failure = "none"
"""
_VOLUME = '[[volumes]]\nname = "data"\nsnapshot = true\n'
_MOUNT = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'


def update_table(
    min_healthy: str = "1s", deadline: str = "60s", max_restarts: int = 2, more: str = ""
) -> str:
    """Return `[update]` of a pod file: by default a second of health, and time enough to show it."""
    head = UPDATE.format(min_healthy=min_healthy, deadline=deadline, max_restarts=max_restarts)
    return f"{head}{more}\n" if more else head


def program(word: str, *, before: str = "", well: bool = True) -> list[str]:
    """Return a command that prints a word and runs until it is ended; unless `well`, it is never healthy."""
    sick = "" if well else f"echo {word} is sick > /tmp/sick; "
    loop = "while :; do sleep 1000 & wait $!; done"
    return ["/bin/sh", "-c", f"trap 'exit 0' TERM; {sick}{before}echo {word}; : > /dev/shm/begun; {loop}"]


def word_pod(
    agent: Agent, word: str, *, before: str = "", well: bool = True, update: str | None = None
) -> str:
    """Return a pod whose container says a word, and whose health the test decides."""
    table = update_table() if update is None else update
    return agent.pod_text(command=program(word, before=before, well=well), head=table, extra=HEALTH)


def keeping_pod(
    agent: Agent, word: str, *, before: str = "", well: bool = True, update: str | None = None
) -> str:
    """Return the same with a volume, copied before each update, in which it writes the word into `last`."""
    command = program(word, before=f"{before}echo {word} > /data/last; ", well=well)
    table = update_table() if update is None else update
    return agent.pod_text(command=command, head=f"{table}{_VOLUME}", extra=f"{HEALTH}{_MOUNT}")


def rollout(agent: Agent, name: str) -> dict[str, Any]:
    """Return how the rollout of a pod stands, as `tank status -o json` has it."""
    status = agent.status(name)
    assert status is not None, f"there is no pod {name}"
    found: dict[str, Any] = status["rollout"]
    return found


def generation(agent: Agent, name: str) -> int:
    """Return a pod's generation; 0 if there is none."""
    status = agent.status(name)
    return 0 if status is None else int(status["generation"])


def wait_state(
    agent: Agent, name: str, *states: str, after: int = 0, deadline: float = DEADLINE
) -> dict[str, Any]:
    """Wait until a generation above `after` has a rollout in one of the states; return the pod's status."""

    def reached() -> dict[str, Any] | None:
        status = agent.status(name)
        there = status is not None and status["generation"] > after and status["rollout"]["state"] in states
        return status if there else None

    try:
        return wait_for(reached, f"the update of {name} is {' or '.join(states)}", deadline)
    except AssertionError as error:
        told = [f"{event.type}: {event.message}" for event in agent.client.events() if event.pod == name]
        raise AssertionError(
            f"{error}\n{agent.status(name)}\n{told[-25:]}\n{agent.log.read_text()[-3000:]}"
        ) from None


def push(agent: Agent, name: str, text: str, *states: str, deadline: float = DEADLINE) -> dict[str, Any]:
    """Write a pod's file, and wait until the new revision's rollout is in one of the states."""
    before = generation(agent, name)
    agent.write(name, text)
    return wait_state(agent, name, *states, after=before, deadline=deadline)


def events_of(agent: Agent, name: str) -> list[str]:
    """Return the types of a pod's events, oldest first."""
    return [event.type for event in agent.client.events() if event.pod == name]


def why(agent: Agent, name: str) -> str:
    """Return what `tank why` prints."""
    done = agent.tank("why", name)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def outcomes(agent: Agent, name: str) -> list[str | None]:
    """Return the outcomes of a pod's revisions, oldest first, as `tank history -o json` has them."""
    done = agent.tank("history", name, "-o", "json")
    assert done.returncode == 0, done.stderr
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    return [
        (entry["verdict"] or {}).get("outcome")
        for entry in sorted(listed, key=lambda entry: int(entry["generation"]))
    ]


def pids(agent: Agent, *names: str) -> dict[str, list[int | None]]:
    """Return the processes of pods."""
    return {pod["name"]: [found["pid"] for found in pod["containers"]] for pod in agent.statuses(*names)}


@contextmanager
def untouched(agent: Agent, *names: str) -> Iterator[None]:
    """Fail if pods have other processes, restarts or generations at the end."""

    def facts() -> list[tuple[Any, ...]]:
        return [
            (pod["name"], pod["generation"], *((c["pid"], c["restarts"]) for c in pod["containers"]))
            for pod in agent.statuses(*names)
        ]

    before = facts()
    yield
    assert facts() == before


def root_of(agent: Agent, name: str, container: int = 0) -> Path:
    """Return the root file system of a running container, as its processes see it."""
    return Path(f"/proc/{agent.pid(name, container)}/root")


def make_sick(agent: Agent, name: str, word: str = "sick") -> Callable[[], None]:
    """Let the probe of a container with HEALTH fail from now on; return what lets it succeed again."""
    file = root_of(agent, name) / "tmp" / "sick"
    file.write_text(f"{word}\n")
    return file.unlink


@contextmanager
def agent_with_bystander(home: Path) -> Iterator[Agent]:
    """Give an agent with a pod that nothing may touch."""
    with running_agent(home) as started:
        started.write("bystander", started.pod_text())
        started.wait_phase("bystander", "running")
        yield started
