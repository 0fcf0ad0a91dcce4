"""Access to a remote: the interface of a transport, its errors, and the credentials for the remote.

Two transports exist, `with_dulwich` and `with_git`; both run in the bounded helper process, never in the
agent, and one suite (tests/integration/test_git_transport.py) holds both to the same behaviour.
"""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.linux.given_files import CERTIFICATES_HINT, certificate_complaint
from tank_agent.source.git.address import Remote, redact
from tank_agent.source.git.objects import ID, printable

# The helper loads this module, and needs no settings.
if TYPE_CHECKING:
    from tank_agent.settings.git import GitSettings

Failure = Literal[
    "unreachable",  # no answer, or none in time
    "refused",  # by the remote's access control, or by our checks
    "not-found",  # no such repository, ref or commit
    "too-big",  # more than the limits allow
    "broken",  # the answer breaks the protocol
    "corrupt",  # our copy is damaged; it is repaired
    "stopped",  # the agent ends
]
# The kind, message and hint of an error.
Reason = tuple[Failure, str, str]
TOO_LARGE: Reason = ("too-big", "the fetch is larger than git.max_size", "raise it, or see what grew")
NO_SPACE: Reason = ("unreachable", "no space left below data_dir", "free some")
NO_MEMORY: Reason = ("too-big", "the answer needs more memory than is allowed", "see git.max_size")
TOO_SLOW: Reason = ("unreachable", "the server did not answer in time", "it is tried again")
NO_REPOSITORY: Reason = ("not-found", "there is no such repository", "see git.url")


class GitError(Retry):
    """A step of following the repository failed; the message is one line."""

    reason: ClassVar[str] = "git"

    def __init__(self, kind: Failure, message: str, hint: str | None = None) -> None:
        # Messages of servers and programs may quote a URL, and a URL may hold a password.
        super().__init__(redact(message), hint=hint and redact(hint))
        self.kind: Failure = kind


class Access(Struct, frozen=True, kw_only=True):
    """Our credentials, and the keys of the remote: texts, not file names. Never printed.

    `proxy` is the URL of the HTTP proxy, which may hold a password.
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
    """A request to fetch a ref or a commit. Depth 0 is the whole history."""

    ref: str | None = None
    commit: str | None = None
    depth: int = 0


class Context(Struct, frozen=True, kw_only=True):
    """Everything that a transport needs to know.

    `private` is a directory for key files, which only this process reads. `local` replaces the path of a
    remote on this machine. `timeout` is in seconds, `largest_file`, the limit of a pod file, in bytes.
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
        """Return the objects that the refs of these full names point to; missing refs are left out."""
        ...

    def fetch(self, wanted: Wanted, into: Path) -> str:
        """Fetch an object and all that it needs into a bare repository, and return the object's name.

        `into` may borrow objects of another repository (objects/info/alternates); refs/heads/have names a
        commit of it. Only packs, `shallow` and `omitted` are written.
        """
        ...


_SSH_OPTIONS = (
    "BatchMode=yes StrictHostKeyChecking=yes GlobalKnownHostsFile=/dev/null UpdateHostKeys=no LogLevel=ERROR "
    "IdentitiesOnly=yes IdentityAgent=none PasswordAuthentication=no KbdInteractiveAuthentication=no "
    "ServerAliveInterval=15 ControlMaster=no ControlPath=none ClearAllForwardings=yes ForwardAgent=no "
    "PermitLocalCommand=no"
)


def ssh_command(context: Context) -> list[str]:
    """Return the ssh command line without the host: only our key, only known hosts, no user's settings.

    Writes the key and the known hosts into the private directory.
    """
    access = context.access
    argv = ["ssh", "-F", "none", "-x", "-T"]
    if access.ssh_key is not None:
        argv += ["-i", os.fspath(private_file(context, "key", access.ssh_key))]
    known = "/etc/ssh/ssh_known_hosts"
    if access.known_hosts is not None:
        known = os.fspath(private_file(context, "known_hosts", access.known_hosts))
    timeout = f"ConnectTimeout={int(max(1, context.timeout))}"
    for option in (*_SSH_OPTIONS.split(), f"UserKnownHostsFile={known}", timeout):
        argv += ["-o", option]
    return argv


def advise(error: GitError, context: Context) -> GitError:
    """Return an error of a transport that also names the proxy, or a likely mistake in the URL."""
    message, hint = error.message, error.hint
    if context.access.proxy is not None and error.kind == "unreachable":
        message += f", through the proxy {context.access.proxy}"
        hint = "see HTTPS_PROXY and NO_PROXY in the agent's environment"
    meant = context.remote.with_port
    if meant is not None and error.kind in ("unreachable", "not-found", "refused"):
        hint = f"{hint}; if a port is meant, write {meant}" if hint else f"if a port is meant, write {meant}"
    return GitError(error.kind, message, hint)


def private_file(context: Context, name: str, text: str) -> Path:
    """Write a secret into a file for a program that reads only files, and return its path."""
    path = context.private / name
    # ssh refuses a key with Windows' line ends, or without one at its end.
    text = text.replace("\r\n", "\n").rstrip("\n") + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
    return path


