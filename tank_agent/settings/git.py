"""The `[git]` table of agent.toml: what a user may say. Times are in seconds, sizes in bytes."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

import msgspec
from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.source.git.address import parse_url

COMMIT = re.compile(r"[0-9a-f]{40}")
# git-check-ref-format(1), rules 3 to 10; a leading dash would also read as an option.
BAD_REF = re.compile(r"^[-/]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|^\.|\.lock(/|$)|[/.]$|^@$")

_PLACEHOLDER = re.compile(r"\{(?!hostname\})[^{}/]*\}")

REF_LENGTH = 255


class GitVerify(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[git.verify]`: whose signatures count.

    mode: `commits` checks every commit since the last deployed one, `tag` the annotated tag that `tag` names.
    allowed_signers: a file as ssh-keygen(1) describes it; keyring: OpenPGP public keys, binary or armoured.
    """

    mode: Literal["off", "commits", "tag"] = "off"
    allowed_signers: str | None = None
    keyring: str | None = None


class GitWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[git.webhook]`: a listener that only wakes the agent. Off without `listen` ("127.0.0.1:9470")."""

    listen: str | None = None
    secret_file: str | None = None


class GitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[git]`.

    branch, tag, commit: at most one; none means the remote's HEAD.
    path: a directory of the repository; `{hostname}` is replaced.
    depth: commits to fetch at first, 0 for all. Checking commit signatures always fetches all.
    timeout: of one look at the remote, fetch included; max_size: of all that one fetch may bring.
    transport: `git` needs the git command.
    run_as: the user of the process that talks to the remote, when the agent is root.
    budget: how many pods a commit may remove or replace unconfirmed; None: all but the last of several.
    allow_rewrite: follow force-pushes and older commits; allow_empty: a missing path means "no pods".
    """

    url: str
    branch: str | None = None
    tag: str | None = None
    commit: str | None = None
    path: str = ""
    poll: float = 60.0
    timeout: float = 120.0
    depth: int = 1
    max_size: int = 256 << 20
    max_file: int = 1 << 20
    transport: Literal["dulwich", "git"] = "dulwich"
    run_as: str = "nobody"
    username: str | None = None
    password_file: str | None = None
    token_file: str | None = None
    netrc: str | None = None
    ca_file: str | None = None
    ssh_key: str | None = None
    known_hosts: str | None = None
    budget: int | None = None
    allow_rewrite: bool = False
    allow_empty: bool = False
    verify: GitVerify = msgspec.field(default_factory=GitVerify)
    webhook: GitWebhook = msgspec.field(default_factory=GitWebhook)

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


def is_reference_name(name: str) -> bool:
    """Return whether git allows the name for a branch or a tag (git-check-ref-format(1))."""
    return bool(name) and len(name) <= REF_LENGTH and not BAD_REF.search(name)


def parse_listen(text: str) -> tuple[str, int]:
    """Return the address and the port of `webhook.listen`.

    Raises:
        ValueError: it is not of that form.
    """
    host, _, port = text.rpartition(":")
    address = str(ipaddress.ip_address(host[1:-1] if host.startswith("[") else host))
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        raise ValueError("not a port")
    return address, int(port)


def problems(settings: GitSettings) -> tuple[tuple[str, str], ...]:
    """Return what is wrong with the settings as a whole, as (key, sentence)."""
    found = [*_reference_problems(settings), *_access_problems(settings), *_verify_problems(settings)]
    for key in ("poll", "timeout", "max_size", "max_file"):
        if getattr(settings, key) <= 0:
            found.append((key, "must be more than 0"))
    for key in ("depth", "budget"):
        if (getattr(settings, key) or 0) < 0:
            found.append((key, "must be 0 or more"))
    parts = settings.path.strip("/").split("/")
    if (
        "\0" in settings.path
        or any(part in (".", "..") for part in parts)
        or (len(parts) > 1 and "" in parts)
    ):
        message = f'"{settings.path}" is not a path in the repository; write one such as "hosts/edge-1"'
        found.append(("path", message))
    unknown = _PLACEHOLDER.search(settings.path)
    if unknown:
        found.append(("path", f"{unknown[0]} stands for nothing; only {{hostname}} is replaced"))
    return (*found, *_webhook_problems(settings.webhook))


def _webhook_problems(webhook: GitWebhook) -> list[tuple[str, str]]:
    if webhook.listen is None:
        return []
    found = []
    try:
        parse_listen(webhook.listen)
    except ValueError:
        message = f'"{webhook.listen}" is no address with a port; write one such as "127.0.0.1:9470"'
        found.append(("webhook.listen", message))
    if webhook.secret_file is None:
        found.append(("webhook.secret_file", "is needed: without a secret anybody could wake the agent"))
    return found


def _reference_problems(settings: GitSettings) -> list[tuple[str, str]]:
    found = []
    try:
        remote = parse_url(settings.url)
        if remote.scheme == "http" and not remote.is_loopback:
            found.append(("url", "anybody on the way could change what comes over http://; use https://"))
    except TankError as error:
        found.append(("url", f"{error.message}; {error.hint}"))
    given = [key for key in ("branch", "tag", "commit") if getattr(settings, key) is not None]
    if len(given) > 1:
        found.append((given[1], f"{given[0]} is given too; keep one of branch, tag and commit"))
    for key in ("branch", "tag"):
        name = getattr(settings, key)
        if name is not None and not is_reference_name(name):
            found.append((key, f'"{name}" is not a name that git allows for a {key}'))
    if settings.commit is not None and not COMMIT.fullmatch(settings.commit):
        found.append(("commit", "must be the full name of a commit: 40 hexadecimal digits in lower case"))
    return found


def _access_problems(settings: GitSettings) -> list[tuple[str, str]]:
    found = []
    passwords = [
        key for key in ("password_file", "token_file", "netrc") if getattr(settings, key) is not None
    ]
    if len(passwords) > 1:
        found.append(
            (passwords[1], f"{passwords[0]} is given too; keep one of password_file, token_file and netrc")
        )
    if settings.password_file is not None and settings.username is None and "@" not in settings.url:
        found.append(("username", "is needed with password_file"))
    return found


def _verify_problems(settings: GitSettings) -> list[tuple[str, str]]:
    verify = settings.verify
    if verify.mode == "off":
        return []
    found = []
    if verify.allowed_signers is None and verify.keyring is None:
        found.append(("verify", "allowed_signers (SSH) or keyring (OpenPGP) is needed"))
    if verify.mode == "tag" and settings.tag is None:
        found.append(("verify.mode", 'is "tag", but git.tag names none'))
    return found
