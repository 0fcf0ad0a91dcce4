"""The `[git]` table of agent.toml: its keys, and their checks. Times are in seconds, sizes in bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.settings.declaration import file_path, listen_address, seconds, size
from tank_agent.settings.git_status import GitStatusSettings
from tank_agent.settings.git_status import problems as problems_of_status
from tank_agent.source.git.address import parse_url, redact
from tank_agent.spec.findings import show
from tank_agent.spec.keys import declare

COMMIT = re.compile(r"[0-9a-f]{40}")
# git-check-ref-format(1), rules 3 to 10; a leading dash would also read as an option.
_BAD_REF = re.compile(r"^[-/]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|^\.|\.lock(/|$)|[/.]$|^@$")

_PLACEHOLDER = re.compile(r"\{(?!hostname\})[^{}/]*\}")


def _url(value: str) -> str:
    if " " in value:
        raise ValueError(f"{show(redact(value))} has spaces in it; write them as %20")
    return value


def _directory(value: str) -> str:
    if value.startswith("/"):
        raise ValueError(f'{show(value)} is not a path in the repository; write one such as "hosts/edge-1"')
    return "" if value == "." else value


# A key stays on as few lines as its words need.
# fmt: off
class GitVerify(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The check of the signatures of commits."""

    mode: Annotated[Literal["off", "commits", "tag"], declare(
        '"commits" checks every commit since the deployed one, "tag" the annotated tag.', "commits")] = "off"
    allowed_signers: Annotated[str | None, file_path(
        "A file of SSH keys, as ssh-keygen(1) describes it.", "/etc/tank/allowed_signers")] = None
    keyring: Annotated[str | None, file_path(
        "A file of OpenPGP keys, from gpg --export.", "/etc/tank/keyring.gpg")] = None


class GitWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A listener for pushes to a git host."""

    listen: Annotated[str | None, listen_address(
        "The address and port to listen on.", "127.0.0.1:9480")] = None
    secret_file: Annotated[str | None, file_path(
        "Holds the secret that callers sign with.", "/etc/tank/webhook.secret")] = None


class GitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A git repository as a source of pods, beside or instead of pods_dir."""

    url: Annotated[str, declare(
        "The remote: https, ssh, git or file, user@host:path, or a directory.",
        "https://git.example/fleet.git", check=_url)]
    branch: Annotated[str | None, declare(
        "Follow this branch. Without branch, tag and commit: the remote's HEAD.", "main")] = None
    tag: Annotated[str | None, declare("Follow this tag instead of a branch.", "v1.2.0")] = None
    commit: Annotated[str | None, declare(
        "Stay at this commit: 40 hexadecimal digits.", "9fceb02d0ae598e95dc970b74767f19372d61af8")] = None
    path: Annotated[str, declare(
        "The directory in the repository that holds the pod files; {hostname} is replaced.",
        "hosts/{hostname}", check=_directory)] = ""
    poll: Annotated[float, seconds("How often to ask the remote, 1s to 24h.", "60s", 1, 86_400)] = 60.0
    timeout: Annotated[float, seconds(
        "How long one look at the remote may take, 1s to 1h.", "2m", 1, 3600)] = 120.0
    # Checking the signatures of commits always fetches all.
    depth: Annotated[int, declare("Commits to fetch at first; 0 is all.", 1)] = 1
    max_size: Annotated[int, size(
        "The most that one fetch may bring, 1M to 1T.", "256M", 1 << 20, 1 << 40)] = 256 << 20
    max_file: Annotated[int, size("The largest pod file, 1K to 64M.", "1M", 1 << 10, 64 << 20)] = 1 << 20
    transport: Annotated[Literal["dulwich", "git"], declare(
        'Who speaks git: "git" needs the git command.', "dulwich")] = "dulwich"
    run_as: Annotated[str, declare("The user of the process that talks to the remote.", "nobody")] = "nobody"
    username: Annotated[str | None, declare("For a password over https.", "deploy")] = None
    password_file: Annotated[str | None, file_path("Holds the password.", "/etc/tank/git.password")] = None
    token_file: Annotated[str | None, file_path("Holds a token for https.", "/etc/tank/git.token")] = None
    netrc: Annotated[str | None, file_path("A file with passwords, as curl reads it.", "/root/.netrc")] = None
    ca_file: Annotated[str | None, file_path(
        "Certificates of a private authority, in PEM.", "/etc/tank/ca.pem")] = None
    ssh_key: Annotated[str | None, file_path(
        "A private key without passphrase.", "/etc/tank/deploy_key")] = None
    known_hosts: Annotated[str | None, file_path(
        "The host's keys. Not given: /etc/ssh/ssh_known_hosts.", "/etc/tank/known_hosts")] = None
    budget: Annotated[int | None, declare(
        "How many pods a commit may remove or replace unconfirmed. Not given: all but one.", 3)] = None
    allow_rewrite: Annotated[bool, declare("Follow force-pushes and older commits, too.", True)] = False
    allow_empty: Annotated[bool, declare('Whether a missing path means "no pods".', True)] = False
    verify: Annotated[GitVerify, declare("Whose signatures a commit needs.")] = GitVerify()
    webhook: Annotated[GitWebhook, declare("A listener for pushes to a git host.")] = GitWebhook()
    status: Annotated[GitStatusSettings | None, declare(
        "The commit's status, written to the git host.")] = None

    @property
    def ref(self) -> str | None:
        """Return the full name of the ref to follow; None for a fixed commit."""
        if self.commit is not None:
            return None
        if self.tag is not None:
            return f"refs/tags/{self.tag}"
        return f"refs/heads/{self.branch}" if self.branch is not None else "HEAD"

    @property
    def fetch_depth(self) -> int:
        """Return the depth of a first fetch: all of the history where every commit is to be checked."""
        return 0 if self.verify.mode == "commits" else self.depth

    def directory(self, hostname: str) -> str:
        """Return `path` for this host, without slashes at its ends."""
        return self.path.replace("{hostname}", hostname).strip("/")


