"""A real nginx and a real PostgreSQL: a bad push heals itself, and takes the data back with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.agent import Agent, ended, wait_for
from tests.support.gitops import Fleet
from tests.support.registry import docker_registry, skopeo_copy
from tests.support.services import busybox_services, nginx_pod, postgres_pod
from tests.support.trees import big_directory
from tests.support.updates import (
    agent_with_bystander,
    events_of,
    generation,
    outcomes,
    push,
    rollout,
    untouched,
    update_table,
    wait_state,
    why,
)

# Packages are fetched once, by one test at a time.
pytestmark = pytest.mark.timeout(900)

# What a busy machine may add to a bound, in seconds: less than PATIENT's deadline, by which it could fail as
# well; bench/updates.py measures on an idle one.
SLACK = 45.0
GOOD = update_table()
# Time enough for one probe at least, which says why.
QUICK = update_table(deadline="10s")
# Longer than the images run that crash.
PATIENT = update_table(min_healthy="7s", deadline="60s", max_restarts=0)


class Push(NamedTuple):
    """A bad push: `[update]`, the pod of a layout, the cause that is told, and the bound in seconds."""

    update: str
    pod: Callable[[Path], str]
    cause: str
    bound: float


# A pod that ends at once fails with its third end: a second after the first, and two after the second.
ENDS = 1 + 2
NGINX = {
    "config": Push(
        QUICK, lambda at: nginx_pod(at, "1", ["-g", "nonsense on;"]), 'unknown directive "nonsense"', ENDS
    ),
    "image": Push(QUICK, lambda at: nginx_pod(at, "broken"), "invalid port", ENDS),
    "crash": Push(PATIENT, lambda at: nginx_pod(at, "crash"), "exit code 70", 5),
    "sick": Push(QUICK, lambda at: nginx_pod(at, "sick"), "503", 10),
}
POSTGRES = {
    "config": Push(
        QUICK,
        lambda at: postgres_pod(at, "1", ["-c", "max_connections=none"]),
        'invalid value for parameter "max_connections"',
        ENDS,
    ),
    "crash": Push(PATIENT, lambda at: postgres_pod(at, "crash"), "exit code 70", 5),
    "sick": Push(QUICK, lambda at: postgres_pod(at, "sick"), "No such file or directory", 10),
    "ruin": Push(QUICK, lambda at: postgres_pod(at, "ruin"), 'relation "kept" does not exist', 10),
    "migration": Push(
        QUICK,
        lambda at: postgres_pod(at, "1", migration=["DELETE FROM kept", "3"]),
        "exit code 3",
        ENDS,
    ),
}


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with big_directory() as home, agent_with_bystander(home) as started:
        yield started


def page(agent: Agent, name: str) -> str:
    """Return the page that a pod serves to itself."""
    ask = "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    return agent.tank("exec", "-T", name, "--", "/bin/bash", "-c", ask).stdout.split("\n\n")[-1]


def query(agent: Agent, name: str, sql: str) -> str:
    """Return the answer of a pod's PostgreSQL; an error if it cannot tell."""
    done = agent.tank("exec", "-T", f"{name}/app", "--", "/srv/psql", "-c", sql)
    return done.stdout.strip() if done.returncode == 0 else f"error: {done.stderr.strip()}"


def remove(agent: Agent, name: str) -> None:
    (agent.pods / f"{name}.toml").unlink()
    agent.wait_gone(name)


@pytest.mark.parametrize("case", NGINX)
def test_a_bad_nginx_goes_back(agent: Agent, services: Path, case: str) -> None:
    bad, name = NGINX[case], f"web-{case}"
    with untouched(agent, "bystander"):
        push(agent, name, GOOD + nginx_pod(services, "1"), "good", deadline=60)
        assert page(agent, name) == "first"
        before, begun = generation(agent, name), time.monotonic()
        agent.write(name, bad.update + bad.pod(services))
        wait_state(agent, name, "rolling-back", "rolled-back", after=before, deadline=60)
        wait_for(lambda: page(agent, name) == "first", "the good one serves")
        took = time.monotonic() - begun
        assert took < bad.bound + SLACK
        assert bad.cause in why(agent, name)
        wait_state(agent, name, "rolled-back", deadline=60)
        _check_told(agent, name)
        push(agent, name, GOOD + nginx_pod(services, "2"), "good", deadline=60)
        assert page(agent, name) == "second"
        assert outcomes(agent, name)[:2] == ["good", "failed"]
        assert outcomes(agent, name)[-1] == "good"
    remove(agent, name)


def _check_told(agent: Agent, name: str) -> None:
    """Check that nobody can overlook that something else runs than what is asked for."""
    status = agent.status(name)
    assert status is not None
    assert status["phase"] == "degraded"
    assert status["rollout"]["outcome"] == "failed"
    assert {"update-failed", "rolled-back"} <= {*events_of(agent, name)}
    assert f"tank resume {name}" in why(agent, name)


