"""Addresses of repositories: parse a URL, and refuse unusual ones, which may be an attack.

Git's own URLs can run programs (`ext::`), and ssh and git have taken a host or a path that starts with a dash
for an option (CVE-2017-1000117 and its kin). Only the schemes below are accepted.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.spec.network_values import is_loopback

Scheme = Literal["https", "http", "ssh", "git", "file"]
_SCHEMES = ("https", "http", "ssh", "git", "file")
_HINT = "write https://host/path.git, ssh://user@host/path.git, git://host/path.git or an absolute path"
_SCP = re.compile(r"(?:([^@:/]+)@)?([^@:/\[\]]+|\[[0-9A-Fa-f:.]+\]):(?!//)(.+)")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]*")
_PORT_IN_PATH = re.compile(r"(\d{1,5})/+(.+)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# RFC 3986, section 3.2.1, and other forms that people and servers write: no scheme, one slash, a backslash,
# a password with a slash or an @ in it.
_SECRET_IN_URL = re.compile(
    r"((?:\b[a-z][a-z0-9+.-]*:)[/\\]+|[/\\]{2,})(?:[^/\\?#\s]*@|[^/\\?#\s:@]*:(?!\d{1,5}(?:[/?#\s]|$))\S*@)",
    re.IGNORECASE,
)
_SECRET_IN_QUERY = re.compile(
    r"(?i)([?&;][^=&\s]*(?:token|password|passwd|secret|key|signature|credential)[^=&\s]*=|[?&;]sig=)[^&\s]+"
)


class Remote(Struct, frozen=True, kw_only=True):
    """A repository's address. `path` starts with a slash, except below a home directory (ssh, scp form)."""

    scheme: Scheme
    path: str
    host: str = ""
    port: int | None = None
    user: str | None = None

    @property
    def is_loopback(self) -> bool:
        """Return whether the host's name or address is a loopback one."""
        return is_loopback(self.host)

    @property
    def authority(self) -> str:
        """Return host and port in the form of a URL, without the user."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Return the address for messages; it holds no secret."""
        if self.scheme == "file":
            return self.path
        return f"{self.scheme}://{self.authority}/{self.path.lstrip('/')}"

    @property
    def with_port(self) -> str | None:
        """Return the address that `host:2222/path` perhaps means; None if it is not of that form."""
        matched = _PORT_IN_PATH.fullmatch(self.path)
        if self.scheme != "ssh" or self.port is not None or matched is None:
            return None
        user = f"{self.user}@" if self.user else ""
        return f"ssh://{user}{self.authority}:{matched[1]}/{matched[2]}"

    def url(self) -> str:
        """Return the URL for the git command."""
        user = f"{self.user}@" if self.user and self.scheme == "ssh" else ""
        path = self.path if self.path.startswith("/") else f"/~/{self.path}"
        return f"{self.scheme}://{user}{self.authority}{path}"


def parse_url(url: str) -> Remote:
    """Parse a repository's URL.

    Raises:
        Stalled: it is not supported; the message never holds a password.
    """
    if _CONTROL.search(url) or len(url) > 2048:
        raise Stalled("the URL holds control characters or is too long", hint=_HINT)
    if url.startswith("/"):
        return Remote(scheme="file", path=_path(url, url))
    if "::" in url.split("/", 1)[0].split("[", 1)[0]:
        raise Stalled(f"{redact(url)}: remote helpers such as ext:: would run programs", hint=_HINT)
    if "://" in url:
        return _from_url(url)
    matched = _SCP.fullmatch(url)
    if matched is None:
        raise Stalled(f"{redact(url)} is not the address of a repository", hint=_HINT)
    user, host, path = matched.groups()
    if user is None and "@" in path.split("/", 1)[0]:
        hint = "write user@host:path; ssh takes no password"
        raise Stalled("the URL holds a password, or an @ too many", hint=hint)
    host = _host(host.strip("[]"), url)
    return Remote(scheme="ssh", user=_user(user, url), host=host, path=_path(path, url))


def _from_url(url: str) -> Remote:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Stalled(f"{redact(url)} is not a URL", hint=_HINT) from error
    if parts.scheme not in _SCHEMES:
        raise Stalled(f"{redact(url)}: {parts.scheme}:// is not followed", hint=_HINT)
    if parts.password is not None:
        raise Stalled("the URL holds a password", hint="put it into a file and name that in password_file")
    if parts.query or parts.fragment:
        raise Stalled(f"{redact(url)}: a repository's URL has no ? and no #", hint=_HINT)
    path = _path(unquote(parts.path), url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise Stalled(f"{redact(url)} names a host", hint="write file:///path, or ssh://host/path")
        return Remote(scheme="file", path=path)
    if parts.scheme == "ssh" and path.startswith("/~/"):
        path = _path(path[3:], url)
    return Remote(
        scheme=cast(Scheme, parts.scheme),
        host=_host(parts.hostname or "", url),
        port=port,
        user=_user(unquote(parts.username) if parts.username else None, url),
        path=path,
    )


def _host(host: str, url: str) -> str:
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    if not _HOST.fullmatch(host):
        raise Stalled(f"{redact(url)}: the host's name is not one", hint=_HINT)
    return host


def _user(user: str | None, url: str) -> str | None:
    if user is not None and not _USER.fullmatch(user):
        raise Stalled(f"{redact(url)}: the user's name is not one", hint=_HINT)
    return user


def _path(path: str, url: str) -> str:
    if not path.strip("/") or path.startswith("-") or _CONTROL.search(path) or ".." in path.split("/"):
        raise Stalled(f"{redact(url)}: the path is empty, starts with a dash or holds ..", hint=_HINT)
    return path


def redact(text: str) -> str:
    """Return a text without the users and passwords of URLs in it, and without secrets in their queries."""
    return _SECRET_IN_QUERY.sub(r"\1…", _SECRET_IN_URL.sub(r"\1", text))
