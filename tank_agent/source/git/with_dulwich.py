"""The default transport: dulwich's client, refs and object stores. Runs in the helper only.

It works with dulwich 0.22 and 1.x, and hides their differences.
"""

from __future__ import annotations

import base64
import errno
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import dulwich
import urllib3
from dulwich.client import HttpGitClient, SSHGitClient, SubprocessWrapper, TCPGitClient
from dulwich.errors import GitProtocolError, HangupException, NotGitRepository
from dulwich.repo import Repo

from tank_agent.linux.process import ENVIRONMENT
from tank_agent.source.git.access import (
    NO_MEMORY,
    NO_REPOSITORY,
    NO_SPACE,
    TOO_LARGE,
    TOO_SLOW,
    Context,
    GitError,
    Reason,
    Wanted,
    explain,
    sha1_name,
    ssh_command,
)
from tank_agent.source.git.objects import printable
from tank_agent.source.git.packs import copy_missing, open_pack

# 0.22 confuses shallow boundaries with haves in protocol 2; both versions are right in the older one.
_FETCH_PROTOCOL = 0
_OLD = dulwich.__version__ < (1, 0)
# ssh writes its errors into a file: dulwich 0.22 drops them, and a pipe could fill up.
_SSH_ERRORS = "ssh.errors"


class DulwichTransport:
    """A transport that uses dulwich."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def list_refs(self, names: Sequence[str]) -> dict[str, str]:
        """Return the objects that the refs of these full names point to; missing refs are left out."""
        if self._context.local is not None:
            with _local_repository(self._context.local) as source:
                return _chosen(source.get_refs(), names)
        client, path = self._client()
        with self._failures():
            prefixes = [name.encode() for name in names]
            result: Any = client.get_refs(path, protocol_version=2, ref_prefix=prefixes)
        return _chosen(getattr(result, "refs", result), names)

    def fetch(self, wanted: Wanted, into: Path) -> str:
        """Fetch an object and all that it needs into a bare repository, and return the object's name."""
        with Repo(str(into)) as target:
            if self._context.local is not None:
                with _local_repository(self._context.local) as source:
                    name = wanted.commit or _the_ref(source.get_refs(), wanted)
                    copy_missing(source, target, name.encode(), wanted.depth, self._context.largest_file)
                    return name
            if wanted.commit is not None:
                return self._fetch_commit(wanted, wanted.commit, target)
            return self._fetch_ref(wanted, target)

    def _fetch_ref(self, wanted: Wanted, target: Any) -> str:
        found: list[str] = []

        def choose(refs: Mapping[bytes, bytes], depth: int | None = None) -> list[bytes]:
            name = _the_ref(refs, wanted)
            found.append(name)
            return [] if name.encode() in target.object_store else [name.encode()]

        self._run(target, choose, wanted.depth or None, _FETCH_PROTOCOL)
        return found[-1]

    def _fetch_commit(self, wanted: Wanted, name: str, target: Any) -> str:
        # Only protocol 2 allows asking for a commit that no ref names.
        try:
            self._run(target, lambda *_, **__: [name.encode()], None if _OLD else wanted.depth or None, 2)
        except GitError as error:
            if error.kind not in ("not-found", "broken"):
                raise
            self._run(target, _heads_and_tags, None, _FETCH_PROTOCOL)
        if name.encode() not in target.object_store:
            raise GitError("not-found", f"the remote has no commit {name}", "see git.commit")
        return name

    def _run(self, target: Any, choose: Any, depth: int | None, protocol: int) -> None:
        client, path = self._client()
        target.object_store.add_pack = partial(open_pack, Path(target.object_store.pack_dir))
        with self._failures():
            client.fetch(path, target, determine_wants=choose, depth=depth, protocol_version=protocol)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Raise GitError for all that dulwich raises."""
        try:
            yield
        except GitError:
            raise
        except Exception as error:
            words = self._context.private / _SSH_ERRORS
            text = words.read_text("utf-8", "replace")[-4096:] if words.exists() else ""
            raise _explain(error, text) from error

    def _client(self) -> tuple[Any, str]:
        # No thin packs: `open_pack` refuses them, and dulwich would hold one in memory.
        context, remote = self._context, self._context.remote
        if remote.scheme == "git":
            return TCPGitClient(remote.host, remote.port, thin_packs=False), remote.path
        if remote.scheme == "ssh":
            vendor: Any = _Ssh(context)
            client = SSHGitClient(remote.host, remote.port, remote.user, vendor=vendor, thin_packs=False)
            return client, remote.path
        base = f"{remote.scheme}://{remote.authority}/"
        pool: Any = _strict_pool(context)
        return HttpGitClient(base, pool_manager=pool, thin_packs=False), remote.path.lstrip("/")


def _strict_pool(context: Context) -> urllib3.PoolManager:
    tls = ssl.create_default_context(cadata=context.access.ca)
    headers = {"User-Agent": "git/tank-agent"}
    if context.access.password is not None:
        # UTF-8 as git sends it (RFC 7617, section 2.1); dulwich would write Latin-1.
        headers["Authorization"] = _basic(context.access.username or "git", context.access.password)
    pool: _StrictPool | _StrictProxy
    if context.access.proxy is None:
        pool = _StrictPool(headers=headers, ssl_context=tls)
    else:
        parts = urlsplit(context.access.proxy)
        if parts.scheme not in ("http", "https"):
            hint = 'git.transport = "git" knows SOCKS'
            raise GitError("unreachable", "only http:// proxies are used", hint)
        to_proxy = {}
        if parts.username is not None:
            to_proxy["Proxy-Authorization"] = _basic(unquote(parts.username), unquote(parts.password or ""))
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        pool = _StrictProxy(
            address, headers=headers, proxy_headers=to_proxy, ssl_context=tls, proxy_ssl_context=tls
        )
    pool.patience = urllib3.Timeout(connect=context.timeout, read=context.timeout)
    return pool


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode('ascii')}"


class _Strict:
    """HTTP without redirects and retries, with a time limit, and only for answers in the git protocol."""

    patience: urllib3.Timeout

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        """Make a request; GitError unless the answer is in the git protocol."""
        kwargs.update(redirect=False, retries=False, timeout=self.patience)
        try:
            answer = super().request(method, url, *args, **kwargs)  # type: ignore[misc]
        except urllib3.exceptions.ProxyError as error:
            message = f"the proxy does not let us through: {_innermost(error)}"
            raise GitError("unreachable", message) from error
        except urllib3.exceptions.SSLError as error:
            message = f"the server's certificate is not trusted: {printable(_innermost(error), 160)}"
            hint = "name the certificate authority's file in git.ca_file"
            raise GitError("refused", message, hint) from error
        except urllib3.exceptions.TimeoutError as error:
            raise GitError(*TOO_SLOW) from error
        except urllib3.exceptions.HTTPError as error:
            raise explain(_innermost(error), "cannot reach the server") from error
        if answer.status != 200:
            raise _http_error(answer.status, answer.headers.get("Location"))
        kind = answer.headers.get("Content-Type", "")
        if not kind.startswith("application/x-git-upload-pack-"):
            raise GitError("not-found", f"the server answers {printable(kind, 40)}, not git", "see git.url")
        return answer


class _StrictPool(_Strict, urllib3.PoolManager):
    """A pool that connects directly."""


class _StrictProxy(_Strict, urllib3.ProxyManager):
    """A pool that connects through a proxy."""


def _http_error(status: int, location: str | None) -> GitError:
    if status in (401, 403, 407):
        message = f"the user name, password or token was refused (HTTP {status})"
        return GitError("refused", message, "see git.username, git.password_file, git.token_file")
    if status in (404, 410):
        return GitError("not-found", f"there is no such repository (HTTP {status})", "see git.url")
    if 300 <= status < 400:
        to = printable((location or "?").split("?", 1)[0], 120)
        return GitError("broken", f"the server redirects to {to}", "write that address into git.url")
    return GitError("unreachable", f"the server answered HTTP {status}", "it is tried again")


def _innermost(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error.__cause__
    if isinstance(reason, BaseException):
        return _innermost(reason)
    words = [str(part) for part in error.args if isinstance(part, str)]
    return words[-1] if words else str(error)


class _Ssh:
    """Runs ssh for dulwich by `ssh_command`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def run_command(
        self, host: str, command: bytes, username: str | None = None, port: int | None = None, **_: object
    ) -> SubprocessWrapper:
        """Start ssh; dulwich calls it with these arguments."""
        argv: list[str | bytes] = [*ssh_command(self._context)]
        if port is not None:
            argv += ["-p", str(port)]
        argv += ["--", f"{username}@{host}" if username else host, command]
        pipe = subprocess.PIPE
        with (self._context.private / _SSH_ERRORS).open("wb") as words:
            # The wrapper of dulwich closes it.
            process = subprocess.Popen(
                argv, bufsize=0, stdin=pipe, stdout=pipe, stderr=words, env=dict(ENVIRONMENT)
            )
        return SubprocessWrapper(process)


