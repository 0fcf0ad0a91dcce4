"""Updates as people see them: three axes, why, outcomes, and the hash of a plan that the history has, too."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import updates
from tests.support.agent import Agent, busybox_rootfs, ended, running_agent, wait_for
from tests.support.gitops import Fleet
from tests.support.trees import big_directory
from tests.support.updates import events_of, outcomes, program, push, update_table, wait_state, why


@pytest.fixture
def agent() -> Iterator[Agent]:
    with big_directory() as home, running_agent(home) as started:
        yield started


def pod(agent: Agent, word: str, *, extra: str = "", more: str = "", update: str = "", **how: Any) -> str:
    """Return the text of a pod that prints a word, and is good after a second."""
    head = f"{more}{update or update_table()}"
    return agent.pod_text(command=program(word, **how), head=head, extra=extra)


def history(agent: Agent, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(agent.tank("history", name, "-o", "json").stdout)
    return found


def planned(agent: Agent, directory: Path, **texts: str) -> dict[str, str]:
    """Return the proofs of a plan for files in place of pods_dir."""
    directory.mkdir(exist_ok=True)
    for file in directory.iterdir():
        file.unlink()
    for name, text in texts.items():
        (directory / f"{name}.toml").write_text(text)
    asked = json.loads(agent.tank("plan", str(directory), "-o", "json").stdout)
    return {one["name"]: one["proof"] for one in asked["pods"] if one["change"] != "none"}


def done(agent: Agent, name: str) -> str:
    """Return the proof of the last verdict of a pod."""
    verdict = history(agent, name)[-1]["verdict"]
    proof: str = verdict["proof"]
    if verdict["reason"] != "it changes nothing that runs":
        assert f"({proof})" in [event.message for event in agent.client.events(pod=name)][-1]
    return proof


HEALTH = f'{updates.HEALTH}start_period = "0s"\n'
SIDE = """
[[containers]]
name = "side"
rootfs = "{rootfs}"
command = ["/bin/sleep", "1000"]
stop_grace = "0s"
"""
FIRST = """
[[containers]]
name = "first"
rootfs = "{rootfs}"
command = ["/bin/true"]
init = true
"""


def test_the_hash_of_a_plan_is_the_one_in_the_history(agent: Agent, tmp_path: Path) -> None:
    side = SIDE.format(rootfs=agent.rootfs)
    volume = '[[volumes]]\nname = "data"\nsnapshot = true\n'
    mount = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
    steps = {
        "create": pod(agent, "one"),
        "program": pod(agent, "two"),
        "limits": pod(agent, "two", extra="[containers.limits]\npids = 77\n"),
        "more containers": pod(agent, "two", extra="[containers.limits]\npids = 77\n") + side,
        "both": pod(agent, "three") + side.replace('"1000"', '"1001"'),
        "fewer containers": pod(agent, "three"),
        "a volume": pod(agent, "three", more=volume, extra=mount),
        "with a snapshot": pod(agent, "four", more=volume, extra=mount),
        "an init container": pod(agent, "four", more=volume, extra=mount) + FIRST.format(rootfs=agent.rootfs),
        "a probe": pod(agent, "five", extra=HEALTH),
        "update keys": pod(agent, "five", extra=HEALTH, update=update_table(min_healthy="500ms")),
    }
    proofs: dict[str, str] = {}
    before: dict[str, str] = {}
    for what, text in steps.items():
        proof = planned(agent, tmp_path / "wanted", web=text)["web"]
        alone = offline(agent, tmp_path, before, {"web": text})
        assert alone == {"web": proof}, what
        push(agent, "web", text, "good")
        assert done(agent, "web") == proof, what
        proofs[what], before = proof, {"web": text}
    assert len(set(proofs.values())) == len(proofs)


def offline(agent: Agent, directory: Path, before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """Return the proofs of a plan that no agent was asked for."""
    for name, texts in (("before", before), ("after", after)):
        (directory / name).mkdir(exist_ok=True)
        for pod_name, text in texts.items():
            (directory / name / f"{pod_name}.toml").write_text(text)
    for place, texts in ((directory / "before", before), (directory / "after", after)):
        for stale in (file for file in place.iterdir() if file.stem not in texts):
            stale.unlink()
    asked = agent.tank("plan", str(directory / "after"), "--against", str(directory / "before"), "-o", "json")
    return {one["name"]: one["proof"] for one in json.loads(asked.stdout)["pods"]}


def test_another_machine_has_the_same_hash() -> None:
    found = []
    with big_directory() as shared:
        # Its path is a part of the spec, so it must be the same.
        rootfs = busybox_rootfs(shared / "rootfs")
        for _ in range(2):
            with big_directory() as home, running_agent(home) as agent:
                agent.rootfs = rootfs
                for word in ("one", "two"):
                    push(agent, "web", pod(agent, word), "good")
                found.append([entry["verdict"]["proof"] for entry in history(agent, "web")])
    assert found[0] == found[1]
    assert len(set(found[0])) == 2


def test_an_agent_that_was_killed_in_the_middle_has_the_same_hash(agent: Agent, tmp_path: Path) -> None:
    side = SIDE.format(rootfs=agent.rootfs)
    push(agent, "web", pod(agent, "one") + side, "good")
    text = pod(agent, "two", update=update_table(min_healthy="2s", deadline="30s")) + side
    proof = planned(agent, tmp_path / "wanted", web=text)["web"]
    agent.stop()
    agent.launch(fault="loop:start-recorded")
    agent.write("web", text)
    agent.died()
    agent.start()
    wait_state(agent, "web", "updating", after=1)
    # What is still to be done, and what was done, are together what was planned.
    pending = agent.tank("plan", "-o", "json")
    assert [one["proof"] for one in json.loads(pending.stdout)["pods"]] in ([proof], [""])
    agent.kill()
    agent.start()
    wait_state(agent, "web", "good", after=1)
    assert done(agent, "web") == proof


def test_an_agent_that_did_something_else_has_another_hash(agent: Agent, tmp_path: Path) -> None:
    side = SIDE.format(rootfs=agent.rootfs)
    push(agent, "web", pod(agent, "one") + side, "good")
    text = pod(agent, "two", update=update_table(min_healthy="3s", deadline="20s")) + side
    proof = planned(agent, tmp_path / "wanted", web=text)["web"]
    agent.write("web", text)
    wait_state(agent, "web", "updating", after=1)
    # The plan leaves this container alone, and it has to be started again.
    os.kill(agent.pid("web", 1), signal.SIGKILL)
    wait_state(agent, "web", "good", after=1)
    assert done(agent, "web") != proof


def test_an_update_that_is_undone_is_told_in_every_place(agent: Agent) -> None:
    push(agent, "web", pod(agent, "good"), "good")
    bad = pod(agent, "bad", before="echo cannot go on; exit 3; ")
    file = agent.pods / "web.toml"
    push(agent, "web", bad, "rolled-back")
    status = agent.status("web")
    assert status is not None
    assert status["rollout"]["outcome"] == "failed"
    assert "exit code 3" in status["rollout"]["reason"]
    assert status["rollout"]["wanted"] != status["rollout"]["running"] == status["revision"]
    assert status["hold"]["kind"] == "quarantined"
    table = agent.tank("status").stdout
    assert "UPDATE" in table and "rolled-back" in table and "`tank why web`" in table
    assert "`tank resume web`" in table
    told = why(agent, "web")
    line = next(at for at, text in enumerate(bad.splitlines(), 1) if text.startswith("command"))
    assert f"{file}:{line}: containers[app].command: " in told
    assert "cannot go on" in told, told
    assert "exit code 3" in told
    assert outcomes(agent, "web") == ["good", "failed", "good"]
    assert [one for one in events_of(agent, "web") if "update" in one or "rolled" in one] == [
        "update-good",
        "update-started",
        "update-failed",
        "rolled-back",
    ]
    # By hand it is refused, too.
    refused = agent.tank("rollback", "web", "2")
    assert refused.returncode == 1 and "failed as an update" in refused.stderr
    again = agent.tank("resume", "web")
    assert "again, which failed before: " in again.stdout
    wait_state(agent, "web", "rolled-back", after=4)
    assert [entry["outcome"] for entry in history(agent, "web")] == [
        "good",
        "failed",
        "good",
        "failed",
        "good",
    ]
    forced = agent.tank("rollback", "web", "2", "--force")
    assert forced.returncode == 0, forced.stderr


def test_why_answers_for_every_kind_of_name(agent: Agent) -> None:
    agent.write("broken", 'comand = "x"\n')
    agent.write("elsewhere", f'hosts = ["other"]\n{pod(agent, "x")}')
    agent.write("waits", f'after = ["db"]\n{pod(agent, "x")}')
    agent.write("gone", pod(agent, "x"))
    agent.wait_phase("gone", "running")
    (agent.pods / "gone.toml").unlink()
    wait_for(lambda: agent.status("gone") is None, "it is gone")
    wait_for(lambda: "waits for pod db" in why(agent, "waits"), "it waits for db")
    assert "`tank why db`" in why(agent, "waits")
    assert "broken.toml:1: " in why(agent, "broken")
    assert "is not meant for this machine" in why(agent, "elsewhere")
    assert "there is no pod gone any more" in why(agent, "gone")
    unknown = agent.tank("why", "gnoe")
    assert (unknown.returncode, "there is no pod gnoe" in unknown.stderr) == (1, True)


def test_health_and_what_waits_are_in_the_status(agent: Agent) -> None:
    side = SIDE.format(rootfs=agent.rootfs) + 'after = ["app"]\n'
    agent.write("web", pod(agent, "sick", extra=HEALTH, well=False) + side)
    status = wait_for(lambda: _unhealthy(agent), "the probe of web fails")
    app, other = status["containers"]
    assert app["health"]["state"] == "unhealthy"
    assert "sick is sick" in app["health"]["message"]
    assert app["health"]["failing"] >= 2
    assert other["health"] == {"state": "none", "since": None, "message": None, "failing": 0}
    assert any("waits for container app: " in line for line in status["waits"])
    table = agent.tank("status").stdout
    assert "HEALTH" in table and "unhealthy" in table and "see `tank logs web/app`" in table
    assert "app is unhealthy" in why(agent, "web")


def _unhealthy(agent: Agent) -> dict[str, Any] | None:
    status = agent.status("web")
    return status if status is not None and status["health"] == "unhealthy" else None


DATA = '[[volumes]]\nname = "data"\nsnapshot = true\n'
MOUNT = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'


def writes(agent: Agent, word: str) -> str:
    """Return a pod that writes a word into its volume."""
    return pod(agent, word, before=f"echo {word} > /data/word; ", more=DATA, extra=MOUNT)


def test_a_rollback_takes_the_data_along_only_if_it_is_asked_to(agent: Agent) -> None:
    word = agent.data / "volumes/web/data/word"
    push(agent, "web", writes(agent, "one"), "good")
    push(agent, "web", pod(agent, "two", more=DATA, extra=MOUNT), "good")
    word.write_text("migrated\n")
    push(agent, "web", pod(agent, "three", more=DATA, extra=MOUNT), "good")
    word.write_text("broken\n")
    refused = agent.tank("rollback", "web", "3", "--with-data")
    assert (refused.returncode, "no snapshot of the data of generation 3" in refused.stderr) == (1, True)
    done = agent.tank("rollback", "web", "2", "--with-data")
    assert done.returncode == 0, done.stderr
    assert "with the data that it had" in done.stdout
    wait_state(agent, "web", "good", after=3)
    assert word.read_text() == "migrated\n"
    # What it replaced is good, too: an update that fails goes back to that with its data.
    assert agent.data.joinpath("snapshots/web/data/4/word").read_text() == "broken\n"
    word.write_text("kept\n")
    assert agent.tank("rollback", "web", "3").returncode == 0
    wait_state(agent, "web", "good", after=4)
    assert word.read_text() == "kept\n"


def test_why_names_the_line_in_the_commit(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    agent = fleet.agent
    with ended(agent):
        first = fleet.push({"pods/web.toml": pod(agent, "one")}, "begin")
        agent.start()
        wait_state(agent, "web", "good")
        bad = fleet.push({"pods/web.toml": "# a comment\n" + pod(agent, "two", before="exit 4; ")}, "Faster")
        wait_state(agent, "web", "rolled-back")
        # Later commits that are not about it.
        fleet.push({"pods/db.toml": pod(agent, "db")}, "another pod")
        agent.wait_phase("db", "running")
        found = agent.client.why("web")
        (field,) = [one for one in found.wanted if one.key == "containers[app].command"]
        text = fleet.work.path.joinpath("pods/web.toml").read_text().splitlines()
        assert (field.file, text[field.line - 1].partition(" ")[0]) == ("pods/web.toml", "command")
        assert found.commit == bad
        status = found.status
        assert status is not None and status.rollout is not None
        assert (status.rollout.wanted, status.rollout.running) == (bad, first)
        told = why(agent, "web")
        assert f"pods/web.toml:{field.line}: containers[app].command: " in told
        assert f"({bad[:12]})" in told and "Faster" in told
        assert "edit pods/web.toml in the git repository" in told
        table = agent.tank("status").stdout.splitlines()
        assert "quarantined" in next(line for line in table if line.startswith("web "))


def test_the_removal_of_a_pod_has_a_hash_too(agent: Agent, tmp_path: Path) -> None:
    push(agent, "web", pod(agent, "one"), "good")
    removal = planned(agent, tmp_path / "wanted")
    assert removal.keys() == {"web"}
    assert offline(agent, tmp_path, {"web": pod(agent, "one")}, {}) == removal
