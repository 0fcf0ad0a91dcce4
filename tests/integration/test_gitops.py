"""`git push`, and the machine follows: a real agent, real repositories, real containers."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import platform
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tank_agent
from tests.support.agent import Agent, ended, wait_for
from tests.support.git import free_port, git_daemon, make_key
from tests.support.gitops import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Return a repository, and an agent that follows it once it is started."""
    made = Fleet(tmp_path)
    with ended(made.agent):
        yield made


@pytest.fixture
def three(fleet: Fleet) -> Fleet:
    """Return one with three pods that run."""
    fleet.push({f"pods/{name}.toml": fleet.text(name) for name in ("a", "b", "c")}, "begin")
    fleet.agent.start()
    for name in ("a", "b", "c"):
        fleet.agent.wait_phase(name, "running")
        fleet.agent.wait_output(name, name)
    return fleet


def git_of(agent: Agent) -> dict[str, Any]:
    found = agent.sources()["git"]
    assert isinstance(found, dict)
    return found


def wait_git(agent: Agent, state: str, commit: str | None = None) -> dict[str, Any]:
    """Wait until git is in a state, with a commit applied."""

    def reached() -> dict[str, Any] | None:
        found = git_of(agent)
        there = found["state"] == state and commit in (None, found["steps"]["applied"]["revision"])
        return found if there else None

    try:
        return wait_for(reached, f"git is {state}")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{git_of(agent)}\n{agent.log.read_text()[-3000:]}") from None


def pids(agent: Agent, *names: str) -> dict[str, int]:
    return {name: agent.pid(name) for name in names}


def test_a_push_becomes_a_container_changes_it_and_ends_it(fleet: Fleet) -> None:
    agent = fleet.agent
    first = fleet.push({"pods/web.toml": fleet.text("one"), "pods/db.toml": fleet.text()}, "begin")
    agent.start()
    status = agent.wait_phase("web", "running")
    agent.wait_output("web", "one")
    assert (status["owner"], status["revision"], status["hold"]) == ("git:pods/web.toml", first, None)
    assert status["git"] == {
        "state": "in-sync",
        "error": None,
        "commit": first,
        "author": "Ann Author",
        "subject": "begin",
        "file": "pods/web.toml",
    }
    other = agent.wait_phase("db", "running") and agent.pid("db")
    # Polls are a minute apart: what comes sooner was woken by the push.
    second = fleet.push({"pods/web.toml": fleet.text("two")}, "second")
    wait_for(lambda: agent.output("web") == ["one", "two"], "the change runs")
    assert agent.wait_phase("web", "running")["git"]["commit"] == second
    fleet.push({"pods/web.toml": None}, "third")
    agent.wait_gone("web")
    assert agent.pid("db") == other
    assert agent.client.delete("nobody") is False
    refused = agent.tank("delete", "db")
    assert (refused.returncode, "pods/db.toml in the git repository" in refused.stderr) == (1, True)


def test_commits_show_in_history_and_events(three: Fleet) -> None:
    agent = three.agent
    second = three.push({"pods/a.toml": three.text("more")}, "say more")
    wait_git(agent, "in-sync", second)
    revisions = json.loads(agent.tank("history", "a", "-o", "json").stdout)
    assert [(one["generation"], one["author"], one["subject"]) for one in revisions] == [
        (1, "Ann Author", "begin"),
        (2, "Ann Author", "say more"),
    ]
    assert revisions[1]["revision"] == second
    assert "say more (Ann Author)" in agent.tank("history", "a").stdout
    applied = [event for event in agent.client.events() if event.type == "git-applied"]
    assert [event.message for event in applied][-1] == f"{second[:12]} say more (Ann Author)"


def test_a_bad_file_keeps_its_pod_and_the_others_follow(three: Fleet) -> None:
    agent = three.agent
    before = agent.pid("a")
    three.push({"pods/a.toml": "restart = 3\n", "pods/b.toml": three.text("new")}, "bad")
    wait_for(lambda: agent.output("b") == ["b", "new"], "the good file counts")
    status = agent.wait_phase("a", "running")
    assert agent.pid("a") == before
    assert (status["git"]["state"], status["generation"]) == ("error", 1)
    assert "pods/a.toml:1: restart" in status["error"]
    good = three.push({"pods/a.toml": three.text("good")}, "good")
    wait_for(lambda: agent.output("a") == ["a", "good"], "the good commit counts")
    status = agent.wait_phase("a", "running")
    assert (status["error"], status["git"]["state"], status["revision"]) == (None, "in-sync", good)


