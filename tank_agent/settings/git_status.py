"""The `[git.status]` table of agent.toml: where the status of a commit is written, and as what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.settings.declaration import file_path
from tank_agent.source.git.address import Remote, parse_url, redact
from tank_agent.spec.findings import show
from tank_agent.spec.keys import declare
from tank_agent.spec.network_values import is_loopback

Forge = Literal["github", "gitlab", "gitea", "forgejo"]

# GitLab's limit for a name, which is the smallest of all; the others keep as much.
CONTEXT_MAX = 255
_URL_MAX = 255
# What all of them allow in names of owners, groups and projects.
_NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PROJECT = {
    "github": "acme/fleet",
    "gitlab": "acme/infra/fleet",
    "gitea": "acme/fleet",
    "forgejo": "acme/fleet",
}
_EXAMPLES = {
    "github": "https://api.github.com",
    "gitlab": "https://gitlab.com/api/v4",
    "gitea": "https://gitea.com/api/v1",
    "forgejo": "https://codeberg.org/api/v1",
}
_VERSIONS = {"github": "/api/v3", "gitlab": "/api/v4", "gitea": "/api/v1", "forgejo": "/api/v1"}
# By the host that a remote names; both of these offer ssh on port 443 under another name.
_KNOWN = {
    "github.com": "https://api.github.com",
    "ssh.github.com": "https://api.github.com",
    "altssh.gitlab.com": "https://gitlab.com/api/v4",
}
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLACEHOLDER = re.compile(r"\{(?!hostname\})[^{}/]*\}")


def _context(value: str) -> str:
    if not value.strip() or len(value) > CONTEXT_MAX or _UNSHOWN.search(value):
        right = f'write 1 to {CONTEXT_MAX} characters, such as "tank/edge-1"'
        raise ValueError(f"{show(value[:60])} is not the name of a status; {right}")
    return _with_known_placeholders(value)


def _with_known_placeholders(value: str) -> str:
    if unknown := _PLACEHOLDER.search(value):
        raise ValueError(f"{unknown[0]} stands for nothing; only {{hostname}} is replaced")
    return value


def _api(value: str) -> str:
    return _web_address(value, "https://git.example/api/v4").rstrip("/")


def _link(value: str) -> str:
    value = _with_known_placeholders(value)
    if len(value) > _URL_MAX:
        raise ValueError(f"is longer than {_URL_MAX} characters, the most that all forges take")
    # Only people's browsers follow it.
    _web_address(value.replace("{hostname}", "x"), "https://edge-1.lan/", secret=False)
    return value


def _web_address(value: str, example: str, *, secret: bool = True) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or _UNSHOWN.search(value) or re.search(r"[\s\\\"<>^`{|}]", value) or not value.isascii():
        raise ValueError(f'{show(redact(value)[:80])} is not a URL; write one such as "{example}"')
    if "@" in parts.netloc:
        raise ValueError("holds a user or a password; a token is in a file: write token_file")
    if secret and (parts.query or parts.fragment):
        raise ValueError(f'{show(redact(value)[:80])} has a ? or a #; write one such as "{example}"')
    if secret and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("the token could be read on the way over http://; write https://")
    return value


def _project(value: str) -> str:
    found = value.strip("/").removesuffix(".git")
    parts = found.split("/")
    if len(parts) > 20 or not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError(f'{show(value[:80])} is not a project; write one such as "acme/fleet"')
    return found


# A key stays on as few lines as its words need.
# fmt: off
class GitStatusSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The commit's status, written to the forge that has the repository."""

    forge: Annotated[Forge, declare("What the git host runs.", "github")]
    token_file: Annotated[str, file_path(
        "Holds the token that may write statuses: root's, and not open to others; another one than that "
        "for reading.", "/etc/tank/status.token")]
    api: Annotated[str | None, declare(
        "Where its API is. Not given: what git.url's host has.", "https://git.example/api/v4",
        check=_api)] = None
    project: Annotated[str | None, declare(
        "The project's path on the forge. Not given: that of git.url.", "acme/fleet", check=_project)] = None
    context: Annotated[str, declare(
        "The name of the status; {hostname} is replaced.", "tank/{hostname}", check=_context
    )] = "tank/{hostname}"
    link: Annotated[str | None, declare(
        "A page for people that the status links to; {hostname} is replaced.",
        "https://{hostname}.lan/", check=_link)] = None


# fmt: on
class Destination(Struct, frozen=True, kw_only=True):
    """Where statuses go: the root of the API, without a slash at its end, and the project there."""

    forge: Forge
    api: str
    project: str


def target(settings: GitStatusSettings, url: str) -> Destination:
    """Return where the statuses of the repository at `url` go.

    Raises:
        ValueError: that does not say it, with (key, sentence).
    """
    forge = settings.forge
    api, project = settings.api, settings.project
    if api is None or project is None:
        found_api, found_project = _derived(forge, url)
        api, project = api or found_api, project or found_project
    if api is None:
        # Only a directory names no host.
        example = f'api = "{_EXAMPLES[forge]}" and project = "{_PROJECT[forge]}"'
        raise ValueError("api", f"is needed: git.url is a directory, and names no forge; write {example}")
    nothing = f"{redact(url)} names no project"
    wrong = _wrong_project(forge, project) if project is not None else nothing
    if project is None or wrong:
        raise ValueError("project", f'is needed: {wrong}; write project = "{_PROJECT[forge]}"')
    return Destination(forge=forge, api=api, project=project)


def _derived(forge: Forge, url: str) -> tuple[str | None, str | None]:
    """Return the API and the project that a remote's URL stands for, each None if it names none."""
    try:
        remote = parse_url(url)
    except Stalled:
        return None, None
    if remote.scheme == "file":
        return None, None
    parts = remote.path.strip("/").removesuffix(".git").split("/")
    host = remote.host.lower()
    # The port of ssh and git is not that of the API, and plain http is for the same machine only.
    port = remote.port if remote.scheme in ("https", "http") else None
    scheme = "http" if remote.scheme == "http" and remote.is_loopback else "https"
    place = Remote(scheme="https", host=host, port=port, path="/").authority
    api = _KNOWN.get(host, f"{scheme}://{place}{_VERSIONS[forge]}")
    if not all(_NAME.fullmatch(part) for part in parts):
        return api, None
    return api, "/".join(parts)


def _wrong_project(forge: Forge, project: str) -> str:
    """Return why a forge has no such project; empty if it may."""
    count = project.count("/") + 1
    if forge == "gitlab":
        # GitLab takes a project's number, too.
        return "" if count > 1 or project.isdigit() else f"{show(project)} names no group and project"
    return "" if count == 2 else f"{show(project)} is not OWNER/REPOSITORY"


def problems(settings: GitStatusSettings, url: str) -> Iterator[tuple[str, str]]:
    """Yield the errors that need a view of git.url, too, as (key of `[git]`, sentence)."""
    try:
        parse_url(url)
    except Stalled:
        # That is told of git.url.
        return
    try:
        target(settings, url)
    except ValueError as error:
        key, message = error.args
        yield f"status.{key}", message
