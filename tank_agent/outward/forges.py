"""The request with which each forge takes the status of a commit, and the meaning of its answers. Pure.

GitHub: docs.github.com/rest/commits/statuses and .../rate-limits-for-the-rest-api. GitLab:
docs.gitlab.com/api/commits (commit status). Gitea and Forgejo: their swagger, `repoCreateStatus`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote

from msgspec import Struct

from tank_agent.errors import one_line
from tank_agent.outward.commit_status import CommitStatus
from tank_agent.retry import retry_after
from tank_agent.settings.git_status import Destination
from tank_agent.source.git.address import redact
from tank_agent.source.git.objects import printable

# GitHub asks for that long where it gives no time itself.
_SECONDARY_LIMIT = 60.0
# A server that names a time must not silence this machine for days.
_LONGEST_WAIT = 2 * 3600.0
_RIGHTS = {
    "github": 'its right is "Commit statuses: write" of that repository (or the scope repo:status)',
    "gitlab": "it needs the scope api, and the role Developer in that project",
    "gitea": "its right is write:repository, and its user must be allowed to write to that repository",
    "forgejo": "its right is write:repository, and its user must be allowed to write to that repository",
}
_NO_COMMIT = re.compile(
    r"no commit found|commit not found|references for commit|object does not exist|\bsha\b", re.I
)
_IS_LIMIT = re.compile(r"rate limit|abuse|too many requests", re.I)


class StatusRequest(Struct, frozen=True, kw_only=True):
    """A POST request of JSON. Never printed: its headers hold the token."""

    url: str
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"StatusRequest({self.url})"


class ForgeAnswer(Struct, frozen=True, kw_only=True):
    """An answer: its status, its headers by lower-case names, and the begin of its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class Meaning(Struct, frozen=True, kw_only=True):
    """What an answer means.

    done: the forge has the status. refused: it takes none of this commit any more. unknown: it does not know
    the commit yet. denied: a person has to do something. later: it may take it after at least `wait` seconds.
    `error` is one sentence, `hint` what to do.
    """

    kind: Literal["done", "refused", "unknown", "denied", "later"]
    error: str = ""
    hint: str = ""
    wait: float = 0.0


def request(
    to: Destination, token: str, status: CommitStatus, context: str, link: str | None
) -> StatusRequest:
    """Return the request that writes a status."""
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "tank-agent"}
    fields = {"state": status.state, "description": status.description}
    if link is not None:
        fields["target_url"] = link
    if to.forge == "gitlab":
        headers["PRIVATE-TOKEN"] = token
        fields["name"] = context
        fields["state"] = "failed" if status.state == "failure" else status.state
        url = f"{to.api}/projects/{quote(to.project, safe='')}/statuses/{status.sha}"
    else:
        fields["context"] = context
        url = f"{to.api}/repos/{quote(to.project)}/statuses/{status.sha}"
        headers["Authorization"] = f"token {token}"
        if to.forge == "github":
            headers |= {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
            headers["X-GitHub-Api-Version"] = "2022-11-28"
    return StatusRequest(url=url, headers=headers, body=json.dumps(fields).encode())


def meaning(to: Destination, token_file: str, answer: ForgeAnswer, wall: float) -> Meaning:
    """Return what an answer to such a request means; `wall` is Unix time."""
    status, said = answer.status, _message(answer.body)
    quoted = f": {printable(redact(said), 160)}" if said else ""
    where = f"{to.forge} ({to.api})"
    if status in (200, 201, 202):
        return Meaning(kind="done")
    wait = _asked_wait(answer.headers, wall)
    if status == 429 or (status == 403 and (wait is not None or _IS_LIMIT.search(said))):
        error = f"{where} asks to wait: its limit of requests is reached"
        return Meaning(kind="later", error=error, wait=_SECONDARY_LIMIT if wait is None else wait)
    if status == 400 and to.forge == "gitlab" and "cannot transition status" in said.lower():
        # It has that state already.
        return Meaning(kind="done")
    if status in (404, 422) and _NO_COMMIT.search(said) and "maximum number" not in said.lower():
        return Meaning(kind="unknown", error=f"{where} does not know the commit yet")
    return _denial(to, where, token_file, answer, quoted) or Meaning(
        kind="later", error=f"{where} answers {status}{quoted}", wait=wait or 0.0
    )


def _denial(to: Destination, where: str, token_file: str, answer: ForgeAnswer, quoted: str) -> Meaning | None:
    """Return what an answer means that another try would not change by itself."""
    status = answer.status
    if status == 401:
        hint = f"write a valid one into {token_file}: {_RIGHTS[to.forge]}"
        return Meaning(kind="denied", error=f"{where} does not accept the token{quoted}", hint=hint)
    if status == 403:
        error = f"the token may not write statuses of {to.project}{quoted}"
        return Meaning(kind="denied", error=error, hint=f"{_RIGHTS[to.forge]}; it is in {token_file}")
    if status == 404:
        error = f"{where} has no project {to.project}, or the token may not see it"
        hint = f"see git.status.project and git.status.api; of the token in {token_file}, {_RIGHTS[to.forge]}"
        return Meaning(kind="denied", error=error, hint=hint)
    if 300 <= status < 400:
        to_where = printable(redact(answer.headers.get("location", "elsewhere")), 120)
        hint = "the token goes to no other place by itself: see git.status.api"
        return Meaning(kind="denied", error=f"{where} redirects to {to_where}", hint=hint)
    if status in (400, 405, 410, 411, 413, 415, 422):
        return Meaning(kind="refused", error=f"{where} takes no status of this commit any more{quoted}")
    return None


def _asked_wait(headers: Mapping[str, str], wall: float) -> float | None:
    """Return the seconds that a forge asks to wait; None if it does not."""
    wait = retry_after(headers.get("retry-after", ""), wall, _LONGEST_WAIT)
    if wait is None:
        for prefix in ("x-ratelimit", "ratelimit"):
            reset = headers.get(f"{prefix}-reset", "").strip()
            used_up = headers.get(f"{prefix}-remaining", "").strip() == "0"
            if used_up and reset.isascii() and reset.isdigit() and len(reset) < 14:
                wait = float(reset) - wall
    return None if wait is None else min(max(wait, 1.0), _LONGEST_WAIT)


def _message(body: bytes) -> str:
    """Return what an answer says, as one line; empty if it does not say it as forges do."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    said = [found.get(key) for key in ("message", "error", "error_description", "errors")]
    texts = [one if isinstance(one, str) else json.dumps(one) for one in said if one]
    return one_line("; ".join(texts))[:500]
