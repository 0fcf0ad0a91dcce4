"""Read what proves who we are: password, token, netrc, key files. Only the helper gets the texts."""

from __future__ import annotations

import netrc
import os
import re
from pathlib import Path

from tank_agent.errors import Stalled
from tank_agent.linux import certificates
from tank_agent.settings.git import GitSettings
from tank_agent.source.git.address import Remote, redact
from tank_agent.source.git.transport import Access

_LIMIT = 1 << 20
_PROXY = re.compile(r"(?:https?|socks[45][ah]?)://\S+", re.IGNORECASE)
# Git hosts want some user name beside a token and ignore which; this one also suits GitHub's app tokens.
_TOKEN_USER = "x-access-token"  # noqa: S105 - a user name


class NotTextError(Stalled):
    """A file is binary."""


def load_access(settings: GitSettings, remote: Remote) -> Access:
    """Read the files that the settings name, as far as the remote's protocol uses them.

    Raises:
        Stalled: a file cannot be read, or lacks what we need.
    """
    if remote.scheme in ("https", "http"):
        username, password = _login(settings, remote)
        return Access(
            username=username,
            password=password,
            ca=_authorities(settings.ca_file),
            proxy=proxy_for(remote),
        )
    if remote.scheme == "ssh":
        return Access(
            ssh_key=_text(settings.ssh_key, "ssh_key"), known_hosts=_text(settings.known_hosts, "known_hosts")
        )
    return Access()


def proxy_for(remote: Remote) -> str | None:
    """Return the proxy that the environment names for a remote, by the same rules as for registries.

    Raises:
        Stalled: what it names is no URL.
    """
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from requests.utils import get_environ_proxies, select_proxy

    url = f"{remote.scheme}://{remote.authority}/"
    proxy: str | None = select_proxy(url, get_environ_proxies(url))
    if proxy is None:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not _PROXY.fullmatch(proxy):
        hint = f"see {remote.scheme.upper()}_PROXY in the agent's environment"
        raise Stalled(f"{redact(proxy)} is not a proxy's URL", hint=hint)
    return proxy


def _authorities(path: str | None) -> str | None:
    """Read certificates in PEM, and see to it that they can be used."""
    try:
        text = _text(path, "ca_file")
    except NotTextError:
        text = "DER"
    if text is None:
        return None
    wrong = certificates.complaint(text)
    if wrong is not None:
        raise Stalled(f"git.ca_file: {path} {wrong}", hint=certificates.HINT)
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
        with Path(path).open("rb") as file:
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise Stalled(f"{path} is too large", hint=f"see git.{key}")
        # Windows' editors put a byte order mark in front.
        return data.decode("utf-8-sig")
    except OSError as error:
        why = error.strerror or os.strerror(error.errno or 0)
        raise Stalled(f"cannot read git.{key}: {path}: {why}", hint="see its name and mode") from error
    except UnicodeDecodeError:
        # Chained, the error would carry the secret.
        raise NotTextError(f"{path} is not text", hint=f"see git.{key}") from None