@pytest.mark.parametrize("case", POSTGRES)
def test_a_bad_postgres_goes_back_with_its_data(agent: Agent, services: Path, case: str) -> None:
    bad, name = POSTGRES[case], f"db-{case}"
    with untouched(agent, "bystander"):
        push(agent, name, GOOD + postgres_pod(services, "1"), "good", deadline=60)
        assert query(agent, name, "INSERT INTO kept VALUES (42)") == "INSERT 0 1"
        before, begun = generation(agent, name), time.monotonic()
        agent.write(name, bad.update + bad.pod(services))
        wait_state(agent, name, "rolling-back", "rolled-back", after=before, deadline=60)
        wait_for(lambda: query(agent, name, "SELECT x FROM kept") == "42", "the good one has its row", 40)
        took = time.monotonic() - begun
        assert took < bad.bound + SLACK
        assert bad.cause in why(agent, name)
        wait_state(agent, name, "rolled-back", deadline=60)
        _check_told(agent, name)
        # What the bad one left of the data is nobody's to delete.
        assert list((agent.data / "volumes" / name).glob("data.failed-*"))
        push(agent, name, GOOD + postgres_pod(services, "2"), "good", deadline=60)
        assert query(agent, name, "SELECT x, note FROM kept") == "42|"
        assert outcomes(agent, name)[:2] == ["good", "failed"]
    remove(agent, name)


def test_a_bad_commit_goes_back_and_its_neighbours_go_on(services: Path) -> None:
    with big_directory() as home:
        fleet = Fleet(home)
        agent = fleet.agent
        files = {
            "pods/web.toml": GOOD + nginx_pod(services, "1"),
            "pods/db.toml": GOOD + postgres_pod(services, "1"),
            "pods/other.toml": fleet.text("other"),
        }
        fleet.push(files)
        with ended(agent):
            agent.start()
            for name in ("web", "db", "other"):
                wait_state(agent, name, "good", deadline=90)
            assert query(agent, "db", "INSERT INTO kept VALUES (7)") == "INSERT 0 1"
            with untouched(agent, "other"):
                commit = fleet.push(
                    {
                        "pods/web.toml": QUICK + nginx_pod(services, "broken"),
                        "pods/db.toml": QUICK + postgres_pod(services, "ruin"),
                    },
                    "Break both",
                )
                for name, cause in (("web", "invalid port"), ("db", 'relation "kept" does not exist')):
                    wait_state(agent, name, "rolled-back", after=1, deadline=60)
                    told = why(agent, name)
                    assert cause in told
                    assert commit[:12] in told
                    assert f"pods/{name}.toml:" in told
                    assert rollout(agent, name)["wanted"] == commit
                assert page(agent, "web") == "first"
                assert query(agent, "db", "SELECT x FROM kept") == "7"
                # Another commit that leaves them as they are tries nothing again.
                pids = [agent.pid(name) for name in ("web", "db")]
                fleet.push({"README": "Pods of this machine"})
                assert agent.tank("sync", "--wait").returncode in (0, 1)
                assert [agent.pid(name) for name in ("web", "db")] == pids
                fleet.push(
                    {
                        "pods/web.toml": GOOD + nginx_pod(services, "2"),
                        "pods/db.toml": GOOD + postgres_pod(services, "2"),
                    },
                    "Mend both",
                )
                for name in ("web", "db"):
                    wait_state(agent, name, "good", after=3, deadline=60)
                assert page(agent, "web") == "second"
                assert query(agent, "db", "SELECT x, note FROM kept") == "7|"


SMALL = """
[[containers]]
name = "app"
image = "{image}"
pull = "always"
stop_grace = "300ms"
env = {{ NOTE = "{note}" }}
[containers.health]
http = {{ port = 80 }}
interval = "1s"
start_interval = "500ms"
retries = 2
"""


def test_the_way_back_asks_no_registry(agent: Agent) -> None:
    with big_directory() as place:
        layout = busybox_services(place / "layout")
        with docker_registry(place / "registry") as host:
            image = f"{host}/app:live"
            skopeo_copy(f"oci:{layout}:good", f"docker://{image}")
            push(agent, "app", GOOD + SMALL.format(image=image, note="1"), "good", deadline=60)
            # The tag is another image now, and the next revision takes it.
            skopeo_copy(f"oci:{layout}:sick", f"docker://{image}")
            before = generation(agent, "app")
            agent.write("app", QUICK + SMALL.format(image=image, note="2"))
            wait_state(agent, "app", "updating", after=before)
            wait_for(lambda: "sick" in _served(agent, "app"), "the bad one runs")
        # The registry is gone.
        wait_state(agent, "app", "rolled-back", after=before, deadline=60)
        assert _served(agent, "app") == "good"
        # So it does when the agent is another one, and the container has to be started anew.
        agent.kill()
        agent.start()
        pid = agent.pid("app")
        os.kill(pid, signal.SIGKILL)
        another = (None, pid)
        wait_for(lambda: (agent.status("app") or {})["containers"][0]["pid"] not in another, "it is another")
        wait_for(lambda: _served(agent, "app") == "good", "it is the good one")
        assert wait_state(agent, "app", "rolled-back")["generation"] == before + 2
        remove(agent, "app")


def _served(agent: Agent, name: str) -> str:
    """Return which image of `busybox_services` a container runs."""
    done = agent.tank("exec", "-T", name, "--", "cat", "/srv/start")
    return "sick" if "exec sleep" in done.stdout else "good" if "httpd" in done.stdout else done.stderr
