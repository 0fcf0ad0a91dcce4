"""An update goes its way though the agent is killed at any step of it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

import tank_agent
from tank_agent.linux import mounts
from tests.integration.test_updates import GOOD, QUICK, page, query
from tests.support.agent import Agent, ended, wait_for
from tests.support.services import nginx_pod, postgres_pod
from tests.support.trees import big_directory
from tests.support.updates import (
    agent_with_bystander,
    generation,
    keeping_pod,
    outcomes,
    push,
    root_of,
    untouched,
    update_table,
    wait_state,
    why,
)

# Packages are fetched once, by one test at a time.
pytestmark = pytest.mark.timeout(900)

# Where the agent is killed, stage by stage: on the way there, at the verdict, and on the way back.
POINTS = [
    "update:followed",
    "runtime:signalled",
    "snapshot:begun",
    "snapshot:copied",
    "snapshot:synced",
    "snapshot:noted",
    "snapshot:marked",
    "update:copy-recorded",
    "loop:start-recorded",
    "runtime:started",
    "update:rolled-back",
    "snapshot:ready",
    "snapshot:aside",
    "snapshot:back",
    "update:copy-recorded@2",
    "loop:start-recorded@2",
    "update:decided",
]
# Tried by the tests of snapshots, and by the last one here.
ELSEWHERE = {"snapshot:beside", "snapshot:retention", "update:blocked"}
# The same with real services, once a stage.
STAGES = {
    "pull": "image:layer-committed",
    "stop": "runtime:signalled",
    "snapshot": "snapshot:copied",
    "start": "loop:start-recorded",
    "revert": "update:rolled-back",
    "restore": "snapshot:aside",
    "watch-back": "update:decided",
}
# One after the other within one update: each is passed by the agent that comes after the one before.
KILLED_ON_THE_WAY = ("runtime:signalled", "loop:start-recorded", "runtime:started")
ROWS = "SELECT x FROM kept ORDER BY x"
_ROUNDS = count(1)


def test_every_fault_point_is_tried() -> None:
    source = "".join(path.read_text() for path in sorted(Path(tank_agent.__file__).parent.rglob("*.py")))
    named = set(re.findall(r'point(?:\(|=)"((?:update|snapshot):[^"]*)"', source))
    tried = {point.partition("@")[0] for point in POINTS}
    assert named - ELSEWHERE == {point for point in tried if point.startswith(("update:", "snapshot:"))}


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with big_directory() as home, agent_with_bystander(home) as started:
        yield started


def _unfinished(agent: Agent) -> list[Path]:
    """Return what is left of copies that did not end."""
    return [path for path in (agent.data / "snapshots").rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_step(agent: Agent, point: str) -> None:
    name = f"web-{point.replace(':', '-').replace('@', '-')}"
    # The agent that comes after the kill has twice `min_healthy` at least to start it.
    update = update_table(min_healthy="2s", deadline="4s")
    with untouched(agent, "bystander"):
        push(agent, name, keeping_pod(agent, "first"), "good")
        volume = agent.data / "volumes" / name / "data"
        (volume / "kept").write_text("kept")
        before = generation(agent, name)
        agent.kill()
        agent.write(name, keeping_pod(agent, "second", before="rm /data/kept; ", well=False, update=update))
        agent.launch(fault=point)
        assert agent.died() == -signal.SIGKILL
        agent.start()
        status = wait_state(agent, name, "rolled-back", after=before)
        assert status["generation"] == before + 2
        assert outcomes(agent, name) == ["good", "failed", "good"]
        assert (volume / "kept").read_text() == "kept"
        assert (volume / "last").read_text() == "first\n"
        (aside,) = volume.parent.glob("data.failed-*")
        assert (aside / "last").read_text() == "second\n"
        assert _unfinished(agent) == []
        # A killed agent starts nothing twice.
        assert agent.output(name).count("second") <= 1
    (agent.pods / f"{name}.toml").unlink()
    agent.wait_gone(name)


def _good(agent: Agent, services: Path, number: int) -> str:
    """Let both services be good, add a row, and return all rows."""
    note = f'env = {{ ROUND = "{number}" }}'
    before = {name: generation(agent, name) for name in ("web", "db")}
    agent.write("web", GOOD + nginx_pod(services, "1", extra=note))
    agent.write("db", GOOD + postgres_pod(services, "1", extra=note))
    for name, after in before.items():
        wait_state(agent, name, "good", after=after, deadline=90)
    assert query(agent, "db", f"INSERT INTO kept VALUES ({number})") == "INSERT 0 1"
    return query(agent, "db", ROWS)


def _break(agent: Agent, services: Path, number: int) -> None:
    """Write bad revisions of both; each round's are others, so that none is known already."""
    note = f'env = {{ ROUND = "bad {number}" }}'
    agent.write("web", QUICK + nginx_pod(services, "broken", extra=note))
    agent.write("db", QUICK + postgres_pod(services, "ruin", extra=note))


