"""The status of a commit: a real agent and real pods, and forges that behave as their documents say."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import ended, wait_for
from tests.support.forges import TOKEN, Served, forge
from tests.support.git import https_server, make_certificate
from tests.support.gitops import Fleet
from tests.support.receivers import quiet_for
from tests.support.updates import HEALTH, program, update_table, wait_state

CONTEXT = "tank/edge-1"


def table(served: Served, token_file: Path, *lines: str) -> list[str]:
    """Return the lines of `[git.status]` for a forge on loopback."""
    return [
        "[git.status]",
        f'forge = "{served.forge.kind}"',
        f'api = "{served.url}"',
        f'project = "{served.forge.project}"',
        f'token_file = "{token_file}"',
        f'context = "{CONTEXT}"',
        *lines,
    ]


def word(fleet: Fleet, text: str, *, well: bool = True) -> str:
    """Return a pod file whose update is good after a second, or fails after five."""
    head = update_table(deadline="60s" if well else "5s")
    return fleet.agent.pod_text(command=program(text, well=well), head=head, extra=HEALTH)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "status.token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


@pytest.fixture(params=["github", "gitlab", "forgejo"])
def each(request: pytest.FixtureRequest) -> Iterator[Served]:
    project = "acme/infra/fleet" if request.param == "gitlab" else "acme/fleet"
    with forge(request.param, project) as served:
        yield served


@pytest.fixture
def github() -> Iterator[Served]:
    with forge("github") as served:
        yield served


def wait_states(served: Served, commit: str, *states: str, deadline: float = 60.0) -> None:
    """Wait until a forge has taken exactly these states of a commit."""
    wait_for(
        lambda: served.forge.of(commit) == [*states],
        f"{states} of {commit[:12]}, not {served.forge.statuses}",
        deadline,
    )


def test_a_good_a_bad_and_a_mended_commit(each: Served, token: Path, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, *table(each, token, 'link = "https://{hostname}.lan/"'))
    with ended(fleet.agent):
        good = fleet.push({"pods/web.toml": word(fleet, "one"), "pods/db.toml": word(fleet, "db")})
        fleet.agent.start()
        wait_states(each, good, "pending", "success")
        assert each.forge.last(good) == "2 pods good"
        bad = fleet.push({"pods/web.toml": word(fleet, "two", well=False)})
        wait_states(each, bad, "pending", "failure")
        assert each.forge.last(bad).startswith("web: rolled back: "), each.forge.last(bad)
        assert "sick" not in each.forge.last(bad)
        mended = fleet.push({"pods/web.toml": word(fleet, "three")})
        wait_states(each, mended, "pending", "success")
        assert {context for _, context, _, _ in each.forge.statuses} == {CONTEXT}
        assert all(link is not None and link.endswith(".lan/") for link in each.forge.links)
        # What is told already is not told again by the next agent.
        before = list(each.forge.asked)
        fleet.agent.stop()
        fleet.agent.start()
        wait_for(lambda: (fleet.agent.sources()["git"] or {}).get("looked_at"), "the remote is looked at")
        shown = fleet.agent.sources()["git"]["status"]
        assert (shown["commit"], shown["state"], shown["error"]) == (mended, "success", None)
        assert each.forge.asked == before


def test_over_https_a_commit_is_told_and_a_bad_image_too(token: Path, tmp_path: Path) -> None:
    """The project follows from git.url, and certificates are those of git.ca_file."""
    home = tmp_path / "acme"
    home.mkdir()
    ca, certificate = make_certificate(tmp_path)
    with forge("gitea") as served, https_server(tmp_path, certificate) as address:
        lines = ['poll = "1s"', f'ca_file = "{ca}"', *table(served, token)]
        fleet = Fleet(
            home, *(line for line in lines if not line.startswith("project")), url=f"{address}/acme/fleet.git"
        )
        with ended(fleet.agent):
            first = fleet.push({"pods/web.toml": word(fleet, "one")})
            fleet.agent.start()
            wait_states(served, first, "pending", "success")
            lost = f'name = "app"\nimage = "oci:{tmp_path}/nowhere:1"\n'
            text = re.sub(r'name = "app"\nrootfs = .*\n', lost, word(fleet, "two"))
            bad = fleet.push({"pods/web.toml": text})
            wait_states(served, bad, "pending", "failure")
            assert served.forge.last(bad).startswith("web: ") and "nowhere" in served.forge.last(bad)
            assert fleet.agent.status("web")["phase"] in ("running", "pulling")  # type: ignore[index]
            broken = fleet.push({"pods/web.toml": "[[containers]]\nname = 5\n"})
            wait_for(lambda: served.forge.of(broken)[-1:] == ["failure"], "the file is told")
            assert served.forge.last(broken).startswith("2 errors in files; pods/web.toml:1: containers[0]: ")
            # Nothing is for this machine: that is well, too.
            empty = fleet.push({"pods/web.toml": f'hosts = ["other"]\n{word(fleet, "one")}'})
            fleet.agent.tank("sync", "--confirm")
            wait_for(lambda: served.forge.of(empty)[-1:] == ["success"], "no pod is well")
            assert served.forge.last(empty) == "nothing is declared for this machine"


def test_a_held_and_a_refused_commit(github: Served, token: Path, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "budget = 0", *table(github, token))
    with ended(fleet.agent):
        first = fleet.push({"pods/web.toml": word(fleet, "one")})
        fleet.agent.start()
        wait_states(github, first, "pending", "success")
        # A pod that ends later is no matter of the commit: the status is of the update.
        os.kill(fleet.agent.pid("web"), signal.SIGKILL)
        wait_for(lambda: fleet.agent.statuses("web")[0]["containers"][0]["restarts"] == 1, "it runs again")
        assert quiet_for(3.0, lambda: len(github.forge.asked) == 2)
        held = fleet.push({"pods/web.toml": word(fleet, "two")})
        wait_states(github, held, "pending")
        assert github.forge.last(held).startswith("held: it would replace 1 (web) of 1 pod")
        fleet.agent.tank("sync", "--confirm")
        wait_states(github, held, "pending", "success")
        fleet.work.git("reset", "--quiet", "--hard", "HEAD~1")
        fleet.work.write("pods/web.toml", word(fleet, "three"))
        moved = fleet.work.commit("elsewhere", push=False)
        fleet.work.push("--force")
        wait_for(lambda: github.forge.of(moved) == ["failure"], "the rewrite is refused")
        assert github.forge.last(moved).startswith("refused: ")


@pytest.mark.parametrize("fault", ["status:due", "status:sent", "status:remembered", "status:sent@2"])
def test_a_crash_at_any_point_repeats_at_most_one(
    fault: str, github: Served, token: Path, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, *table(github, token))
    with ended(fleet.agent):
        commit = fleet.push({"pods/web.toml": word(fleet, "one")})
        fleet.agent.launch(fault=fault)
        assert fleet.agent.died() == -signal.SIGKILL
        fleet.agent.start()
        wait_for(lambda: github.forge.of(commit)[-1:] == ["success"], "it is told in the end")
        fleet.agent.wait_phase("web", "running")
        told = github.forge.of(commit)
        assert [state for state, _ in itertools.groupby(told)] in (["pending", "success"], ["success"])
        assert len(told) <= 3


def test_a_forge_that_is_away_and_a_wrong_token_keep_nobody_waiting(
    github: Served, token: Path, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, *table(github, token))
    github.stop()
    with ended(fleet.agent):
        commit = fleet.push({"pods/web.toml": word(fleet, "one")})
        fleet.agent.start()
        wait_state(fleet.agent, "web", "good")
        error = wait_for(lambda: fleet.agent.sources()["git"]["status"]["error"], "the trouble is shown")
        assert "Connection refused" in error
        assert "the status of the commit is not written: " in fleet.agent.tank("status").stdout
        github.start()
        wait_states(github, commit, "success")
        wait_for(lambda: fleet.agent.sources()["git"]["status"]["error"] is None, "it is over")
        token.write_text("wrong")
        bad = fleet.push({"pods/web.toml": word(fleet, "two", well=False)})
        told = wait_for(
            lambda: [e for e in fleet.agent.client.events() if e.type == "git-status-error"], "an event"
        )
        assert (
            len(told) == 1
            and "does not accept the token" in told[0].message
            and str(token) in told[0].message
        )
        doctor = fleet.agent.tank("doctor", "--config", str(fleet.agent.config))
        assert "commit status" in doctor.stdout and "does not accept the token" in doctor.stdout
        wait_state(fleet.agent, "web", "rolled-back", "quarantined")
        token.write_text(TOKEN)
        fleet.agent.client.sync()
        wait_for(lambda: github.forge.of(bad)[-1:] == ["failure"], "another token is tried at once")
        wait_for(lambda: fleet.agent.sources()["git"]["status"]["error"] is None, "it is over, too")
        kinds = [e.type for e in fleet.agent.client.events() if e.type.startswith("git-status")]
        assert kinds[-2:] == ["git-status-error", "git-status-recovered"]
        assert (
            f"status    {bad[:12]}  failure, as {CONTEXT} of acme/fleet"
            in fleet.agent.tank("git", "status").stdout
        )
