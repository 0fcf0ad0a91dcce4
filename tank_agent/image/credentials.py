"""User names and passwords for registries, from files of the form of Docker's config.json and from its
helpers.

    {"auths": {"ghcr.io": {"auth": "base64 of user:password"}},
     "credHelpers": {"gcr.io": "gcloud"}, "credsStore": "pass"}
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.linux.process import run
from tank_agent.spec.reference import DOCKER_HUB

_FILE_LIMIT = 1 << 20
_HELPER_TIMEOUT = 30.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9_-]+")
_NOT_FOUND = "credentials not found"
# What stands for Docker Hub in these files.
_HUB_KEYS = (
    "https://index.docker.io/v1/",
    "index.docker.io",
    "docker.io",
    "registry-1.docker.io",
)


class Credentials(Struct, frozen=True, kw_only=True):
    """A name and a password, or an OAuth2 refresh token. Never print it."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"

    def basic(self) -> str:
        """Return the Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class _Entry(Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _Config(Struct, rename="camel"):
    auths: dict[str, _Entry] = msgspec.field(default_factory=dict)
    cred_helpers: dict[str, str] = msgspec.field(default_factory=dict)
    creds_store: str = ""


class _HelperAnswer(Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


def find_credentials(host: str, repository: str, files: tuple[str, ...]) -> Credentials | None:
    """Return the credentials for a repository of a registry; None means to ask as nobody.

    Args:
        host: as the reference names it, or the mirror's ("docker.io", "localhost:5000").
        files: read in this order; the first with an answer wins, one that does not exist has none.

    Raises:
        Stalled: a file or a helper is broken.
    """
    keys = list(_keys(host, repository))
    for file in files:
        config = _read(Path(file))
        found = _from_file(config, keys, file) if config is not None else None
        if found is not None:
            return found
    return None


def _keys(host: str, repository: str) -> Iterator[str]:
    """Yield what an entry may be filed under, the most specific first (containers-auth.json(5))."""
    parts = repository.split("/") if repository else []
    for length in range(len(parts), 0, -1):
        yield f"{host}/{'/'.join(parts[:length])}"
    if host == DOCKER_HUB:
        yield from _HUB_KEYS
    else:
        yield host
        yield f"https://{host}"
        yield f"https://{host}/"
        yield f"https://{host}/v1/"
        yield f"https://{host}/v2/"
        yield f"http://{host}"


def _read(path: Path) -> _Config | None:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Stalled(f"cannot read the credentials in {path}: {error.strerror}") from error
    try:
        if len(data) > _FILE_LIMIT:
            raise ValueError(f"larger than {_FILE_LIMIT} bytes")
        return msgspec.json.decode(data, type=_Config)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Stalled(f"cannot read the credentials in {path}: {error}") from error


def _from_file(config: _Config, keys: list[str], file: str) -> Credentials | None:
    for key in keys:
        if key in config.cred_helpers:
            return _ask_helper(config.cred_helpers[key], key, file)
    for key in keys:
        entry = config.auths.get(key)
        if entry is not None and (entry.auth or entry.username or entry.identitytoken):
            return _decode(entry, key, file)
    if config.creds_store:
        for key in keys:
            found = _ask_helper(config.creds_store, key, file)
            if found is not None:
                return found
    return None


def _decode(entry: _Entry, key: str, file: str) -> Credentials:
    username, password = entry.username, entry.password
    if entry.auth:
        try:
            text = base64.b64decode(entry.auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            # Without the text: it is a secret.
            raise Stalled(f"{file}: the entry for {key} is not base64 of user:password") from error
        username, _, password = text.partition(":")
    return Credentials(username=username, password=password.rstrip("\0"), identity_token=entry.identitytoken)


def _ask_helper(name: str, key: str, file: str) -> Credentials | None:
    """Ask a program (docker-credential-helpers' protocol): the host on standard input, JSON back."""
    if not _HELPER_NAME.fullmatch(name):
        raise Stalled(f"{file}: {name!r} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    done = run([program, "get"], timeout=_HELPER_TIMEOUT, stdin=key.encode(), env={"HOME": "/root"})
    if done.code != 0:
        if _NOT_FOUND in done.stdout + done.stderr:
            return None
        raise Stalled(f"{program} failed with exit code {done.code} for {key}", hint=f"it is named in {file}")
    try:
        answer = msgspec.json.decode(done.stdout, type=_HelperAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Stalled(f"{program} did not answer with JSON", hint=f"it is named in {file}") from error
    if answer.username == "<token>":
        return Credentials(identity_token=answer.secret)
    return Credentials(username=answer.username, password=answer.secret)