# fmt: on
def is_reference_name(name: str) -> bool:
    """Return whether git allows the name for a branch or a tag."""
    return bool(name) and len(name) <= 255 and not _BAD_REF.search(name)


def problems(settings: GitSettings) -> tuple[tuple[str, str], ...]:
    """Return the errors that need a view of all settings, as (key, sentence)."""
    return tuple(_problems(settings))


def _problems(settings: GitSettings) -> Iterator[tuple[str, str]]:
    yield from _reference_problems(settings)
    if settings.password_file is not None and settings.username is None and "@" not in settings.url:
        yield "username", "is needed with password_file"
    yield from _verify_problems(settings)
    for key in ("poll", "timeout", "max_size", "max_file"):
        if getattr(settings, key) <= 0:
            yield key, "must be more than 0"
    for key in ("depth", "budget"):
        if (getattr(settings, key) or 0) < 0:
            yield key, "must be 0 or more"
    parts = settings.path.strip("/").split("/")
    empty = len(parts) > 1 and "" in parts
    if "\0" in settings.path or empty or any(part in (".", "..") for part in parts):
        yield "path", f'"{settings.path}" is not a path in the repository; write one such as "hosts/edge-1"'
    unknown = _PLACEHOLDER.search(settings.path)
    if unknown:
        yield "path", f"{unknown[0]} stands for nothing; only {{hostname}} is replaced"
    yield from _webhook_problems(settings.webhook)
    if settings.status is not None:
        yield from problems_of_status(settings.status, settings.url)
        if settings.status.token_file == settings.token_file:
            yield (
                "status.token_file",
                "is git.token_file, which should only read; make a token for statuses alone",
            )


def _webhook_problems(webhook: GitWebhook) -> Iterator[tuple[str, str]]:
    if webhook.listen is not None and webhook.secret_file is None:
        yield "webhook.secret_file", "is needed: without a secret anybody could wake the agent"


def _reference_problems(settings: GitSettings) -> Iterator[tuple[str, str]]:
    try:
        remote = parse_url(settings.url)
        if remote.scheme == "http" and not remote.is_loopback:
            yield "url", "anybody on the way could change what comes over http://; use https://"
    except TankError as error:
        yield "url", f"{error.message}; {error.hint}"
    for keys in (("branch", "tag", "commit"), ("password_file", "token_file", "netrc")):
        given = [key for key in keys if getattr(settings, key) is not None]
        if len(given) > 1:
            yield given[1], f"{given[0]} is given too; keep one of {keys[0]}, {keys[1]} and {keys[2]}"
    for key in ("branch", "tag"):
        name = getattr(settings, key)
        if name is not None and not is_reference_name(name):
            yield key, f'"{name}" is not a name that git allows for a {key}'
    if settings.commit is not None and not COMMIT.fullmatch(settings.commit):
        yield "commit", "must be the full name of a commit: 40 hexadecimal digits in lower case"


def _verify_problems(settings: GitSettings) -> Iterator[tuple[str, str]]:
    verify = settings.verify
    if verify.mode == "off":
        return
    if verify.allowed_signers is None and verify.keyring is None:
        yield "verify", "allowed_signers (SSH) or keyring (OpenPGP) is needed"
    if verify.mode == "tag" and settings.tag is None:
        yield "verify.mode", 'is "tag", but git.tag names none'
