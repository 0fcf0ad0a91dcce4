"""User names and passwords for registries, from files like Docker's config.json and from its helpers.

{"auths": {"ghcr.io": {"auth": "base64 of user:password"}},
 "credHelpers": {"gcr.io": "gcloud"}, "credsStore": "pass"}
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled, TankError
from tank_agent.linux.process import run
from tank_agent.spec.reference import DOCKER_HUB

_FILE_LIMIT = 1 << 20
_HELPER_TIMEOUT = 30.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9_-]+")
_Value = TypeVar("_Value")
_Problem = Callable[[TankError], None]
_NOT_FOUND = "credentials not found"
# The names of Docker Hub in these files.
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")


class Credentials(Struct, frozen=True, kw_only=True):
    """A name and a password, or an OAuth2 refresh token. Never print it."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"

    def basic(self) -> str:
        """Return the Authorization header (RFC 7617)."""
        # Passwords in other encodings than UTF-8 are sent unchanged.
        raw = f"{self.username}:{self.password}".encode(errors="surrogateescape")
        return "Basic " + base64.b64encode(raw).decode()


class _Entry(Struct):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None


class _Config(Struct):
    auths: dict[str, _Entry | None] | None = None
    credhelpers: dict[str, str | None] | None = None
    credsstore: str | None = None


class _HelperAnswer(Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


def find_credentials(
    host: str, repository: str, files: tuple[str, ...], problem: _Problem = lambda _: None
) -> Credentials | None:
    """Return the credentials for a repository, None if there are none; Stalled if a file is broken.

    Args:
        host: as the reference names it, or the mirror's ("docker.io", "localhost:5000").
        files: in the order in which they are asked; they need not exist.
        problem: called if a helper is missing or broken, since public images need none.
    """
    keys = list(_keys(host.lower(), repository))
    configs = ((file, _read(Path(file))) for file in files)
    found = (_from_file(config, keys, file, problem) for file, config in configs if config is not None)
    return next((credentials for credentials in found if credentials is not None), None)


def _keys(host: str, repository: str) -> Iterator[str]:
    """Yield the keys that an entry may have, the most specific first (containers-auth.json(5))."""
    while repository:
        yield f"{host}/{repository}"
        repository = repository.rpartition("/")[0]
    if host == DOCKER_HUB:
        yield from _HUB_KEYS
    else:
        tls = f"https://{host}"
        yield from (host, tls, f"{tls}/", f"{tls}/v1/", f"{tls}/v2/", f"http://{host}")


def _plain_key(key: str) -> str:
    """Return a key in the form of `_keys`, however Docker spells it: a host, or a host and a path.

    The path of an address with a scheme does not count, nor do `/v1` and `/v2`, which are the API's.
    """
    bare = key.strip().removeprefix("https://").removeprefix("http://")
    host, _, path = bare.partition("/")
    host, path = host.lower(), path.strip("/")
    return host if bare != key.strip() or path in ("", "v1", "v2") else f"{host}/{path}"


def _read(path: Path) -> _Config | None:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Stalled(f"cannot read the credentials in {path}: {error.strerror}") from error
    if not data.strip():
        # As Docker: the file was made, but nobody has logged in yet.
        return None
    try:
        if len(data) > _FILE_LIMIT:
            raise ValueError(f"larger than {_FILE_LIMIT} bytes")
        found = _lowered(msgspec.json.decode(data))
        if isinstance(found, dict) and isinstance(found.get("auths"), dict):
            found["auths"] = {key: _lowered(entry) for key, entry in found["auths"].items()}
        return msgspec.convert(found, _Config)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Stalled(f"cannot read the credentials in {path}: {error}") from error


def _lowered(fields: Any) -> Any:
    """Return fields with names in lower case: Docker ignores the case."""
    return {name.lower(): value for name, value in fields.items()} if isinstance(fields, dict) else fields


def _from_file(config: _Config, keys: list[str], file: str, problem: _Problem) -> Credentials | None:
    helpers, entries = _by_key(config.credhelpers), _by_key(config.auths)
    for key in keys:
        if (name := helpers.get(key)) is not None:
            return _ask_program(name, [key], file, problem)
    for key in keys:
        entry = entries.get(key)
        if entry is not None and (entry.auth or entry.username or entry.identitytoken):
            return _decode(entry, key, file)
    return _ask_program(config.credsstore, keys, file, problem) if config.credsstore else None


def _by_key(entries: Mapping[str, _Value] | None) -> dict[str, _Value]:
    """Add the plain form of each key; an entry that is written in that form has precedence."""
    found = dict(entries or {})
    for key, value in (entries or {}).items():
        found.setdefault(_plain_key(key), value)
    return found


def _ask_program(name: str, keys: list[str], file: str, problem: _Problem) -> Credentials | None:
    if not _HELPER_NAME.fullmatch(name):
        raise Stalled(f"{file}: {name!r} is not the name of a credential helper")
    try:
        found = (_ask_helper(f"docker-credential-{name}", key, file) for key in keys)
        return next((credentials for credentials in found if credentials is not None), None)
    except TankError as error:
        problem(error)
        return None


def _decode(entry: _Entry, key: str, file: str) -> Credentials:
    username, password = entry.username or "", entry.password or ""
    if entry.auth:
        try:
            # As Docker: line ends do not count.
            raw = base64.b64decode("".join(entry.auth.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            # Without the text: it is a secret.
            raise Stalled(f"{file}: the entry for {key} is not base64 of user:password") from error
        username, _, password = raw.decode(errors="surrogateescape").partition(":")
    password, token = password.rstrip("\0"), entry.identitytoken or ""
    return Credentials(username=username, password=password, identity_token=token)


def _ask_helper(program: str, key: str, file: str) -> Credentials | None:
    """Ask a program (docker-credential-helpers' protocol): the host on standard input, JSON back."""
    hint = f"{file} names it; make it work, or put credentials into /etc/tank/auth.json"
    try:
        done = run([program, "get"], timeout=_HELPER_TIMEOUT, stdin=key.encode(), env={"HOME": "/root"})
    except TankError as error:
        raise type(error)(error.message, hint=hint) from error
    if done.code != 0:
        if _NOT_FOUND in done.stdout + done.stderr:
            return None
        raise Stalled(f"{program} failed with exit code {done.code} for {key}", hint=hint)
    try:
        answer = msgspec.json.decode(done.stdout, type=_HelperAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Stalled(f"{program} did not answer with JSON", hint=hint) from error
    if answer.username == "<token>":
        return Credentials(identity_token=answer.secret)
    return Credentials(username=answer.username, password=answer.secret)
