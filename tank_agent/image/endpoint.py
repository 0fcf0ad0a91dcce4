"""One registry host: how to reach it and how to prove who we are, found out once per pull."""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.image.content import CancelledError
from tank_agent.image.credentials import Credentials, find_credentials
from tank_agent.image.http import Answer, Http, Trust
from tank_agent.image.settings import ImageSettings
from tank_agent.spec.reference import DOCKER_HUB, Reference

_HUB_HOST = "registry-1.docker.io"
_TOKEN_LIMIT = 1 << 20
_PARAMETER = re.compile(r'([A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class _Token(Struct):
    token: str = ""
    access_token: str = ""


class Endpoint:
    """A registry or a mirror of it, for one repository. May be used from several threads."""

    def __init__(
        self,
        http: Http,
        *,
        name: str,
        address: str,
        repository: str,
        trust: Trust,
        credentials: Callable[[], Credentials | None],
    ) -> None:
        """Describe it; nothing is sent yet.

        Args:
            name: for messages.
            address: host, optional port and path prefix.
            repository: the repository's name.
        """
        self.name = name
        self._http = http
        host, _, prefix = address.partition("/")
        self._path = f"/v2/{prefix + '/' if prefix else ''}{repository}"
        self._scope = f"repository:{prefix + '/' if prefix else ''}{repository}:pull"
        plain = trust.insecure or _is_loopback(host)
        self._bases = [f"https://{host}", *([f"http://{host}"] if plain else [])]
        for base in self._bases:
            http.trust(base.lower(), trust)
        self._base: str | None = None
        self._find_credentials = credentials
        self._lock = threading.Lock()
        self._authorization: str | None = None
        # Whether we had a password to show, for messages.
        self.has_credentials = False

    @contextmanager
    def get(self, path: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Ask for a path below the repository, and log in if the registry wants it.

        Raises:
            Stalled: access is denied.
            Retry: the host can't be reached now.
        """
        with ExitStack() as stack:
            used = self._authorization
            answer = self._reach(stack, path, headers, used)
            if answer.status == 401:
                authorization = self._log_in(answer.headers.get("WWW-Authenticate", ""), used)
                answer = stack.enter_context(
                    self._http.request(
                        f"{self._base}{self._path}{path}", headers=headers, authorization=authorization
                    )
                )
            yield answer

    def _reach(
        self, stack: ExitStack, path: str, headers: Mapping[str, str], authorization: str | None
    ) -> Answer:
        if self._base is not None:
            url = f"{self._base}{self._path}{path}"
            return stack.enter_context(self._http.request(url, headers=headers, authorization=authorization))
        for base in self._bases:
            try:
                answer = stack.enter_context(self._http.request(f"{base}{self._path}{path}", headers=headers))
            except CancelledError:
                raise
            except Retry:
                if base == self._bases[-1]:
                    raise
            else:
                self._base = base
                return answer
        raise AssertionError("unreachable")

    def _log_in(self, challenge: str, used: str | None) -> str | None:
        """Return what to send next time; several threads that were turned away make one handshake."""
        with self._lock:
            if self._authorization != used:
                return self._authorization
            credentials = self._find_credentials()
            self.has_credentials = credentials is not None
            kind, parameters = parse_challenge(challenge)
            if kind == "bearer":
                self._authorization = f"Bearer {self._token(parameters, credentials)}"
            elif kind == "basic" and credentials is not None and credentials.username:
                self._authorization = credentials.basic()
            else:
                raise denied(self.name, has_credentials=credentials is not None)
            return self._authorization

    def _token(self, parameters: dict[str, str], credentials: Credentials | None) -> str:
        realm = parameters.get("realm", "")
        parts = urlsplit(realm)
        base = self._base or ""
        if parts.scheme != "https" and not (parts.scheme == "http" and base.startswith("http:")):
            raise Stalled(
                f"{self.name} wants the password to be sent to {realm[:200]!r}, which is not encrypted"
            )
        fields = {
            key: value
            for key, value in (
                ("service", parameters.get("service", "")),
                ("scope", parameters.get("scope", self._scope)),
            )
            if value
        }
        form = authorization = None
        url = realm
        if credentials is not None and credentials.identity_token:
            refresh = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
            form = {**fields, **refresh, "client_id": "tank-agent"}
        else:
            url = f"{realm}{'&' if parts.query else '?'}{urlencode(fields)}"
            authorization = credentials.basic() if credentials is not None else None
        with self._http.request(url, headers={}, authorization=authorization, form=form) as answer:
            if answer.status in (400, 401, 403, 404):
                raise denied(self.name, has_credentials=credentials is not None)
            if answer.status != 200:
                raise Retry(f"the token server of {self.name} answers with status {answer.status}")
            data = answer.read_all(_TOKEN_LIMIT, "the token")
        try:
            answered = msgspec.json.decode(data, type=_Token)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Retry(f"the token server of {self.name} did not answer with JSON") from error
        token = answered.token or answered.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise Retry(f"the token server of {self.name} gave no token")
        return token


def endpoints_of(reference: Reference, settings: ImageSettings, http: Http) -> list[Endpoint]:
    """Return the mirrors of a reference's registry and the registry itself, in the order to ask them.

    Raises:
        Stalled: agent.toml blocks the registry.
    """
    host = reference.registry
    if settings.registry(host).blocked:
        raise Stalled(f"the registry {host} is blocked in agent.toml", where=str(reference))
    addresses = [*settings.registry(host).mirrors, host]
    return [_endpoint(address, reference, settings, http) for address in addresses]


def _endpoint(address: str, reference: Reference, settings: ImageSettings, http: Http) -> Endpoint:
    host = address.partition("/")[0]
    chosen = settings.registry(host)

    def credentials() -> Credentials | None:
        return find_credentials(host, reference.repository, settings.auth_files)

    return Endpoint(
        http,
        name=address,
        address=_HUB_HOST if address == DOCKER_HUB else address,
        repository=reference.repository,
        trust=Trust(ca=chosen.ca, insecure=chosen.insecure),
        credentials=credentials,
    )


def parse_challenge(header: str) -> tuple[str, dict[str, str]]:
    """Return the scheme ("bearer", "basic" or "") and the parameters of WWW-Authenticate (RFC 9110)."""
    for scheme in ("bearer", "basic"):
        found = re.search(rf"(?:^|,\s*|\s){scheme}(?:\s+|$)", header, re.IGNORECASE)
        if found:
            rest = header[found.end() :]
            parameters = {
                match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
                for match in _PARAMETER.finditer(rest)
            }
            return scheme, parameters
    return "", {}


def denied(name: str, *, has_credentials: bool) -> Stalled:
    """Say that a registry does not let us in."""
    if has_credentials:
        return Stalled(
            f"{name} refuses our credentials for this image",
            hint="check the user name and password in the files that auth_files in agent.toml names",
        )
    return Stalled(
        f"{name} wants a login for this image, or has no such image",
        hint="check the name, or put credentials into /etc/tank/auth.json (docs/images.md)",
    )


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
