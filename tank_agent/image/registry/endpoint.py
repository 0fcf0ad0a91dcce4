"""One registry host: find out once per pull how to reach it and how to log in there."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec
import structlog
from msgspec import Struct

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.image.jobs import CancelledError
from tank_agent.image.registry.credentials import Credentials, find_credentials
from tank_agent.image.registry.http import Http, Response
from tank_agent.image.registry.url import Url, parse_url
from tank_agent.settings.image import ImageSettings
from tank_agent.spec.network_values import is_loopback
from tank_agent.spec.pages import page
from tank_agent.spec.reference import DOCKER_HUB, Reference

_HUB_HOST = "registry-1.docker.io"
_TOKEN_LIMIT = 1 << 20
_log = structlog.get_logger()
# A scheme, or a parameter of the scheme before it (RFC 9110, section 11.3).
_WORD = re.compile(r"""([^\s,="]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?""")


class _Token(Struct):
    token: str = ""
    access_token: str = ""


class Endpoint:
    """A registry or a mirror of it, for one repository. Thread-safe.

    Only the registry's own origin and the token server that it names get credentials, or tokens got by them.
    A host that it redirects to may name a token server, too, which is asked without any.
    """

    def __init__(self, http: Http, address: str, repository: str, settings: ImageSettings) -> None:
        """Send nothing yet. Stalled if `address` is no host, port and path prefix."""
        self.name, self._http, self._repository = address, http, repository
        self._auth_files = settings.auth_files
        self._host = address.partition("/")[0]
        registry = settings.registry(self._host)
        host, _, prefix = (_HUB_HOST if address == DOCKER_HUB else address).partition("/")
        full = f"{prefix}/{repository}" if prefix else repository
        self._path, self._scope = f"/v2/{full}", f"repository:{full}:pull"
        bases = [parse_url(f"https://{host}")]
        if registry.insecure or is_loopback(bases[0].host.strip("[]")):
            bases.append(parse_url(f"http://{host}"))
        self._bases = [base.origin for base in bases]
        for base in self._bases:
            http.trust(base, registry)
        self._lock = threading.Lock()
        # Found out by asking.
        self._base: str | None = None
        self._authorization: str | None = None
        self._door: str | None = None
        # For messages: whether there were credentials, and why perhaps not.
        self._had_credentials = False
        self._excuse: TankError | None = None

    def get(self, path: str, headers: Mapping[str, str], *, head: bool = False) -> Response:
        """Ask for a path below the repository, or for its head, and log in if the registry wants it."""
        used = self._authorization
        answer = self._ask(path, headers, used, head=head)
        try:
            challenge = None if answer.strayed else self._challenge(answer, used)
            if challenge is not None:
                secret = self._log_in(challenge, used, answer.url)
                answer.close()
                answer = self._ask(path, headers, secret, head=head)
            if answer.strayed and answer.status == 401:
                answer = self._ask_as_nobody(answer, headers, head=head)
        except BaseException:
            answer.close()
            raise
        return answer

    def denied(self, answer: Response | None = None) -> TankError:
        """Return the error for an answer that denies access, here or where a redirect led."""
        if answer is not None and answer.strayed:
            redirects = f"{self.name} redirects to {answer.url.origin}, which"
            if answer.status == 401:
                hint = "no credentials are sent to a host that a registry only redirects to"
                return Stalled(f"{redirects} wants a login", hint=hint)
            # Such as a storage server whose signed address has expired: the next redirect has a new one.
            return Retry(f"{redirects} answers with status {answer.status}")
        wants = f"{self.name} wants a login for this image, or has no such image"
        if self._had_credentials:
            hint = f"check the user name and password in {' or '.join(self._auth_files)}"
            return Stalled(f"{self.name} refuses our credentials for this image", hint=hint)
        if self._excuse is not None:
            kind = Retry if isinstance(self._excuse, Retry) else Stalled
            return kind(f"{wants}; {self._excuse.message}", hint=self._excuse.hint)
        place = f"put credentials into {' or '.join(self._auth_files)}"
        if not self._auth_files:
            place = "name a file of credentials in auth_files of [image] in agent.toml"
        return Stalled(wants, hint=f"check the name, or {place}, see {page('images')}")

    def _ask(
        self, path: str, headers: Mapping[str, str], authorization: str | None, *, head: bool
    ) -> Response:
        bases = self._bases if self._base is None else [self._base]
        for base in bases:
            url = parse_url(f"{base}{self._path}{path}")
            try:
                answer = self._http.request(url, headers=headers, authorization=authorization, head=head)
            except Retry as error:
                if isinstance(error, CancelledError) or base == bases[-1]:
                    raise
            else:
                self._base = base
                return answer
        raise AssertionError("unreachable")

    def _challenge(self, answer: Response, used: str | None) -> str | None:
        """Return the challenge to meet before asking again; None if that would be useless.

        Some registries hide that an image wants a login. They challenge only at /v2/, where Docker begins.
        """
        stated: str = answer.headers.get("WWW-Authenticate", "")
        if answer.status == 401 and (used is not None or parse_challenge(stated)[0]):
            return stated
        if used is not None or answer.status not in (401, 403, 404):
            return None
        if self._door is None:
            wanted = ""
            try:
                with self._http.request(parse_url(f"{self._base}/v2/"), headers={}) as door:
                    if door.status == 401 and not door.strayed:
                        wanted = door.headers.get("WWW-Authenticate", "")
            except CancelledError:
                raise
            except TankError as error:
                _log.info("a registry does not say whether it wants a login", error=str(error))
            self._door = wanted
        return self._door or (stated if answer.status == 401 else None)

    def _log_in(self, challenge: str, used: str | None, challenger: Url) -> str | None:
        """Return the Authorization to send next; several threads that were refused log in once."""
        with self._lock:
            if self._authorization != used:
                return self._authorization
            credentials = find_credentials(self._host, self._repository, self._auth_files, self._note)
            self._had_credentials = credentials is not None
            kind, parameters = parse_challenge(challenge)
            if kind == "bearer":
                self._authorization = self._token(parameters, credentials, challenger)
            elif kind == "basic" and credentials is not None and credentials.username:
                self._authorization = credentials.basic()
            else:
                raise self.denied()
            return self._authorization

    def _note(self, error: TankError) -> None:
        _log.warning("going on without a registry's credentials", registry=self.name, error=str(error))
        self._excuse = error

    def _ask_as_nobody(self, answer: Response, headers: Mapping[str, str], *, head: bool) -> Response:
        """Ask the target of a redirect once more, with an anonymous token from its own token server."""
        kind, parameters = parse_challenge(answer.headers.get("WWW-Authenticate", ""))
        if kind != "bearer":
            return answer
        try:
            token = self._token(parameters, None, answer.url)
        except Stalled as error:
            _log.info("a redirect led to a host that gives no token", registry=self.name, error=str(error))
            return answer
        answer.close()
        found = self._http.request(answer.url, headers=headers, authorization=token, head=head)
        found.strayed = True
        return found

    def _token(self, parameters: Mapping[str, str], credentials: Credentials | None, challenger: Url) -> str:
        """Return the Authorization header that the token server named by `challenger` gives."""
        try:
            realm = parse_url(parameters.get("realm", ""))
        except Stalled as error:
            raise Stalled(f"the token server of {challenger.origin}: {error.message}") from error
        if realm.scheme != "https" and challenger.scheme != "http":
            where = f"{realm.place}, which is not encrypted"
            raise Stalled(f"{challenger.origin} wants the password to be sent to {where}")
        wanted = {"service": parameters.get("service"), "scope": parameters.get("scope", self._scope)}
        fields = {key: value for key, value in wanted.items() if value}
        url, form, authorization = realm, None, None
        if credentials is not None and credentials.identity_token:
            refresh = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
            form = {**fields, **refresh, "client_id": "tank-agent"}
        else:
            query = f"{realm.query}&" if realm.query else "?"
            url = msgspec.structs.replace(realm, query=f"{query}{urlencode(fields)}")
            authorization = credentials.basic() if credentials is not None else None
        with self._http.request(url, headers={}, authorization=authorization, form=form) as answer:
            if answer.status in (400, 401, 403, 404):
                raise self.denied()
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
        return f"Bearer {token}"


def endpoints_of(reference: Reference, settings: ImageSettings, http: Http) -> list[Endpoint]:
    """Return the endpoints of a reference, mirrors first; Stalled if agent.toml blocks the registry."""
    registry = settings.registry(reference.registry)
    if registry.blocked:
        raise Stalled(f"the registry {reference.registry} is blocked in agent.toml", where=str(reference))
    addresses = (*registry.mirrors, reference.registry)
    return [Endpoint(http, address, reference.repository, settings) for address in addresses]


def parse_challenge(header: str) -> tuple[str, dict[str, str]]:
    """Return the scheme ("bearer", "basic" or "") and the parameters of WWW-Authenticate (RFC 9110)."""
    challenges: dict[str, dict[str, str]] = {}
    parameters: dict[str, str] = {}
    for name, quoted, bare in _WORD.findall(header):
        if quoted or bare:
            parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or bare)
        else:
            parameters = challenges.setdefault(name.lower(), {})
    scheme = next((scheme for scheme in ("bearer", "basic") if scheme in challenges), "")
    return scheme, challenges.get(scheme, {})
