"""Files beside a pod file change a pod that runs, from every source, and no mistake takes it away."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import SERVE, Agent, ended, running_agent, wait_for
from tests.support.gitops import Fleet


@pytest.fixture
def late(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent whose resync comes too late for any test."""
    with running_agent(tmp_path, resync="10m") as started:
        yield started


def pod(agent: Agent, *sources: str, env_file: str = "", command: list[str] | None = None) -> str:
    """Return a pod file that names files beside it; they are mounted, each change restarts."""
    files = "".join(f'[[files]]\nname = "f{at}"\nsource = "{source}"\n' for at, source in enumerate(sources))
    more = f'env_file = "{env_file}"\n' if env_file else ""
    more += "".join(
        f'[[containers.mounts]]\nfile = "f{at}"\npath = "/etc/f{at}"\n' for at in range(len(sources))
    )
    return agent.pod_text(head=f"\n{files}", extra=more, command=command)


def put(path: Path, text: str) -> None:
    """Rename a text into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    temporary.rename(path)


def contents(agent: Agent, name: str = "web") -> list[str]:
    """Return the files of a pod as the journal has them."""
    found = {pod.name: pod for pod in agent.client.list()}.get(name)
    return [file.content.decode() for file in found.pod.files] if found is not None else []


def error_of(agent: Agent, name: str = "web") -> str:
    return str((agent.status(name) or {}).get("error"))


def wait_error(agent: Agent, begin: str, name: str = "web") -> None:
    wait_for(lambda: error_of(agent, name).startswith(begin), f"the error of {name} is {begin}")


def has(agent: Agent, *texts: str, name: str = "web") -> dict[str, Any]:
    """Wait until a pod has these files, in the journal and in its container, and runs."""
    wait_for(lambda: contents(agent, name) == [*texts], f"the files of {name} are {texts}")
    wait_for(lambda: inside(agent, name, len(texts)) == [*texts], f"{name} sees {texts}")
    return agent.wait_phase(name, "running")


def inside(agent: Agent, name: str, count: int) -> list[str]:
    """Return what a pod's container finds in its files; nothing while it does not run."""
    with suppress(OSError, AssertionError):
        root = f"/proc/{agent.pid(name)}/root"
        return [Path(f"{root}/etc/f{at}").read_text() for at in range(count)]
    return []


def test_a_change_beside_the_pod_file_is_a_revision_at_once(late: Agent) -> None:
    agent = late
    put(agent.pods / "nginx.conf", "one")
    agent.write("web", pod(agent, "nginx.conf", "conf/site.conf"))
    wait_for(lambda: "conf/site.conf" in json.dumps(agent.statuses()), "the missing file is said")
    # A directory that comes later, with the file in it.
    put(agent.pods / "conf" / "site.conf", "site")
    wait_for(lambda: agent.status("web") and agent.status("web")["phase"] == "running", "it runs")
    assert contents(agent) == ["one", "site"]
    put(agent.pods / "nginx.conf", "two")
    assert has(agent, "two", "site")["generation"] == 2
    (agent.pods / "conf" / "site.conf").write_text("in place")
    assert has(agent, "two", "in place")["generation"] == 3
    # The directory is swapped for another.
    put(agent.pods / "new" / "site.conf", "swapped")
    (agent.pods / "conf").rename(agent.pods / "old")
    (agent.pods / "new").rename(agent.pods / "conf")
    assert has(agent, "two", "swapped")["generation"] == 4
    (agent.pods / "conf" / "site.conf").write_text("again")
    assert has(agent, "two", "again")["generation"] == 5
    history = agent.client.history("web")
    assert len({one.revision for one in history}) == 5
    assert agent.tank("rollback", "web", "1").returncode == 0
    has(agent, "one", "site")


