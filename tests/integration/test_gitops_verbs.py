"""Suspend, resume, roll back and plan, on a real agent that follows a real repository."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import Agent, ended, wait_for
from tests.support.git import make_key
from tests.support.gitops import Fleet, echo


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Return an agent that runs two pods of a repository: web in its second generation, and db."""
    made = Fleet(tmp_path)
    agent = made.agent
    made.push({"pods/web.toml": made.text("one"), "pods/db.toml": made.text("db")}, "begin")
    with ended(agent):
        agent.start()
        agent.wait_phase("web", "running")
        agent.wait_output("web", "one")
        made.push({"pods/web.toml": made.text("two")}, "second")
        wait_for(lambda: agent.output("web") == ["one", "two"], "the second runs")
        agent.wait_phase("web", "running")
        agent.wait_phase("db", "running")
        yield made


def says(agent: Agent, *words: str, pod: str = "web") -> dict[str, Any]:
    """Wait until a pod has said these words, and runs."""
    wait_for(lambda: agent.output(pod) == list(words), f"{pod} said {words}")
    return agent.wait_phase(pod, "running")


def test_rollback_pins_until_the_file_changes(fleet: Fleet) -> None:
    agent = fleet.agent
    first, second = (one.revision for one in agent.client.history("web"))
    done = agent.tank("rollback", "web")
    assert done.returncode == 0, done
    assert "goes back to generation 1" in done.stdout and "pinned" in done.stdout
    status = says(agent, "one", "two", "one")
    assert (status["revision"], status["generation"], status["git"]["state"]) == (first, 3, "pinned")
    assert status["git"]["subject"] == "begin"
    assert status["hold"]["kind"] == "pinned" and status["hold"]["generation"] == 1
    text = agent.tank("status").stdout
    assert "web: pinned to generation 1" in text and "`tank resume web`" in text
    # Over a restart, a new commit that does not concern it, a resync and a sync.
    agent.kill()
    agent.start()
    pid = agent.pid("web")
    other = fleet.push({"pods/db.toml": fleet.text("more")}, "not about web")
    says(agent, "db", "more", pod="db")
    assert agent.tank("sync", "--wait").returncode == 0
    assert agent.pid("web") == pid
    planned = agent.client.plan(git=other)
    assert [pod.change for pod in planned.pods if pod.name == "web"] == ["none"]
    fleet.push({"pods/web.toml": fleet.text("three")}, "third")
    status = says(agent, "one", "two", "one", "three")
    assert (status["hold"], status["git"]["state"]) == (None, "in-sync")
    kinds = [event.type for event in agent.client.events(pod="web")]
    assert kinds.index("rolled-back") < kinds.index("resumed")
    restored = [one["restored"] for one in json.loads(agent.tank("history", "web", "-o", "json").stdout)]
    assert restored == [None, None, 1, None]
    assert second


def test_resume_brings_a_pinned_pod_back(fleet: Fleet) -> None:
    agent = fleet.agent
    first, second = (one.revision for one in agent.client.history("web"))
    assert agent.tank("rollback", "web", first[:8]).returncode == 0
    says(agent, "one", "two", "one")
    assert agent.tank("rollback", "web").returncode == 1, "there is none before the first"
    assert agent.tank("rollback", "web", "17").returncode == 1
    assert agent.tank("rollback", "nobody").returncode == 1
    assert agent.tank("resume", "web").returncode == 0
    status = says(agent, "one", "two", "one", "two")
    assert (status["hold"], status["revision"]) == (None, second)
    same = agent.tank("rollback", "web", second)
    assert (same.returncode, "at that revision already" in same.stderr) == (1, True)