def test_a_new_bad_file_shows_under_its_own_name(three: Fleet) -> None:
    three.push({"pods/new.toml": "restart = 3\n"}, "bad")
    status = three.agent.wait_phase("new", "failed")
    assert (status["owner"], "pods/new.toml:1" in status["error"]) == ("git:pods/new.toml", True)


def test_a_repository_emptied_by_mistake_takes_nothing_down(three: Fleet) -> None:
    agent = three.agent
    before = pids(agent, "a", "b", "c")
    shutil.rmtree(three.work.path / "pods")
    (three.work.path / "README").write_text("moved\n")
    emptied = three.work.commit("emptied")
    git = wait_git(agent, "error")
    assert git["error"] == "check: pods is not in this commit; the pods that run go on"
    assert pids(agent, "a", "b", "c") == before
    synced = agent.tank("sync")
    assert (synced.returncode, "pods is not in this commit" in synced.stdout) == (1, True)
    assert {pod["git"]["state"] for pod in agent.statuses()} == {"error"}
    assert git_of(agent)["steps"]["fetched"]["revision"] == emptied
    # The fix is another push.
    back = three.push({f"pods/{name}.toml": three.text(name) for name in ("a", "b", "c")}, "back")
    wait_git(agent, "in-sync", back)
    assert pids(agent, "a", "b", "c") == before


def test_a_commit_beyond_the_budget_waits_for_a_nod(three: Fleet) -> None:
    agent = three.agent
    before = pids(agent, "a", "b", "c")
    held = three.push({f"pods/{name}.toml": three.text("same") for name in ("a", "b", "c")}, "all at once")
    git = wait_git(agent, "held")
    assert git["held"].startswith(f'commit {held[:12]} ("all at once" by Ann Author) is held')
    assert "replace 3 (a, b, c) of 3 pods" in git["held"]
    assert pids(agent, "a", "b", "c") == before
    assert agent.status("a")["git"]["state"] == "held"  # type: ignore[index]
    status = agent.tank("status")
    assert (status.returncode, f"tank sync --confirm {held[:12]}" in status.stdout) == (0, True)
    assert agent.tank("sync").returncode == 1
    wrong = agent.tank("sync", "--confirm", "0" * 12)
    assert (wrong.returncode, "no commit 000000000000 waits" in wrong.stderr) == (1, True)
    # What it would do can be seen first.
    planned = agent.tank("plan", "--git", "main")
    assert (planned.returncode, "0 to create, 3 to update, 0 to remove" in planned.stdout) == (2, True)
    agent.kill()
    agent.start()
    wait_git(agent, "held")
    assert pids(agent, "a", "b", "c") == before
    done = agent.tank("sync", "--wait", "--confirm", held[:12])
    assert (done.returncode, git_of(agent)["state"]) == (0, "in-sync"), done
    assert [agent.output(name)[-1] for name in ("a", "b", "c")] == ["same"] * 3
    assert agent.tank("sync", "--confirm").returncode == 1
    kinds = [event.type for event in agent.client.events() if not event.pod]
    assert "git-held" in kinds and "git-confirmed" in kinds


def test_a_force_push_is_refused_and_a_merge_mends_it(three: Fleet) -> None:
    agent, work = three.agent, three.work
    deployed = three.push({"README": "second\n"}, "second")
    wait_git(agent, "in-sync", deployed)
    before = pids(agent, "a", "b", "c")
    work.write("pods/d.toml", three.text("d"))
    work.commit("rewritten", "--amend", push=False)
    work.push("--force")
    git = wait_git(agent, "error")
    assert "does not follow the deployed commit" in git["error"]
    assert git["hint"] == "push a commit on top of the deployed one, or set git.allow_rewrite"
    assert pids(agent, "a", "b", "c") == before
    assert agent.status("d") is None
    work.git("merge", "--quiet", "-s", "ours", "-m", "merge", deployed)
    work.push()
    wait_git(agent, "in-sync", work.head())
    agent.wait_phase("d", "running")
    assert pids(agent, "a", "b", "c") == before


