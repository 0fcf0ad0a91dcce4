"""The seam to the git protocol: what any transport must do, and how it fails.

Two implement it, `with_dulwich` and `with_git`; both run in the bounded helper process, never in the agent.
One conformance suite (tests/integration/test_git_transport.py) holds both to the same behaviour.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from msgspec import Struct

from tank_agent.errors import Retry
from tank_agent.source.git.address import Remote, redact

Failure = Literal[
    "unreachable",  # no answer, or no end to it
    "refused",  # who we are, who they are, or what we may read
    "not-found",  # no such repository, ref or commit
    "too-big",  # more than the limits allow
    "broken",  # the answer is not what the protocol says
    "corrupt",  # our own copy is damaged: it repairs itself
    "stopped",  # we were asked to stop
]


class GitError(Retry):
    """A step of following the repository failed; `kind` says how, the message says what in one line."""

    reason: ClassVar[str] = "git"

    def __init__(self, kind: Failure, message: str, *, hint: str | None = None) -> None:
        # Whatever a server or a program said: it may quote a URL, and a URL may hold a password.
        super().__init__(redact(message), hint=hint and redact(hint))
        self.kind: Failure = kind


class Access(Struct, frozen=True, kw_only=True):
    """What proves who we are and who they are: texts, not file names. Never printed.

    proxy: the URL of the HTTP proxy to go through, which may hold a password.
    """

    username: str | None = None
    password: str | None = None
    ca: str | None = None
    ssh_key: str | None = None
    known_hosts: str | None = None
    proxy: str | None = None

    def __repr__(self) -> str:
        return "Access(…)"


class Wanted(Struct, frozen=True, kw_only=True):
    """What to fetch: the ref, or the commit when it is fixed. Depth 0 is the whole history."""

    ref: str | None = None
    commit: str | None = None
    depth: int = 0


class Context(Struct, frozen=True, kw_only=True):
    """What a transport works with. `private` is a directory that only this process reads, for key files.

    `local` replaces the remote's path where the remote is a directory of this machine. Times are in seconds,
    `largest_file`, of a pod file, in bytes.
    """

    remote: Remote
    access: Access
    private: Path
    local: Path | None = None
    timeout: float = 30.0
    largest_file: int = 1 << 20


class GitTransport(Protocol):
    """One way to talk to a remote. Methods raise GitError."""

    def list_refs(self, names: Sequence[str]) -> dict[str, str]:
        """Return the objects that refs of these full names point to; a ref that is not there is left out."""
        ...

    def fetch(self, wanted: Wanted, into: Path) -> str:
        """Bring an object and all that it needs into a bare repository, and return the object's name.

        `into` may stand on another repository (objects/info/alternates) and name what is there already
        (refs/heads/have-*). Only packs, `shallow` and `omitted` are written.
        """
        ...


def ssh_command(context: Context) -> list[str]:
    """Return the ssh command line without the host: only our key, only known hosts, no user's settings.

    Writes the key and the known hosts into the private directory.
    """
    access = context.access
    known = "/etc/ssh/ssh_known_hosts"
    if access.known_hosts is not None:
        known = os.fspath(private_file(context, "known_hosts", access.known_hosts))
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": known,
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "ConnectTimeout": str(int(max(1, context.timeout))),
        "ServerAliveInterval": "15",
        "ControlMaster": "no",
        "ControlPath": "none",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "PermitLocalCommand": "no",
        "LogLevel": "ERROR",
    }
    argv = ["ssh", "-F", "none", "-x", "-T"]
    if access.ssh_key is not None:
        argv += ["-i", os.fspath(private_file(context, "key", access.ssh_key))]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    return argv


def advise(error: GitError, context: Context) -> GitError:
    """Return an error of a transport with what its words don't tell: our way there, and likely slips."""
    message, hint = error.message, error.hint
    if context.access.proxy is not None and error.kind == "unreachable":
        message += f", through the proxy {context.access.proxy}"
        hint = "see HTTPS_PROXY and NO_PROXY in the agent's environment"
    meant = context.remote.with_port
    if meant is not None and error.kind in ("unreachable", "not-found", "refused"):
        hint = f"{hint}; if a port is meant, write {meant}" if hint else f"if a port is meant, write {meant}"
    return GitError(error.kind, message, hint=hint)


def private_file(context: Context, name: str, text: str) -> Path:
    """Write a secret for a program that only reads files, and return where."""
    path = context.private / name
    # ssh takes no key with Windows' line ends, and none whose last line is not ended.
    text = text.replace("\r\n", "\n").rstrip("\n") + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
    return path


# Looked for in this order: a key that cannot be read ends in "permission denied" too.
_SSH_ERRORS: tuple[tuple[str, Failure, str, str], ...] = (
    (
        "host key verification failed",
        "refused",
        "the host's key is not the one in known_hosts",
        "compare it with the server's, then put it into git.known_hosts (ssh-keyscan prints it)",
    ),
    ("error in libcrypto", "refused", "git.ssh_key is not a private key", "it must have no passphrase"),
    ("invalid format", "refused", "git.ssh_key is not a private key", "it must have no passphrase"),
    ("permission denied", "refused", "the key or user was refused", "see git.ssh_key and the URL's user"),
    ("could not resolve", "unreachable", "the host's name is not known", "see the URL and DNS"),
    ("connection refused", "unreachable", "nobody answers there", "see the URL and the server"),
    ("no route to host", "unreachable", "there is no way to the host", "see the network"),
    ("timed out", "unreachable", "the server did not answer in time", "it is tried again"),
    ("timeout, server", "unreachable", "the server stopped answering", "it is tried again"),
    ("does not appear to be a git repository", "not-found", "there is no such repository", "see the URL"),
    ("repository not found", "not-found", "there is no such repository", "see the URL and the key's rights"),
    ("not exported", "not-found", "there is no such repository", "see the URL"),
    ("no such file or directory", "not-found", "there is no such repository", "see the URL"),
    ("not our ref", "not-found", "the remote has no such commit", "see git.commit"),
)


def explain(text: str, fallback: str) -> GitError:
    """Return the error that a program's or a server's words mean; unknown ones are quoted in one line."""
    from tank_agent.source.git.objects import printable

    lowered = text.lower()
    for words, kind, message, hint in _SSH_ERRORS:
        if words in lowered:
            return GitError(kind, message, hint=hint)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    quoted = printable(lines[-1], 200) if lines else ""
    return GitError("broken", f"{fallback}: {quoted}" if quoted else fallback)