def test_half_a_file_and_none_leave_the_last_good_one(agent: Agent) -> None:
    conf = agent.pods / "nginx.conf"
    put(conf, "good")
    file = agent.write("web", pod(agent, "nginx.conf"))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    with conf.open("w") as half:
        half.write("ha")
        half.flush()
        agent.client.sync()
        assert contents(agent) == ["good"]
        assert "is being written" in str((agent.status("web") or {}).get("error"))
        half.seek(0)
        half.truncate()
        half.write("good")
    wait_for(lambda: (agent.status("web") or {}).get("error") is None, "it is closed")
    assert (agent.pid("web"), contents(agent)) == (pid, ["good"])
    for spoil, words in (
        (lambda: None, "is not there"),
        (lambda: conf.symlink_to("/etc/hostname"), "is a symbolic link"),
        (lambda: os.mkfifo(conf), "is not a regular file"),
        (lambda: conf.write_bytes(b"x" * (300 << 10)), "has 307200 bytes"),
    ):
        conf.unlink(missing_ok=True)
        spoil()
        wait_error(agent, f'{file}:4: files[0].source: "nginx.conf" {words}')
        assert (agent.pid("web"), contents(agent)) == (pid, ["good"])
    conf.unlink()
    put(conf, "good")
    wait_for(lambda: (agent.status("web") or {}).get("error") is None, "it is back")
    assert (agent.pid("web"), agent.status("web")["generation"]) == (pid, 1)


def test_variables_change_with_their_file(late: Agent) -> None:
    agent = late
    put(agent.pods / "app.env", "WORD=one\n")
    command = ["/bin/sh", "-c", "trap 'exit 0' TERM; echo $WORD; while :; do sleep 1000 & wait $!; done"]
    agent.write("web", pod(agent, env_file="app.env", command=command))
    agent.wait_output("web", "one")
    put(agent.pods / "app.env", "WORD=two\n")
    wait_for(lambda: agent.output("web") == ["one", "two"], "the variables changed")


def test_a_killed_agent_finds_what_changed_meanwhile(agent: Agent) -> None:
    conf = agent.pods / "conf" / "nginx.conf"
    put(conf, "one")
    agent.write("web", pod(agent, "conf/nginx.conf"))
    agent.wait_phase("web", "running")
    agent.kill()
    put(conf, "two")
    agent.start()
    assert has(agent, "two")["generation"] == 2
    agent.kill()
    conf.unlink()
    agent.start()
    wait_for(lambda: "is not there" in str((agent.status("web") or {}).get("error")), "it is missed")
    assert has(agent, "two")["generation"] == 2
    # Killed again and again while it changes, it ends at the last.
    for number in range(5):
        put(conf, f"number {number}")
        time.sleep(0.05 * number)
        agent.kill()
        put(conf, f"last {number}")
        agent.start()
    has(agent, "last 4")


def test_a_file_with_a_pod_files_name_is_no_pod_file(agent: Agent) -> None:
    put(agent.pods / "traefik.toml", '[entryPoints.web]\naddress = ":80"\n')
    agent.write("web", pod(agent, "traefik.toml"))
    agent.wait_phase("web", "running")
    agent.client.sync()
    assert [status["name"] for status in agent.statuses()] == ["web"]
    assert agent.tank("plan", str(agent.pods)).stderr == ""
    assert agent.tank("validate", str(agent.pods)).returncode == 0
    # A pod file that another names stays one, and so does its pod when it is wrong.
    agent.write("db", agent.pod_text())
    agent.wait_phase("db", "running")
    agent.write("web", pod(agent, "traefik.toml", "db.toml"))
    wait_for(lambda: len(contents(agent)) == 2, "it is read")
    agent.wait_phase("db", "running")
    agent.write("db", "colour = 1\n" + agent.pod_text())
    wait_for(lambda: "colour" in str((agent.status("db") or {}).get("error")), "its error is said")
    agent.wait_phase("db", "running")


