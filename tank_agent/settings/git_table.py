"""`[git]` of agent.toml, key for key, in the words that the reference prints; `settings` come of it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tank_agent.settings.git import GitSettings, GitVerify, GitWebhook, problems
from tank_agent.source.git.address import redact
from tank_agent.spec.file import ABSOLUTE_PATTERN, Duration, FileStruct, Memory, about, text
from tank_agent.spec.findings import Finding, KeyPath, show
from tank_agent.spec.quantities import parse_duration, parse_size
from tank_agent.spec.reference import check_path

_DAY = 86_400.0
_FILES = ("password_file", "token_file", "netrc", "ca_file", "ssh_key", "known_hosts")


class GitVerifyTable(FileStruct):
    """Whose signatures a commit needs."""

    mode: Annotated[
        Literal["off", "commits", "tag"],
        about('"commits" checks every commit since the deployed one, "tag" the annotated tag.', "commits"),
    ] = "off"
    allowed_signers: Annotated[
        str | None,
        text(
            "A file of SSH keys, as ssh-keygen(1) describes it.",
            "/etc/tank/allowed_signers",
            ABSOLUTE_PATTERN,
        ),
    ] = None
    keyring: Annotated[
        str | None,
        text("A file of OpenPGP keys, from gpg --export.", "/etc/tank/keyring.gpg", ABSOLUTE_PATTERN),
    ] = None


class GitWebhookTable(FileStruct):
    """A listener for pushes to a git host."""

    listen: Annotated[str | None, about("The address and port to listen on.", "127.0.0.1:9470")] = None
    secret_file: Annotated[
        str | None,
        text("Holds the secret that callers sign with.", "/etc/tank/webhook.secret", ABSOLUTE_PATTERN),
    ] = None


class GitTable(FileStruct):
    """A git repository as a source of pods, beside or instead of pods_dir."""

    url: Annotated[
        str,
        about(
            "The remote: https, ssh, git or file, user@host:path, or a directory.",
            "https://git.example/fleet.git",
        ),
    ]
    branch: Annotated[
        str | None, about("Follow this branch. Without branch, tag and commit: the remote's HEAD.", "main")
    ] = None
    tag: Annotated[str | None, about("Follow this tag instead of a branch.", "v1.2.0")] = None
    commit: Annotated[
        str | None,
        about("Stay at this commit: 40 hexadecimal digits.", "9fceb02d0ae598e95dc970b74767f19372d61af8"),
    ] = None
    path: Annotated[
        str,
        about(
            "The directory in the repository that holds the pod files; {hostname} is replaced.",
            "hosts/{hostname}",
        ),
    ] = ""
    poll: Annotated[Duration, about("How often to ask the remote, 1s to 24h.", "60s")] = "60s"
    timeout: Annotated[Duration, about("How long one look at the remote may take, 1s to 1h.", "2m")] = "2m"
    depth: Annotated[int, about("Commits to fetch at first; 0 is all.", 1)] = 1
    max_size: Annotated[Memory, about("The most that one fetch may bring, 1M to 1T.", "256M")] = "256M"
    max_file: Annotated[Memory, about("The largest pod file, 1K to 64M.", "1M")] = "1M"
    transport: Annotated[
        Literal["dulwich", "git"], about('Who speaks git: "git" needs the git command.', "dulwich")
    ] = "dulwich"
    run_as: Annotated[str, about("The user of the process that talks to the remote.", "nobody")] = "nobody"
    username: Annotated[str | None, about("For a password over https.", "deploy")] = None
    password_file: Annotated[
        str | None, text("Holds the password.", "/etc/tank/git.password", ABSOLUTE_PATTERN)
    ] = None
    token_file: Annotated[
        str | None, text("Holds a token for https.", "/etc/tank/git.token", ABSOLUTE_PATTERN)
    ] = None
    netrc: Annotated[
        str | None, text("A file with passwords, as curl reads it.", "/root/.netrc", ABSOLUTE_PATTERN)
    ] = None
    ca_file: Annotated[
        str | None,
        text("Certificates of a private authority, in PEM.", "/etc/tank/ca.pem", ABSOLUTE_PATTERN),
    ] = None
    ssh_key: Annotated[
        str | None, text("A private key without passphrase.", "/etc/tank/deploy_key", ABSOLUTE_PATTERN)
    ] = None
    known_hosts: Annotated[
        str | None,
        text(
            "The host's keys. Not given: /etc/ssh/ssh_known_hosts.", "/etc/tank/known_hosts", ABSOLUTE_PATTERN
        ),
    ] = None
    budget: Annotated[
        int | None,
        about("How many pods a commit may remove or replace unconfirmed. Not given: all but one.", 3),
    ] = None
    allow_rewrite: Annotated[bool, about("Follow force-pushes and older commits, too.", True)] = False
    allow_empty: Annotated[bool, about('Whether a missing path means "no pods".', True)] = False
    verify: Annotated[GitVerifyTable | None, about("Whose signatures a commit needs.")] = None
    webhook: Annotated[GitWebhookTable | None, about("A listener for pushes to a git host.")] = None


def read_git(table: GitTable) -> tuple[GitSettings, list[Finding]]:
    """Return the settings that a table describes, and all that is wrong with it; paths begin below [git]."""
    findings: list[Finding] = []
    verify, webhook = table.verify or GitVerifyTable(), table.webhook or GitWebhookTable()
    fields = {key: getattr(table, key) for key in GitTable.__struct_fields__}
    fields |= {
        "path": "" if table.path == "." else table.path,
        "poll": _seconds(findings, "poll", table.poll, 1.0, _DAY),
        "timeout": _seconds(findings, "timeout", table.timeout, 1.0, 3600.0),
        "max_size": _bytes(findings, "max_size", table.max_size, 1 << 20, 1 << 40),
        "max_file": _bytes(findings, "max_file", table.max_file, 1 << 10, 64 << 20),
        "verify": GitVerify(**msgspec.structs.asdict(verify)),
        "webhook": GitWebhook(**msgspec.structs.asdict(webhook)),
    }
    paths: list[tuple[KeyPath, str | None]] = [((key,), getattr(table, key)) for key in _FILES]
    paths += [
        (("verify", "allowed_signers"), verify.allowed_signers),
        (("verify", "keyring"), verify.keyring),
        (("webhook", "secret_file"), webhook.secret_file),
    ]
    for path, value in paths:
        wrong = check_path(value) if value is not None else None
        if wrong:
            findings.append(Finding(path, wrong))
    if table.path.startswith("/"):
        message = f'{show(table.path)} is not a path in the repository; write one such as "hosts/edge-1"'
        findings.append(Finding(("path",), message))
    if " " in table.url:
        findings.append(Finding(("url",), f"{show(redact(table.url))} has spaces in it; write them as %20"))
    settings = GitSettings(**fields)
    known = {finding.path for finding in findings}
    for key, message in problems(settings):
        found = tuple(key.split("."))
        if found not in known:
            findings.append(Finding(found, message))
    return settings, [Finding(("git", *finding.path), finding.message) for finding in findings]


def _seconds(findings: list[Finding], key: str, value: float | str, low: float, high: float) -> float:
    try:
        return parse_duration(value, low=low, high=high)
    except ValueError as error:
        findings.append(Finding((key,), str(error)))
        return low


def _bytes(findings: list[Finding], key: str, value: int | str, low: int, high: int) -> int:
    try:
        return parse_size(value, low=low, high=high)
    except ValueError as error:
        findings.append(Finding((key,), str(error)))
        return low
