"""The git protocol with dulwich: the default transport. Uses only its client, refs and object stores.

Runs in the helper only. Works with dulwich 0.22 and 1.x, whose differences stay in this file.
"""

from __future__ import annotations

import base64
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import dulwich
import urllib3
from dulwich.client import HttpGitClient, SSHGitClient, SubprocessWrapper, TCPGitClient
from dulwich.errors import GitProtocolError, HangupException, NotGitRepository
from dulwich.repo import Repo

from tank_agent.linux.process import ENVIRONMENT
from tank_agent.source.git.access import Context, GitError, Wanted, explain, ssh_command
from tank_agent.source.git.objects import ID, printable
from tank_agent.source.git.packs import copy_missing, open_pack

# 0.22 mixes up shallow boundaries and haves in protocol 2; both do the older one well.
_FETCH_PROTOCOL = 0
_OLD = dulwich.__version__ < (1, 0)


class DulwichTransport:
    """The git protocol with dulwich."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def list_refs(self, names: Sequence[str]) -> dict[str, str]:
        """Return the objects that refs of these full names point to; a ref that is not there is left out."""
        if self._context.local is not None:
            with _local_repository(self._context.local) as source:
                return _chosen(source.get_refs(), names)
        client, path = self._client()
        try:
            prefixes = [name.encode() for name in names]
            result: Any = client.get_refs(path, protocol_version=2, ref_prefix=prefixes)
        except Exception as error:
            _explain(error, self._words())
        return _chosen(getattr(result, "refs", result), names)

    def fetch(self, wanted: Wanted, into: Path) -> str:
        """Bring an object and all that it needs into a bare repository, and return the object's name."""
        with Repo(str(into)) as target:
            if self._context.local is not None:
                with _local_repository(self._context.local) as source:
                    name = wanted.commit or _the_ref(_chosen(source.get_refs(), [wanted.ref or ""]), wanted)
                    copy_missing(source, target, name.encode(), wanted.depth, self._context.largest_file)
                    return name
            if wanted.commit is not None:
                return self._fetch_commit(wanted, wanted.commit, target)
            return self._fetch_ref(wanted, target)

    def _fetch_ref(self, wanted: Wanted, target: Any) -> str:
        found: list[str] = []

        def choose(refs: Mapping[bytes, bytes], depth: int | None = None) -> list[bytes]:
            name = _the_ref(_chosen(refs, [wanted.ref or ""]), wanted)
            found.append(name)
            return [] if name.encode() in target.object_store else [name.encode()]

        self._run(target, choose, wanted.depth or None, _FETCH_PROTOCOL)
        return found[-1]

    def _fetch_commit(self, wanted: Wanted, name: str, target: Any) -> str:
        # Only protocol 2 lets anybody ask for a commit that no ref names.
        try:
            self._run(target, lambda *_, **__: [name.encode()], None if _OLD else wanted.depth or None, 2)
        except GitError as error:
            if error.kind not in ("not-found", "broken"):
                raise
            self._run(target, _heads_and_tags, None, _FETCH_PROTOCOL)
        if name.encode() not in target.object_store:
            raise GitError("not-found", f"the remote has no commit {name}", hint="see git.commit")
        return name

    def _run(self, target: Any, choose: Any, depth: int | None, protocol: int) -> None:
        client, path = self._client()
        target.object_store.add_pack = partial(open_pack, Path(target.object_store.pack_dir))
        try:
            client.fetch(path, target, determine_wants=choose, depth=depth, protocol_version=protocol)
        except GitError:
            raise
        except Exception as error:
            _explain(error, self._words())

    def _words(self) -> str:
        file = _words_of_ssh(self._context)
        return file.read_text("utf-8", "replace")[-4096:] if file.exists() else ""

    def _client(self) -> tuple[Any, str]:
        # Whole packs, which `open_pack` takes; for a thin one dulwich would need all of it in memory.
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
        pool = _through_proxy(context.access.proxy, headers, tls)
    pool.patience = urllib3.Timeout(connect=context.timeout, read=context.timeout)
    return pool


def _through_proxy(proxy: str, headers: dict[str, str], tls: ssl.SSLContext) -> _StrictProxy:
    parts = urlsplit(proxy)
    if parts.scheme not in ("http", "https"):
        raise GitError(
            "unreachable", "only http:// proxies are used", hint='git.transport = "git" knows SOCKS'
        )
    to_proxy = {}
    if parts.username is not None:
        to_proxy["Proxy-Authorization"] = _basic(unquote(parts.username), unquote(parts.password or ""))
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return _StrictProxy(
        address, headers=headers, proxy_headers=to_proxy, ssl_context=tls, proxy_ssl_context=tls
    )


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode('ascii')}"