def test_only_signed_commits_under_verify(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    public = (tmp_path / "key.pub").read_text().split()
    (tmp_path / "signers").write_text(f'ann@example.com namespaces="git" {public[0]} {public[1]}\n')
    fleet = Fleet(tmp_path, "[git.verify]", 'mode = "commits"', f'allowed_signers = "{tmp_path}/signers"')
    agent, work = fleet.agent, fleet.work
    work.git("config", "gpg.format", "ssh")
    work.git("config", "user.signingkey", str(tmp_path / "key"))
    with ended(agent):
        fleet.push({"pods/web.toml": fleet.text("one")}, "signed", "-S")
        agent.start()
        agent.wait_phase("web", "running")
        agent.wait_output("web", "one")
        pid = agent.pid("web")
        fleet.push({"pods/web.toml": fleet.text("evil")}, "not signed")
        git = wait_git(agent, "error")
        assert git["error"].startswith("verify: ") and "not signed" in git["error"]
        assert "\n" not in git["error"]
        assert (agent.pid("web"), agent.output("web")) == (pid, ["one"])
        # Signed on top does not help; signed instead does, where nothing was deployed of it.
        fleet.push({"pods/web.toml": fleet.text("two")}, "on top", "-S")
        agent.tank("sync")
        assert agent.pid("web") == pid
        work.git("reset", "--quiet", "--soft", "HEAD~2")
        work.commit("signed again", "-S", push=False)
        work.push("--force")
        wait_for(lambda: agent.output("web") == ["one", "two"], "the signed one counts")
        wait_git(agent, "in-sync", work.head())


def test_a_server_that_is_down_changes_nothing(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.push({"pods/web.toml": fleet.text("one")}, "begin")
    agent = fleet.agent
    with ended(agent):
        with git_daemon(tmp_path) as address:
            fleet.configure('poll = "1s"', url=f"{address}/fleet.git")
            agent.start()
            agent.wait_phase("web", "running")
            agent.wait_output("web", "one")
            fleet.push({"pods/web.toml": fleet.text("two")}, "polled")
            wait_for(lambda: agent.output("web") == ["one", "two"], "a poll sees it")
            agent.wait_phase("web", "running")
            pid = agent.pid("web")
        git = wait_git(agent, "error")
        assert git["error"].startswith("fetch: ") and "\n" not in git["error"]
        agent.kill()
        # Also a restart needs no server for what is deployed already.
        agent.start()
        wait_git(agent, "error")
        assert agent.wait_phase("web", "running")["git"]["state"] == "error"
        assert agent.pid("web") == pid


def _points() -> list[str]:
    source = "".join(
        path.read_text() for path in sorted((Path(tank_agent.__file__).parent / "source/git").rglob("*.py"))
    )
    found = set(re.findall(r'point\(f?"(git:[a-z-]+)"\)', source)) | {"git:tip-written", "git:have-written"}
    return sorted(found - {"git:bare-made"})


STEPS = [
    "git:checked",
    "git:fetched",
    "git:have-written",
    "git:pack-copied",
    "git:pack-taken",
    "git:published",
    "git:remembered",
    "git:renewal-begun",
    "git:scratch-made",
    "git:swap-begun",
    "git:swap-done",
    "git:tip-written",
    "git:verified",
]


def test_every_fault_point_is_tried() -> None:
    assert _points() == STEPS


def children(pid: int) -> list[int]:
    """Return the processes whose parent is this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found.append(int(entry.parent.name))
    return found


def damage(agent: Agent) -> None:
    """Spoil our copy of the repository as a bad disk would."""
    for pack in (agent.data / "git/repository/objects/pack").glob("*.pack"):
        data = pack.read_bytes()
        # All objects: which of them a look needs is not for this to know.
        pack.write_bytes(data[:12] + bytes(byte ^ 0xFF for byte in data[12:]))


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step_of_a_push_everything_converges(three: Fleet, step: str) -> None:
    agent = three.agent
    kept = agent.pid("c")
    agent.stop()
    if "renewal" in step or "swap" in step:
        damage(agent)
    files = {"pods/a.toml": three.text("next"), "pods/b.toml": None, "pods/d.toml": three.text("d")}
    head = three.push(files, "next")
    agent.launch(fault=step)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    wait_git(agent, "in-sync", head)
    wait_for(lambda: agent.output("a") == ["a", "next"], "the change runs")
    agent.wait_phase("d", "running")
    agent.wait_gone("b")
    assert agent.wait_phase("c", "running") and agent.pid("c") == kept
    assert [agent.status(name)["generation"] for name in ("a", "c", "d")] == [2, 1, 1]  # type: ignore[index]
    wait_for(
        lambda: [entry.name for entry in (agent.data / "git").iterdir()] == ["repository"], "nothing is left"
    )


def test_no_helper_outlives_a_killed_agent(three: Fleet) -> None:
    agent = three.agent
    assert agent.process is not None
    helpers = [
        pid
        for pid in children(agent.process.pid)
        if b"source.git.helper" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert helpers, "one waits in reserve, since the repository is on this machine"
    agent.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers), "the helper ends")


def test_a_damaged_copy_is_mended_under_a_running_agent(three: Fleet) -> None:
    agent = three.agent
    before = pids(agent, "b", "c")
    damage(agent)
    head = three.push({"pods/a.toml": three.text("next")}, "next")
    wait_for(lambda: agent.output("a") == ["a", "next"], "the change runs")
    wait_git(agent, "in-sync", head)
    assert pids(agent, "b", "c") == before


def test_pods_for_other_machines_do_not_run(tmp_path: Path) -> None:
    name = platform.node()
    fleet = Fleet(tmp_path, "[labels]", 'site = "fra"')
    agent = fleet.agent
    heads = {
        "mine": f'hosts = ["none-*", "{name[:2]}*"]',
        "labelled": 'labels = { site = "f*" }',
        "other": 'hosts = ["no-such-host"]',
        "elsewhere": f'hosts = ["{name}"]\nlabels = {{ site = "ber" }}',
        "everywhere": "",
    }
    fleet.push({f"pods/{pod}.toml": fleet.text(pod, head=head) for pod, head in heads.items()}, "begin")
    agent.write("local", fleet.text("local", head='hosts = ["no-such-host"]'))
    with ended(agent):
        agent.start()
        for pod in ("mine", "labelled", "everywhere"):
            agent.wait_phase(pod, "running")
        assert [pod["name"] for pod in agent.statuses()] == ["everywhere", "labelled", "mine"]
        pid = agent.pid("mine")
        # Selectors are no part of what runs.
        commit = fleet.push({"pods/mine.toml": fleet.text("mine", head=f'hosts = ["{name}"]')}, "narrower")
        wait_git(agent, "in-sync", commit)
        assert agent.pid("mine") == pid
        fleet.push({"pods/mine.toml": fleet.text("mine", head='hosts = ["no-such-host"]')}, "moved away")
        agent.wait_gone("mine")
        refused = agent.tank("apply", "-", stdin=fleet.text(head='name = "x"\nhosts = ["no-such-host"]'))
        assert (refused.returncode, "not meant for this machine" in refused.stderr) == (2, True)


def test_each_machine_has_its_directory(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, path="hosts/{hostname}")
    agent = fleet.agent
    fleet.push({f"hosts/{platform.node()}/web.toml": fleet.text(), "hosts/none/db.toml": fleet.text()}, "all")
    with ended(agent):
        agent.start()
        agent.wait_phase("web", "running")
        assert [pod["name"] for pod in agent.statuses()] == ["web"]


def test_tank_git_init_makes_what_can_be_pushed_to(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    agent, bare = fleet.agent, tmp_path / "srv" / "fleet.git"
    made = agent.tank("git", "init", str(bare))
    assert (made.returncode, "is ready for pushes" in made.stdout) == (0, True), made
    assert agent.tank("git", "init", str(bare)).stdout.startswith(f"{bare} is a repository already")
    assert agent.tank("git", "init", str(tmp_path)).returncode == 1
    assert agent.tank("git", "init", str(tmp_path / "x"), "--owner", "no-such-user").returncode == 1
    fleet.configure(url=str(bare))
    with ended(agent):
        agent.start()
        empty = wait_git(agent, "error")
        assert "the remote is empty" in empty["error"]
        fleet.work.git("remote", "set-url", "origin", str(bare))
        fleet.push({"pods/web.toml": fleet.text()}, "first")
        agent.wait_phase("web", "running")


def test_a_webhook_wakes_the_agent(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "secret").write_text("0123456789abcdef")
    fleet = Fleet(tmp_path)
    agent = fleet.agent
    fleet.push({"pods/web.toml": fleet.text("one")}, "begin")
    with git_daemon(tmp_path) as address:
        hook = ("[git.webhook]", f'listen = "127.0.0.1:{port}"', f'secret_file = "{tmp_path}/secret"')
        fleet.configure('poll = "1h"', *hook, url=f"{address}/fleet.git")
        with ended(agent):
            agent.start()
            agent.wait_phase("web", "running")
            agent.wait_output("web", "one")
            fleet.push({"pods/web.toml": fleet.text("two")}, "second")
            assert call(port, b"{}", b"wrong") == 403
            assert call(port, b"{}", b"0123456789abcdef") == 202
            wait_for(lambda: agent.output("web") == ["one", "two"], "the push is seen")


def call(port: int, body: bytes, secret: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    digest = hmac.new(secret, body, hashlib.sha256).hexdigest()
    connection.request("POST", "/", body, {"X-Hub-Signature-256": f"sha256={digest}"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_webhook_that_cannot_listen_stops_nobody(tmp_path: Path) -> None:
    hook = ("[git.webhook]", 'listen = "127.0.0.1:9470"', f'secret_file = "{tmp_path}/none"')
    fleet = Fleet(tmp_path, *hook)
    fleet.push({"pods/web.toml": fleet.text()}, "begin")
    with ended(fleet.agent):
        fleet.agent.start()
        fleet.agent.wait_phase("web", "running")
        (trouble,) = git_of(fleet.agent)["troubles"]
        assert "secret_file" in trouble
        assert trouble in fleet.agent.tank("status").stdout


def test_files_and_git_side_by_side(three: Fleet) -> None:
    agent = three.agent
    file = agent.write("a", three.text("file"))
    agent.client.sync()
    status = agent.wait_phase("a", "running")
    assert (status["owner"], agent.output("a")) == ("git:pods/a.toml", ["a"])
    assert str(file) in status["error"]
    three.push({"pods/a.toml": None}, "hand over")
    wait_for(lambda: agent.output("a") == ["a", "file"], "the file takes over")
    assert agent.wait_phase("a", "running")["owner"] == f"dir:{file}"


def test_git_alone_needs_no_directory(three: Fleet) -> None:
    agent = three.agent
    agent.stop()
    agent.pods.rmdir()
    agent.start()
    assert agent.tank("sync", "--wait").returncode == 0
    assert agent.tank("plan").returncode == 0
    assert [pod["name"] for pod in agent.statuses()] == ["a", "b", "c"]
    assert "files" not in agent.tank("status").stdout
    # It counts as soon as it is there.
    agent.pods.mkdir()
    agent.write("d", three.text("d"))
    agent.wait_phase("d", "running")


def test_without_the_table_what_came_from_git_goes_on(three: Fleet) -> None:
    agent = three.agent
    before = pids(agent, "a", "b", "c")
    agent.stop()
    agent.config.write_text(agent.config.read_text().partition("[git]")[0])
    agent.start()
    assert pids(agent, "a", "b", "c") == before
    assert "agent.toml has no [git]" in agent.tank("status").stdout
    assert agent.status("a")["git"]["state"] == "error"  # type: ignore[index]
    # A file that says the same takes a pod over without a restart; the others can be removed.
    file = agent.write("a", three.text("a"))
    agent.client.sync()
    assert agent.status("a")["owner"] == "git:pods/a.toml"  # type: ignore[index]
    assert agent.tank("delete", "a", "b").returncode == 0
    agent.wait_gone("b")
    assert agent.wait_phase("a", "running")["owner"] == f"dir:{file}"
    assert pids(agent, "a", "c") == {"a": before["a"], "c": before["c"]}


def test_the_example_runs_as_it_is(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples/gitops"
    fleet = Fleet(tmp_path)
    agent = fleet.agent
    # Only places differ: the repository, and the image, which stands for the layout that the README makes.
    text = (example / "agent.toml").read_text().replace("/srv/fleet.git", str(fleet.work.bare))
    agent.config.write_text(agent.config.read_text().partition("[git]")[0] + text)
    pod = (example / "pods/hello.toml").read_text()
    assert 'image = "oci:/srv/images/busybox:latest"' in pod
    pod = pod.replace('image = "oci:/srv/images/busybox:latest"', f'rootfs = "{agent.rootfs}"')
    fleet.push({"pods/hello.toml": pod}, "begin")
    with ended(agent):
        agent.start()
        agent.wait_phase("hello", "running")
        wait_for(lambda: agent.output("hello", "counter") == ["hello from git"], "it says so")
