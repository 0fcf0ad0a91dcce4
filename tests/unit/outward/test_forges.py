"""What is asked of each forge, and what its answers mean; those of tests/support/forges.py answer, too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tank_agent.outward.commit_status import DESCRIPTION_MAX, CommitStatus, shortened
from tank_agent.outward.forges import ForgeAnswer, Meaning, meaning, request
from tank_agent.settings.git_status import Destination, Forge
from tests.support.forges import PREFIX, TOKEN
from tests.support.forges import Forge as FakeForge

SHA = "0123456789abcdef0123456789abcdef01234567"
FILE = "/etc/tank/status.token"
WALL = 1_795_000_000.0
FORGES: tuple[Forge, ...] = ("github", "gitlab", "gitea", "forgejo")


def to(forge: Forge) -> Destination:
    project = "acme/infra/fleet" if forge == "gitlab" else "acme/fleet"
    return Destination(forge=forge, api=f"https://git.example{PREFIX[forge]}", project=project)


def status(state: Any = "failure", description: str = "web: rolled back") -> CommitStatus:
    return CommitStatus(sha=SHA, state=state, description=description)


def test_the_request_to_github() -> None:
    asked = request(to("github"), "T", status(), "tank/edge-1", "https://edge-1.lan/")
    assert asked.url == f"https://git.example/repos/acme/fleet/statuses/{SHA}"
    assert asked.headers == {
        "Authorization": "Bearer T",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
        "Content-Type": "application/json",
        "User-Agent": "tank-agent",
    }
    assert json.loads(asked.body) == {
        "state": "failure",
        "context": "tank/edge-1",
        "description": "web: rolled back",
        "target_url": "https://edge-1.lan/",
    }


@pytest.mark.parametrize("forge", ["gitea", "forgejo"])
def test_the_request_to_gitea_and_forgejo(forge: Forge) -> None:
    asked = request(to(forge), "T", status("success", "2 pods good"), "tank/edge-1", None)
    assert asked.url == f"https://git.example/api/v1/repos/acme/fleet/statuses/{SHA}"
    assert asked.headers["Authorization"] == "token T"
    assert json.loads(asked.body) == {
        "state": "success",
        "context": "tank/edge-1",
        "description": "2 pods good",
    }


@pytest.mark.parametrize(
    ("state", "sent"), [("failure", "failed"), ("pending", "pending"), ("success", "success")]
)
def test_the_request_to_gitlab(state: str, sent: str) -> None:
    asked = request(to("gitlab"), "T", status(state, "x"), "tank/edge-1", None)
    # The path of a project is one part of the URL, groups included.
    assert asked.url == f"https://git.example/api/v4/projects/acme%2Finfra%2Ffleet/statuses/{SHA}"
    assert asked.headers["PRIVATE-TOKEN"] == "T" and "Authorization" not in asked.headers
    assert json.loads(asked.body) == {"state": sent, "name": "tank/edge-1", "description": "x"}


def test_a_request_does_not_show_its_token() -> None:
    asked = request(to("github"), "hunter2", status(), "tank/edge-1", None)
    assert "hunter2" not in repr(asked) and "hunter2" not in str(asked)


def meant(forge: Forge, code: int, said: Any = None, **headers: str) -> Meaning:
    body = said if isinstance(said, bytes) else json.dumps(said if said is not None else {}).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return meaning(to(forge), FILE, ForgeAnswer(status=code, headers=fields, body=body), WALL)


LIMIT = {"message": "Validation Failed", "errors": [
    {"message": "This SHA and context has reached the maximum number of statuses."}]}  # fmt: skip
ANY: tuple[Any, ...] = (b"", b"<html>", b"[1", b"[]", b'"x"', b"\xff", b"null", b"[" * 9999, {"message": 5})


@pytest.mark.parametrize(
    ("forge", "code", "said", "kind"),
    [
        ("github", 201, {"id": 1}, "done"),
        ("gitea", 200, b"<html>", "done"),
        ("gitlab", 400, {"message": "Cannot transition status via :enqueue from :pending"}, "done"),
        ("gitlab", 400, {"message": {"status": ["Cannot transition status via :run from :running"]}}, "done"),
        ("gitlab", 400, {"message": "the pipeline has too many jobs"}, "refused"),
        ("github", 422, LIMIT, "refused"),
        ("github", 422, {"message": f"No commit found for SHA: {SHA}"}, "unknown"),
        ("gitlab", 404, {"message": "404 Commit Not Found"}, "unknown"),
        ("gitlab", 404, {"message": "404 References for commit Not Found"}, "unknown"),
        ("gitlab", 404, {"message": "404 Project Not Found"}, "denied"),
        ("github", 404, {"message": "Not Found"}, "denied"),
        ("github", 401, {"message": "Bad credentials"}, "denied"),
        ("github", 403, {"message": "Resource not accessible by personal access token"}, "denied"),
        ("github", 403, {"message": "You have exceeded a secondary rate limit"}, "later"),
        ("github", 429, b"", "later"),
        ("gitlab", 429, {"message": "Retry later"}, "later"),
        ("gitea", 500, {"message": f"object does not exist [id: {SHA}]"}, "later"),
        ("github", 502, b"<html>bad gateway", "later"),
        ("github", 409, {"message": "Conflict"}, "later"),
        ("github", 302, b"", "denied"),
    ],
)
def test_what_answers_mean(forge: Forge, code: int, said: Any, kind: str) -> None:
    found = meant(forge, code, said)
    assert found.kind == kind
    assert (found.error == "") is (kind == "done")
    assert bool(found.hint) is (kind == "denied")


@pytest.mark.parametrize("forge", FORGES)
@pytest.mark.parametrize(
    "code", [*range(199, 212), *range(300, 310), *range(400, 432), *range(499, 512), 999]
)
def test_every_answer_means_something(forge: Forge, code: int) -> None:
    for said in ANY:
        found = meant(forge, code, said, retry_after="soon", location="\x1b[2J")
        assert found.kind != "done" or code in (200, 201, 202)
        assert "\x1b" not in found.error


@pytest.mark.parametrize(
    ("code", "headers", "wait"),
    [
        (429, {"retry_after": "30"}, 30.0),
        (403, {"retry_after": "30"}, 30.0),
        (403, {"x_ratelimit_remaining": "0", "x_ratelimit_reset": "1795000120"}, 120.0),
        (429, {"ratelimit_remaining": "0", "ratelimit_reset": "1795000120"}, 120.0),
        # In the past, far away, and what is no time.
        (429, {"x_ratelimit_remaining": "0", "x_ratelimit_reset": "1"}, 1.0),
        (429, {"retry_after": "999999999"}, 7200.0),
        (429, {"retry_after": "9" * 400}, 60.0),
        (429, {"retry_after": "Mon, 99 Foo 2026"}, 60.0),
        (429, {"retry_after": "Wed, 18 Nov 2026 11:07:10 GMT"}, 30.0),
        (429, {"x_ratelimit_remaining": "7", "x_ratelimit_reset": "1795000120"}, 60.0),
        (503, {"retry_after": "30"}, 30.0),
    ],
)
def test_a_forge_is_asked_again_when_it_says_so(code: int, headers: dict[str, str], wait: float) -> None:
    found = meant("github", code, None, **headers)
    assert (found.kind, found.wait) == ("later", wait)


def test_trouble_says_what_to_do() -> None:
    wrong = meant("github", 401, {"message": "Bad credentials"})
    assert wrong.error == "github (https://git.example) does not accept the token: Bad credentials"
    assert wrong.hint.startswith(f"write a valid one into {FILE}: its right is")
    assert "Developer" in meant("gitlab", 403).hint
    assert "write:repository" in meant("forgejo", 403).hint
    moved = meant("gitea", 301, None, location="https://ann:pw@other.example/x?token=y")
    assert moved.error == ("gitea (https://git.example/api/v1) redirects to https://other.example/x?token=…")


@pytest.mark.parametrize("forge", FORGES)
def test_the_forges_of_the_tests_take_it_as_the_real_ones_do(forge: Forge) -> None:
    where = to(forge)
    fake = FakeForge(forge, where.project)

    def write(told: CommitStatus, token: str = TOKEN) -> Meaning:
        asked = request(where, token, told, "tank/edge-1", None)
        headers = {name.lower(): value for name, value in asked.headers.items()}
        code, fields, answer = fake.answer(asked.url.removeprefix("https://git.example"), headers, asked.body)
        body = json.dumps(answer).encode()
        return meaning(where, FILE, ForgeAnswer(status=code, headers=fields, body=body), WALL)

    assert write(status("pending")).kind == "done"
    assert write(status("pending")).kind == "done"
    assert write(status("failure", shortened("x" * 999))).kind == "done"
    assert len(fake.statuses[-1][3]) == DESCRIPTION_MAX
    assert write(status("success")).kind == "done"
    assert write(status("pending")).kind == "done"
    assert [one[2] for one in fake.statuses if one[2] != "pending"] == ["failure", "success"]
    assert write(status(), token="wrong").kind == "denied"
    fake.may_write = False
    assert write(status()).kind == "denied"
    fake.may_write, fake.commits = True, set()
    assert write(status()).kind in ("unknown", "later")
    fake.commits, fake.project = None, "other/project"
    assert write(status()).kind == "denied"