def test_a_commit_that_changes_only_the_file_is_a_revision(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 'poll = "1h"')
    agent = fleet.agent
    fleet.push({"pods/web.toml": pod(agent, "conf/nginx.conf"), "pods/conf/nginx.conf": "one"}, "begin")
    with ended(agent):
        agent.start()
        assert has(agent, "one")["generation"] == 1
        fleet.work.git("config", "user.name", "Eve")
        head = fleet.push({"pods/conf/nginx.conf": "two"}, "only the file")
        status = has(agent, "two")
        assert (status["generation"], status["revision"]) == (2, head)
        assert status["git"]["subject"] == "only the file" and status["git"]["author"] == "Ann Author"
        # The plan of a commit, and a rollback to one, have the files of that commit.
        other = fleet.push({"pods/conf/nginx.conf": "three"}, "third")
        has(agent, "three")
        planned = agent.tank("plan", "--git", head)
        assert planned.returncode == 2 and "web: update" in planned.stdout, planned
        assert agent.tank("plan", "--git", other).stdout.startswith("nothing to do")
        assert agent.tank("rollback", "web", head).returncode == 0
        has(agent, "two")
        # A bad commit keeps what runs.
        agent.tank("resume", "web")
        has(agent, "three")
        fleet.push({"pods/conf/nginx.conf": None}, "gone")
        wait_for(lambda: "is not in this commit" in error_of(agent), "it is said")
        has(agent, "three")
        # Killed at each step of a look, it ends with what was pushed last.
        for number, fault in enumerate(("git:fetched", "git:checked", "git:published")):
            agent.kill()
            agent.launch(fault=fault)
            fleet.push({"pods/conf/nginx.conf": f"push {number}"}, fault)
            agent.died()
            agent.start()
            has(agent, f"push {number}")


def test_apply_sends_the_files_along(agent: Agent, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    put(place / "conf" / "nginx.conf", "one")
    file = place / "web.toml"
    file.write_text(pod(agent, "conf/nginx.conf"))
    assert agent.tank("validate", str(file)).returncode == 0
    assert "create" in agent.tank("plan", str(file)).stdout
    done = agent.tank("apply", str(file))
    assert (done.returncode, done.stdout) == (0, "web created\n"), done
    has(agent, "one")
    assert agent.tank("apply", str(file)).stdout == "web unchanged\n"
    put(place / "conf" / "nginx.conf", "two")
    planned = agent.tank("plan", "--host", "any", "--against", str(place), str(place))
    assert planned.stdout.startswith("nothing to do"), planned
    assert [one.change for one in agent.client.apply(file)] == ["changed"]
    has(agent, "two")
    assert agent.tank("rollback", "web").returncode == 0
    has(agent, "one")
    # What is told has nothing to be read beside it, here and on the agent's side.
    told = agent.tank("get", "web").stdout
    assert 'name = "web"' in told and "source" not in told
    told = told.replace('name = "web"', 'name = "copy"', 1)
    assert agent.tank("apply", "-", stdin=told).returncode == 0
    has(agent, "one", name="copy")


def test_apply_says_what_is_missing_as_the_agent_would(agent: Agent, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    file = place / "web.toml"
    file.write_text(pod(agent, "nginx.conf", "up.conf"))
    (place / "up.conf").symlink_to("/etc/hostname")
    for arguments in (("validate", str(file)), ("apply", str(file)), ("plan", str(file))):
        done = agent.tank(*arguments)
        assert done.returncode != 0
        assert f'{file}:4: files[0].source: "nginx.conf" is not there' in done.stderr, done
        assert f'{file}:7: files[1].source: "up.conf" is a symbolic link' in done.stderr, done
    done = agent.tank("apply", "-", stdin='name = "web"\n' + file.read_text())
    assert done.returncode == 2 and "since this text is in no directory" in done.stderr, done
    # A path is read where the client is, and never on the agent's side, whatever a client says.
    put(agent.pods / "nginx.conf", "the agent's own")
    done = agent.tank("apply", str(file))
    assert "is not there" in done.stderr and agent.statuses() == []


def test_seeds_have_files_beside_them_too(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    put(tmp_path / "seed.d" / "conf" / "a.conf", "of the seed")
    put(tmp_path / "seed.d" / "a.toml", pod(agent, "conf/a.conf"))
    put(tmp_path / "own.conf", "of agent.toml")
    words = json.dumps(SERVE)
    with agent.config.open("a") as config:
        config.write(
            '[[pods]]\nname = "b"\n[[pods.files]]\nname = "f"\nsource = "own.conf"\n'
            f'[[pods.containers]]\nname = "app"\nrootfs = "{agent.rootfs}"\ncommand = {words}\n'
            '[[pods.containers.mounts]]\nfile = "f"\npath = "/etc/f0"\n'
        )
    with ended(agent):
        agent.start()
        has(agent, "of the seed", name="a")
        has(agent, "of agent.toml", name="b")