class _Strict:
    """HTTP that follows no redirect, tries once, waits not for ever, and takes only git's own answers."""

    patience: urllib3.Timeout

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        """Make a request, and raise GitError unless it is answered in the git protocol."""
        kwargs.update(redirect=False, retries=False, timeout=self.patience)
        try:
            answer = super().request(method, url, *args, **kwargs)  # type: ignore[misc]
        except urllib3.exceptions.ProxyError as error:
            raise GitError(
                "unreachable", f"the proxy does not let us through: {_innermost(error)}"
            ) from error
        except urllib3.exceptions.SSLError as error:
            raise GitError(
                "refused",
                f"the server's certificate is not trusted: {printable(_innermost(error), 160)}",
                hint="name the certificate authority's file in git.ca_file",
            ) from error
        except urllib3.exceptions.TimeoutError as error:
            raise GitError(
                "unreachable", "the server did not answer in time", hint="it is tried again"
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise explain(_innermost(error), "cannot reach the server") from error
        if answer.status != 200:
            raise _http_error(answer.status, answer.headers.get("Location"))
        kind = answer.headers.get("Content-Type", "")
        if not kind.startswith("application/x-git-upload-pack-"):
            raise GitError(
                "not-found", f"the server answers {printable(kind, 40)}, not git", hint="see git.url"
            )
        return answer


class _StrictPool(_Strict, urllib3.PoolManager):
    """Straight to the server."""


class _StrictProxy(_Strict, urllib3.ProxyManager):
    """Through a proxy."""


def _http_error(status: int, location: str | None) -> GitError:
    if status in (401, 403, 407):
        return GitError(
            "refused",
            f"the user name, password or token was refused (HTTP {status})",
            hint="see git.username, git.password_file, git.token_file",
        )
    if status in (404, 410):
        return GitError("not-found", f"there is no such repository (HTTP {status})", hint="see git.url")
    if 300 <= status < 400:
        to = printable((location or "?").split("?", 1)[0], 120)
        return GitError("broken", f"the server redirects to {to}", hint="write that address into git.url")
    return GitError("unreachable", f"the server answered HTTP {status}", hint="it is tried again")


def _innermost(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error.__cause__
    if isinstance(reason, BaseException):
        return _innermost(reason)
    words = [str(part) for part in error.args if isinstance(part, str)]
    return words[-1] if words else str(error)


def _words_of_ssh(context: Context) -> Path:
    """Return the file for ssh's errors: 0.22 would drop them, and a pipe could fill up."""
    return context.private / "ssh.errors"


class _Ssh:
    """Runs ssh for dulwich, as `ssh_command` says."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def run_command(
        self, host: str, command: bytes, username: str | None = None, port: int | None = None, **_: object
    ) -> SubprocessWrapper:
        """Start ssh; the signature is dulwich's."""
        argv: list[str | bytes] = [*ssh_command(self._context)]
        if port is not None:
            argv += ["-p", str(port)]
        argv += ["--", f"{username}@{host}" if username else host, command]
        with _words_of_ssh(self._context).open("wb") as words:
            process = subprocess.Popen(  # the wrapper of dulwich closes it
                argv,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env=dict(ENVIRONMENT),
            )
        return SubprocessWrapper(process)


def _local_repository(path: Path) -> Any:
    try:
        return Repo(str(path))
    except NotGitRepository as error:
        raise GitError("not-found", "there is no git repository there", hint="see git.url") from error
    except Exception as error:
        raise GitError("broken", f"the repository cannot be opened: {printable(str(error))}") from error


def _heads_and_tags(refs: Mapping[bytes, bytes], depth: int | None = None) -> list[bytes]:
    return [refs[name] for name in refs if name.startswith((b"refs/heads/", b"refs/tags/"))]


def _chosen(refs: Mapping[bytes, bytes | None], names: Sequence[str]) -> dict[str, str]:
    chosen = {}
    for name in names:
        value = refs.get(name.encode())
        if value is None:
            continue
        text = value.decode("ascii", "replace")
        if not ID.fullmatch(text):
            raise GitError("broken", "the repository does not use SHA-1 names, which is all we read")
        chosen[name] = text
    return chosen


def _the_ref(chosen: Mapping[str, str], wanted: Wanted) -> str:
    name = chosen.get(wanted.ref or "")
    if name is None:
        raise GitError("not-found", f"the remote has no {wanted.ref}", hint="see git.branch, git.tag")
    return name


def _explain(error: Exception, words: str = "") -> NoReturn:
    if isinstance(error, GitError):
        raise error
    if isinstance(error, HangupException):
        raise explain(words, "the server hung up") from error
    if isinstance(error, NotGitRepository):
        raise GitError("not-found", "there is no such repository", hint="see git.url") from error
    if isinstance(error, TimeoutError):
        raise GitError(
            "unreachable", "the server did not answer in time", hint="it is tried again"
        ) from error
    if isinstance(error, GitProtocolError):
        raise explain(str(error), "the server's answer cannot be used") from error
    if isinstance(error, MemoryError | OSError):
        raise _system_error(error) from error
    raise explain(f"{type(error).__name__}: {error}", "the server's answer cannot be used") from error


def _system_error(error: MemoryError | OSError) -> GitError:
    import errno
    import socket

    if isinstance(error, MemoryError):
        return GitError("too-big", "the answer needs more memory than is allowed", hint="see git.max_size")
    if error.errno == errno.EFBIG:
        return GitError("too-big", "the fetch is larger than git.max_size", hint="raise it, or see what grew")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return GitError("unreachable", "no space left below data_dir", hint="free some")
    if isinstance(error, socket.gaierror):
        return GitError("unreachable", "the host's name is not known", hint="see git.url and DNS")
    return explain(error.strerror or str(error), "cannot reach the server")