# Regular expressions of what programs and servers print, and the error that it means; the first match counts.
Meanings = tuple[tuple[str, Failure, str, str], ...]
# fmt: off
# A key that cannot be read ends in "permission denied" too.
_MEANINGS: Meanings = (
    ("host key verification failed", "refused", "the host's key is not the one in known_hosts",
     "compare it with the server's, then put it into git.known_hosts (ssh-keyscan prints it)"),
    ("error in libcrypto|invalid format",
     "refused", "git.ssh_key is not a private key", "it must have no passphrase"),
    ("permission denied", "refused", "the key or user was refused", "see git.ssh_key and the URL's user"),
    ("could not resolve", "unreachable", "the host's name is not known", "see the URL and DNS"),
    ("connection refused", "unreachable", "nobody answers there", "see the URL and the server"),
    ("no route to host", "unreachable", "there is no way to the host", "see the network"),
    ("timed out", *TOO_SLOW),
    ("timeout, server", "unreachable", "the server stopped answering", "it is tried again"),
    ("does not appear to be a git repository", "not-found", "there is no such repository", "see the URL"),
    ("repository not found", "not-found", "there is no such repository", "see the URL and the key's rights"),
    ("not exported|no such file or directory", "not-found", "there is no such repository", "see the URL"),
    ("not our ref", "not-found", "the remote has no such commit", "see git.commit"),
)


# fmt: on
def explain(text: str, fallback: str, meanings: Meanings = ()) -> GitError:
    """Return the error that a program's or a server's words mean; unknown ones are quoted in one line."""
    for words, kind, message, hint in (*meanings, *_MEANINGS):
        if re.search(words, text, re.IGNORECASE):
            return GitError(kind, message, hint)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    quoted = printable(lines[-1], 200) if lines else ""
    return GitError("broken", f"{fallback}: {quoted}" if quoted else fallback)


def sha1_name(text: str) -> str:
    """Return an object's name as a remote sent it, if it is one that we can check."""
    if not ID.fullmatch(text):
        raise GitError("broken", "the repository does not use SHA-1 names, which is all we read")
    return text


_LIMIT = 4 << 20
_PROXY = re.compile(r"(?:https?|socks[45][ah]?)://\S+", re.IGNORECASE)
# Git hosts need a user name beside a token and ignore its value; GitHub documents this one for app tokens.
_TOKEN_USER = "x-access-token"  # noqa: S105 - a user name


def load_access(settings: GitSettings, remote: Remote) -> Access:
    """Read the files that the settings name and the remote's protocol uses.

    Raises:
        Stalled: a file cannot be read, or lacks what is needed.
    """
    if remote.scheme in ("https", "http"):
        username, password = _login(settings, remote)
        ca = _authorities(settings.ca_file)
        return Access(username=username, password=password, ca=ca, proxy=proxy_for(remote))
    if remote.scheme == "ssh":
        known = _text(settings.known_hosts, "known_hosts")
        return Access(ssh_key=_text(settings.ssh_key, "ssh_key"), known_hosts=known)
    return Access()


def proxy_for(remote: Remote) -> str | None:
    """Return the proxy that the environment names for a remote, by the same rules as for registries.

    Raises:
        Stalled: its value is no URL.
    """
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    import requests

    url = f"{remote.scheme}://{remote.authority}/"
    proxy: str | None = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if proxy is None:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not _PROXY.fullmatch(proxy):
        hint = f"see {remote.scheme.upper()}_PROXY in the agent's environment"
        raise Stalled(f"{redact(proxy)} is not a proxy's URL", hint=hint)
    return proxy


def read_file(path: str, key: str) -> bytes:
    """Return the content of a file that a key of `[git]` names.

    Raises:
        Stalled: it cannot be read, or is larger than 4 MiB.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        message = f"cannot read git.{key}: {path}: {error.strerror}"
        raise Stalled(message, hint="see its name and mode") from error
    if len(data) > _LIMIT:
        raise Stalled(f"{path} is too large", hint=f"see git.{key}")
    return data


def _authorities(path: str | None) -> str | None:
    """Read certificates in PEM, and check that they can be used."""
    if path is None:
        return None
    try:
        # Comments may hold any characters, but Python's ssl takes no others than those of ASCII.
        text = read_file(path, "ca_file").decode("utf-8-sig").encode("ascii", "ignore").decode()
    except UnicodeDecodeError:
        text = "DER"
    wrong = certificate_complaint(text)
    if wrong is not None:
        raise Stalled(f"git.ca_file: {path} {wrong}", hint=CERTIFICATES_HINT)
    return text


def _login(settings: GitSettings, remote: Remote) -> tuple[str | None, str | None]:
    username = settings.username or remote.user
    if settings.token_file is not None:
        return username or _TOKEN_USER, _secret(settings.token_file, "token_file")
    if settings.password_file is not None:
        return username, _secret(settings.password_file, "password_file")
    if settings.netrc is None:
        return None, None
    try:
        found = netrc.netrc(settings.netrc).authenticators(remote.host)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError) as error:
        # The parser's own message quotes the file.
        why = error.strerror if isinstance(error, OSError) else "it is not in netrc's format"
        raise Stalled(f"cannot read git.netrc: {settings.netrc}: {why}") from None
    if found is None:
        raise Stalled(f"{settings.netrc} has no entry for {remote.host}", hint="see git.netrc")
    return found[0], found[2]


def _secret(path: str, key: str) -> str:
    text = (_text(path, key) or "").rstrip("\r\n")
    if not text or "\n" in text:
        raise Stalled(f"{path} must hold one line", hint=f"see git.{key}")
    return text


def _text(path: str | None, key: str) -> str | None:
    if path is None:
        return None
    try:
        # Windows' editors put a byte order mark in front.
        return read_file(path, key).decode("utf-8-sig")
    except UnicodeDecodeError:
        # Chained, the error would carry the secret.
        raise Stalled(f"{path} is not text", hint=f"see git.{key}") from None