def _check_back(agent: Agent, rows: str, before: dict[str, int]) -> None:
    """Check that both came back once, with all that they had."""
    for name, after in before.items():
        status = wait_state(agent, name, "rolled-back", after=after, deadline=90)
        assert status["generation"] == after + 2
        assert outcomes(agent, name)[-2] == "failed"
    wait_for(lambda: page(agent, "web") == "first", "nginx serves")
    wait_for(lambda: query(agent, "db", ROWS) == rows, "the rows are there")
    assert _unfinished(agent) == []


@pytest.mark.parametrize("stage", STAGES)
def test_services_over_a_kill_at_a_stage(agent: Agent, services: Path, stage: str) -> None:
    number = next(_ROUNDS)
    with untouched(agent, "bystander"):
        rows = _good(agent, services, number)
        before = {name: generation(agent, name) for name in ("web", "db")}
        agent.kill()
        _break(agent, services, number)
        agent.launch(fault=STAGES[stage])
        assert agent.died() == -signal.SIGKILL
        agent.start()
        _check_back(agent, rows, before)


@pytest.mark.parametrize(
    ("state", "end"), [("updating", "kill"), ("updating", "upgrade"), ("rolling-back", "kill")]
)
def test_services_over_another_agent_in_the_wait(agent: Agent, services: Path, state: str, end: str) -> None:
    number = next(_ROUNDS)
    with untouched(agent, "bystander"):
        rows = _good(agent, services, number)
        before = {name: generation(agent, name) for name in ("web", "db")}
        bad = f"ROUND=bad {number}".encode()
        _break(agent, services, number)
        wait_state(agent, "db", state, after=before["db"], deadline=60)

        def runs() -> bool:
            """Return whether the process is of the revision that has to prove itself."""
            try:
                environment = (root_of(agent, "db").parent / "environ").read_bytes()
            except (OSError, AssertionError):
                return False
            return (bad in environment) is (state == "updating")

        wait_for(runs, "it runs")
        pid = agent.pid("db")
        if end == "kill":
            agent.kill()
        else:
            assert agent.stop() == 0
        agent.start()
        # An agent that ends takes no container along.
        assert agent.pid("db") == pid
        _check_back(agent, rows, before)


def test_a_good_update_of_services_over_kills(agent: Agent, services: Path) -> None:
    rows = _good(agent, services, next(_ROUNDS))
    before = {name: generation(agent, name) for name in ("web", "db")}
    with untouched(agent, "bystander"):
        agent.kill()
        agent.write("web", GOOD + nginx_pod(services, "2"))
        agent.write("db", GOOD + postgres_pod(services, "2"))
        for point in KILLED_ON_THE_WAY:
            agent.launch(fault=point)
            assert agent.died() == -signal.SIGKILL
        agent.start()
        for name, after in before.items():
            status = wait_state(agent, name, "good", after=after, deadline=60)
            assert status["generation"] == after + 1
        assert page(agent, "web") == "second"
        assert query(agent, "db", ROWS) == rows
        assert query(agent, "db", "SELECT count(note) FROM kept") == "0"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory with a file system of 64 MiB of its own."""
    place = tmp_path / "small"
    place.mkdir()
    mounts.mount("tmpfs", place, "tmpfs", 0, "size=64m")
    yield place
    mounts.unmount(place)


def test_an_update_without_room_for_its_snapshot_waits_for_it(small_disk: Path) -> None:
    agent = Agent(small_disk)
    agent.kept_mounts = frozenset({str(small_disk)})
    with ended(agent):
        agent.start()
        first = push(agent, "web", keeping_pod(agent, "first"), "good")
        big = agent.data / "volumes" / "web" / "data" / "big"
        big.write_bytes(bytes(40 << 20))
        agent.kill()
        agent.write("web", keeping_pod(agent, "second"))
        agent.launch(fault="update:blocked")
        assert agent.died() == -signal.SIGKILL
        agent.start()
        status = wait_state(agent, "web", "blocked", after=first["generation"])
        assert "room" in status["rollout"]["reason"]
        # Nothing was stopped for it.
        assert status["containers"][0]["pid"] == first["containers"][0]["pid"]
        assert "room" in why(agent, "web")
        big.unlink()
        push(agent, "web", keeping_pod(agent, "third"), "good")
        assert outcomes(agent, "web") == ["good", "superseded", "good"]
        assert agent.output("web") == ["first", "third"]