def test_rollback_to_a_commit_that_never_ran_here(fleet: Fleet) -> None:
    agent, work = fleet.agent, fleet.work
    work.write("pods/web.toml", fleet.text("between"))
    between = work.commit("between", push=False)
    fleet.push({"pods/web.toml": fleet.text("third")}, "third")
    says(agent, "one", "two", "third")
    done = agent.tank("rollback", "web", between)
    assert (done.returncode, "never ran here" in done.stdout) == (0, True), done
    status = says(agent, "one", "two", "third", "between")
    assert (status["revision"], status["git"]["subject"]) == (between, "between")
    assert agent.tank("rollback", "web", "0" * 40).returncode == 1
    assert "name a commit by all of its 40 digits" in agent.tank("rollback", "web", "0" * 12).stderr


def test_no_verb_brings_back_what_nobody_signed(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    public = (tmp_path / "key.pub").read_text().split()
    (tmp_path / "signers").write_text(f'ann@example.com namespaces="git" {public[0]} {public[1]}\n')
    fleet = Fleet(tmp_path)
    agent, work = fleet.agent, fleet.work
    work.git("config", "gpg.format", "ssh")
    work.git("config", "user.signingkey", str(tmp_path / "key"))
    with ended(agent):
        first = fleet.push({"pods/web.toml": fleet.text("one")}, "before verify")
        agent.start()
        agent.wait_phase("web", "running")
        agent.wait_output("web", "one")
        fleet.push({"pods/web.toml": fleet.text("two")}, "before verify, too")
        says(agent, "one", "two")
        assert agent.tank("rollback", "web").returncode == 0
        says(agent, "one", "two", "one")
        fleet.configure("[git.verify]", 'mode = "commits"', f'allowed_signers = "{tmp_path}/signers"')
        agent.kill()
        agent.start()
        # What ran when it was switched on is no push: it goes on, and the status says what it is.
        wait_for(lambda: agent.sources()["git"]["state"] == "error", "the deployed commit is told")
        pid = agent.pid("web")
        assert "was never verified" in agent.statuses("web")[0]["git"]["error"]
        signed = fleet.push({"pods/web.toml": fleet.text("three")}, "signed", "-S")
        says(agent, "one", "two", "one", "three")
        unsigned = fleet.push({"pods/web.toml": fleet.text("evil")}, "not signed")
        wait_for(lambda: agent.sources()["git"]["state"] == "error", "the unsigned commit is refused")
        pid = agent.pid("web")
        for to in ((), ("1",), ("2",), (first[:8],), (first,), (unsigned,)):
            done = agent.tank("rollback", "web", *to)
            assert (done.returncode, "is refused: it is not signed" in done.stderr) == (1, True), (to, done)
        for verb in (("sync",), ("suspend", "web"), ("resume", "web"), ("suspend",), ("resume",)):
            agent.tank(*verb)
        assert agent.tank("plan", "--git", unsigned).returncode in (0, 2)
        agent.kill()
        agent.start()
        agent.tank("resume", "web")
        agent.tank("sync", "--confirm", unsigned)
        status = agent.wait_phase("web", "running")
        assert (status["revision"], agent.pid("web")) == (signed, pid)
        assert agent.output("web") == ["one", "two", "one", "three"]
        # Back to what was verified, and forth again.
        fleet.work.git("reset", "--quiet", "--hard", signed)
        fleet.work.write("pods/web.toml", fleet.text("four"))
        work.commit("signed, too", "-S", push=False)
        work.push("--force")
        says(agent, "one", "two", "one", "three", "four")
        assert agent.tank("rollback", "web").returncode == 0
        says(agent, "one", "two", "one", "three", "four", "three")


def test_a_pinned_pod_does_not_use_up_the_budget(fleet: Fleet) -> None:
    agent = fleet.agent
    agent.client.rollback("web", 1)
    says(agent, "one", "two", "one")
    fleet.push({"pods/db.toml": fleet.text("more")}, "one of two pods")
    says(agent, "db", "more", pod="db")
    assert agent.sources()["git"]["state"] == "in-sync"


def test_a_suspended_pod_stays_whatever_is_pushed(fleet: Fleet) -> None:
    agent = fleet.agent
    assert agent.tank("suspend", "web").returncode == 0
    pid = agent.pid("web")
    fleet.push({"pods/web.toml": fleet.text("three"), "pods/db.toml": fleet.text("more")}, "both")
    says(agent, "db", "more", pod="db")
    agent.kill()
    agent.start()
    status = agent.wait_phase("web", "running")
    assert (agent.pid("web"), status["git"]["state"], status["hold"]["kind"]) == (
        pid,
        "suspended",
        "suspended",
    )
    assert "web: suspended" in agent.tank("status").stdout
    # It is still kept running.
    subprocess.run(["kill", "-KILL", str(pid)], check=True)
    says(agent, "one", "two", "two")
    assert agent.tank("resume", "web").returncode == 0
    says(agent, "one", "two", "two", "three")


def test_everything_suspended(fleet: Fleet) -> None:
    agent = fleet.agent
    file = agent.write("local", fleet.text("local"))
    agent.wait_phase("local", "running")
    assert agent.tank("suspend").returncode == 0
    pushed = fleet.push({"pods/web.toml": fleet.text("three")}, "third")
    file.unlink()
    agent.write("late", fleet.text("late"))
    refused = agent.tank("sync")
    assert (refused.returncode, "tank resume" in refused.stderr) == (1, True)
    agent.stop()
    agent.start()
    status = agent.tank("status")
    assert "sources are suspended" in status.stdout
    assert {pod["name"]: pod["hold"]["kind"] for pod in agent.statuses()} == dict.fromkeys(
        ("db", "local", "web"), "suspended"
    )
    assert agent.tank("resume", "web").returncode == 1
    assert agent.tank("resume").returncode == 0
    says(agent, "one", "two", "three")
    agent.wait_gone("local")
    agent.wait_phase("late", "running")
    wait_for(lambda: agent.sources()["git"]["state"] == "in-sync", "git is followed again")
    assert agent.sources()["git"]["commit"]["id"] == pushed


def test_files_can_be_suspended_and_rolled_back_too(fleet: Fleet) -> None:
    agent = fleet.agent
    agent.write("local", fleet.text("first"))
    agent.wait_phase("local", "running")
    agent.write("local", fleet.text("then"))
    says(agent, "first", "then", pod="local")
    agent.client.rollback("local")
    status = says(agent, "first", "then", "first", pod="local")
    assert (status["git"], status["hold"]["kind"]) == (None, "pinned")
    agent.client.sync()
    agent.write("local", "# a comment\n" + fleet.text("then"))
    agent.client.sync()
    assert agent.status("local")["hold"]["kind"] == "pinned"  # type: ignore[index]
    agent.write("local", fleet.text("last"))
    assert says(agent, "first", "then", "first", "last", pod="local")["hold"] is None


def test_rollback_of_an_applied_pod_is_one_more_generation(fleet: Fleet) -> None:
    agent = fleet.agent
    for word in ("first", "then"):
        assert agent.tank("apply", "-", "--wait", stdin=fleet.text(word, head='name = "job"')).returncode == 0
    agent.client.rollback("job")
    status = says(agent, "first", "then", "first", pod="job")
    assert (status["hold"], status["generation"]) == (None, 3)
    assert agent.tank("suspend", "job").returncode == 1


def test_plan_of_a_branch_before_it_is_merged(fleet: Fleet) -> None:
    agent, work = fleet.agent, fleet.work
    work.git("checkout", "--quiet", "-b", "feature")
    work.write("pods/new.toml", fleet.text("new"))
    (work.path / "pods/db.toml").unlink()
    work.commit("feature")
    before = {name: agent.pid(name) for name in ("web", "db")}
    planned = agent.tank("plan", "--git", "feature", "-o", "json")
    assert planned.returncode == 2, planned
    changes = {pod["name"]: pod["change"] for pod in json.loads(planned.stdout)["pods"]}
    assert changes == {"db": "remove", "new": "create", "web": "none"}
    assert agent.tank("plan", "--git", "main").returncode == 0
    work.write("pods/new.toml", "restart = 3\n")
    bad = work.commit("bad")
    planned = agent.tank("plan", "--git", bad)
    assert (planned.returncode, "pods/new.toml:1: restart" in planned.stderr) == (1, True)
    missing = agent.tank("plan", "--git", "none")
    assert (missing.returncode, "no branch or tag none" in missing.stderr) == (1, True)
    assert agent.tank("plan", "--git", "main", "pods").returncode == 1
    assert {name: agent.pid(name) for name in ("web", "db")} == before
    assert agent.sources()["git"]["state"] == "in-sync"


def laptop(*arguments: str, at: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line where no agent is."""
    return subprocess.run(
        [sys.executable, "-m", "tank_agent", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=at,
        env={"PATH": "/usr/bin:/bin", "TANK_SOCKET": str(at / "none.sock"), "PYTHONPATH": ":".join(sys.path)},
    )


def pod(word: str, head: str = "") -> str:
    return f'{head}\n[[containers]]\nname = "app"\nrootfs = "/srv/app"\ncommand = {json.dumps(echo(word))}\n'


def test_plan_of_a_tree_without_an_agent(tmp_path: Path) -> None:
    base, tree = tmp_path / "base", tmp_path / "tree"
    for top in (base, tree):
        (top / "deep").mkdir(parents=True)
        (top / "same.toml").write_text(pod("same"))
        (top / "deep/changed.toml").write_text(pod("old" if top == base else "new"))
    (base / "gone.toml").write_text(pod("gone"))
    (tree / "new.toml").write_text(pod("new"))
    (tree / ".draft.toml").write_text("= broken")
    done = laptop("plan", "tree", "--against", "base", at=tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.splitlines()[-1] == "1 to create, 1 to update, 1 to remove"
    assert "~ changed: update" in done.stdout and "command" in done.stdout
    assert laptop("plan", "base", "--against", "base", at=tmp_path).returncode == 0
    alone = laptop("plan", "tree", at=tmp_path)
    assert (alone.returncode, alone.stdout.splitlines()[-1]) == (2, "3 to create, 0 to update, 0 to remove")
    assert "compared with nothing" in alone.stderr
    one = laptop("plan", "tree/new.toml", at=tmp_path)
    assert (one.returncode, one.stdout.splitlines()[0]) == (2, "+ new: create")


def test_plan_without_an_agent_finds_every_problem(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.toml").write_text(pod("a", 'name = "web"'))
    (tree / "b.toml").write_text(pod("b", 'name = "web"'))
    (tree / "bad.toml").write_text(pod("c") + "colour = 1\n")
    (tree / "link.toml").symlink_to("a.toml")
    done = laptop("plan", "tree", "--against", "tree", at=tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == [
        "tree/b.toml:1:",
        "tree/bad.toml:6:",
        "tree/link.toml:",
    ]
    assert "pod web already belongs to a.toml" in lines[0]
    assert laptop("plan", "none", at=tmp_path).returncode == 1


def test_plan_without_an_agent_for_one_machine_of_many(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "edge.toml").write_text(pod("edge", 'name = "web"\nhosts = ["edge-*"]'))
    (tree / "core.toml").write_text(pod("core", 'name = "web"\nhosts = ["core-*"]'))
    (tree / "gold.toml").write_text(pod("gold", 'labels = { tier = "gold" }'))
    edge = laptop("plan", "tree", "--host", "edge-1", at=tmp_path)
    assert (edge.returncode, edge.stdout.splitlines()[-1]) == (2, "1 to create, 0 to update, 0 to remove")
    both = laptop("plan", "tree", "--host", "core-1", "--label", "tier=gold", at=tmp_path)
    assert both.stdout.splitlines()[-1] == "2 to create, 0 to update, 0 to remove"
    # For no machine in particular, nobody can say that the two are one too many.
    assert laptop("plan", "tree", at=tmp_path).returncode == 2
