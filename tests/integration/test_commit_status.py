"""The status of a commit: a real agent and real pods, and forges that behave as their documents say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import ended, wait_for
from tests.support.forges import TOKEN, Served, forge
from tests.support.gitops import Fleet
from tests.support.updates import HEALTH, program, update_table

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


@pytest.fixture(params=["github", "gitlab", "gitea", "forgejo"])
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