def _local_repository(path: Path) -> Any:
    try:
        return Repo(str(path))
    except NotGitRepository as error:
        raise GitError("not-found", "there is no git repository there", "see git.url") from error
    except Exception as error:
        raise GitError("broken", f"the repository cannot be opened: {printable(str(error))}") from error


def _heads_and_tags(refs: Mapping[bytes, bytes], depth: int | None = None) -> list[bytes]:
    return [refs[name] for name in refs if name.startswith((b"refs/heads/", b"refs/tags/"))]


def _chosen(refs: Mapping[bytes, bytes | None], names: Sequence[str]) -> dict[str, str]:
    found = ((name, refs.get(name.encode())) for name in names)
    return {name: sha1_name(value.decode("ascii", "replace")) for name, value in found if value is not None}


def _the_ref(refs: Mapping[bytes, bytes | None], wanted: Wanted) -> str:
    name = _chosen(refs, [wanted.ref or ""]).get(wanted.ref or "")
    if name is None:
        raise GitError("not-found", f"the remote has no {wanted.ref}", "see git.branch, git.tag")
    return name


_REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (NotGitRepository, NO_REPOSITORY),
    (TimeoutError, TOO_SLOW),
    (MemoryError, NO_MEMORY),
    (socket.gaierror, ("unreachable", "the host's name is not known", "see git.url and DNS")),
)
_BY_NUMBER = {errno.EFBIG: TOO_LARGE, errno.ENOSPC: NO_SPACE, errno.EDQUOT: NO_SPACE}


def _explain(error: Exception, words: str) -> GitError:
    """Return what an exception of dulwich means; `words` are the errors of ssh."""
    reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
    if reason is None and isinstance(error, OSError):
        reason = _BY_NUMBER.get(error.errno or 0)
        if reason is None:
            return explain(error.strerror or str(error), "cannot reach the server")
    if reason is not None:
        return GitError(*reason)
    if isinstance(error, HangupException):
        return explain(words, "the server hung up")
    text = str(error) if isinstance(error, GitProtocolError) else f"{type(error).__name__}: {error}"
    return explain(text, "the server's answer cannot be used")
