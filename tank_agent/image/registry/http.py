"""HTTP for registries: every wait ends, nothing is read without bound, no secret goes to another host.

urllib3's time-outs count the silence between two packets, so a server that sends one byte a second could hold
a worker for ever. Here a watchdog shuts the socket of any request that is cancelled or past its deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import unquote, urlencode

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from tank_agent.errors import Retry, Stalled
from tank_agent.image.config import Cancelled
from tank_agent.image.jobs import CancelledError
from tank_agent.image.registry.url import Url
from tank_agent.linux.given_files import CERTIFICATES_HINT, why_no_certificates
from tank_agent.settings.image import ImageSettings, RegistrySettings

_REDIRECTS = 5
_REDIRECTIONS = (301, 302, 303, 307, 308)
_TICK = 0.1
# Raised by a connection that breaks or that the watchdog shuts.
_BROKEN = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
_CURRENT = threading.local()
_Fields = Mapping[str, str]


def tls_context(registry: RegistrySettings) -> ssl.SSLContext:
    """Make the TLS context for a registry; Stalled if the file with its authority can't be read."""
    try:
        context = ssl.create_default_context(cafile=registry.ca)
    except (OSError, ssl.SSLError) as error:
        wrong = f"the certificate authority {registry.ca} {why_no_certificates(registry.ca or '', error)}"
        raise Stalled(wrong, hint=CERTIFICATES_HINT) from error
    if registry.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Operation:
    """One watched request, from its first byte to the last of its body."""

    def __init__(self, seconds: float) -> None:
        self.socket: socket.socket | None = None
        self.cut = ""
        self.ended = False
        self.allow(seconds)

    def allow(self, seconds: float) -> None:
        """Let the next step take this long."""
        self.deadline = time.monotonic() + seconds

    def look(self, cancelled: bool) -> None:
        """Cut the connection if it is time to; what blocks on it then fails at once."""
        if self.cut or self.ended:
            return
        if cancelled or time.monotonic() > self.deadline:
            self.cut = "cancelled" if cancelled else "too slow"
            if self.socket is None:
                return
            with contextlib.suppress(OSError):
                # Not SSLSocket's own shutdown: that takes the TLS layer away from under the reader.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


class _Watched(HTTPConnection):
    """A connection that gives its socket to its thread's operation."""

    def connect(self) -> None:
        super().connect()
        # The user wrote `insecure`; urllib3 would warn about it at every request.
        self.is_verified = True
        self._register()

    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        self._register()
        super().putrequest(*args, **kwargs)

    def _register(self) -> None:
        operation: _Operation | None = getattr(_CURRENT, "operation", None)
        if operation is not None and self.sock is not None:
            operation.socket = self.sock


class _WatchedTls(_Watched, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class Response(AbstractContextManager["Response"]):
    """A response whose body has not been read yet; the caller closes it.

    It `strayed` if a redirect led to another host than the one that was asked.
    """

    strayed = False

    def __init__(
        self, response: urllib3.BaseHTTPResponse, operation: _Operation, settings: ImageSettings, url: Url
    ) -> None:
        self.status, self.url = response.status, url
        self.headers: _Fields = response.headers
        self._response, self._operation, self._settings = response, operation, settings
        self._error: Exception | None = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back if the whole body was read, else close it. Idempotent."""
        self._operation.ended = True
        self._response.close()
        self._response.release_conn()

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes of the body as it came, b"" at the end.

        If the connection breaks, return what came before, and raise the error in the next call.
        """
        self._operation.allow(self._settings.read_timeout + size / self._settings.minimum_rate)
        parts: list[bytes] = []
        try:
            while not self._error and size > 0 and (part := self._response.read1(size, decode_content=False)):
                parts.append(part)
                size -= len(part)
        except _BROKEN as error:
            self._error = error
        if not parts and (self._error or self._operation.cut):
            raise _broken(self._error, self._operation, self.url) from self._error
        return b"".join(parts)

    def read_all(self, limit: int, what: str) -> bytes:
        """Return the whole body; Stalled if it is larger than `limit` bytes, else errors as in `read`."""
        data = b""
        while chunk := self.read(1 << 16):
            data += chunk
            if len(data) > limit:
                raise Stalled(f"{what} from {self.url.place} is larger than {limit} bytes")
        return data


class Http:
    """The requests of one pull. Thread-safe."""

    def __init__(self, settings: ImageSettings, cancelled: Cancelled) -> None:
        self._settings, self._cancelled = settings, cancelled
        self._lock = threading.Lock()
        self._trusts: dict[str, RegistrySettings] = {}
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._operations: list[_Operation] = []
        self._watchdog: threading.Thread | None = None
        self._closed = False

    def trust(self, origin: str, registry: RegistrySettings) -> None:
        """Trust an origin as these settings say; the system's authorities decide about others."""
        self._trusts[origin] = registry

    def close(self) -> None:
        """Close all connections. Idempotent."""
        with self._lock:
            self._closed = True
            managers = list(self._managers.values())
        for manager in managers:
            manager.clear()

    def request(
        self,
        url: Url,
        *,
        headers: _Fields,
        authorization: str | None = None,
        form: _Fields | None = None,
        head: bool = False,
    ) -> Response:
        """Make a GET or HEAD request and follow its redirects, or a POST request if there is a form.

        Only the origin of `url` gets the secret, and only before the first redirect to another origin: a
        later one that leads back is that other host's wish.
        """
        here, strayed = url, False
        for _ in range(_REDIRECTS):
            response = self._send(here, headers, None if strayed else authorization, form, head=head)
            target = response.headers.get("Location")
            if form is not None or not target or response.status not in _REDIRECTIONS:
                response.strayed = strayed
                return response
            response.close()
            try:
                new = here.to(target)
            except Stalled as error:
                raise Stalled(f"{here.place} redirects: {error.message}") from error
            if new.scheme == "http" and here.scheme != "http" and new.origin not in self._trusts:
                raise Stalled(f"{here.place} redirects to {new.place}, which is not encrypted")
            here, strayed = new, strayed or new.origin != url.origin
        raise Stalled(f"{url.place} redirects more than {_REDIRECTS} times")

    def sleep(self, seconds: float) -> None:
        """Wait; CancelledError as soon as the pull is cancelled."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._cancelled():
                raise CancelledError("the pull was cancelled")
            time.sleep(min(left, _TICK))

    def _send(
        self, url: Url, headers: _Fields, authorization: str | None, form: _Fields | None, *, head: bool
    ) -> Response:
        manager = self._manager(url)
        # Identity: a proxy that compresses once more would change the digest.
        sent = {"User-Agent": "tank-agent", "Accept-Encoding": "identity", **headers}
        if authorization:
            sent["Authorization"] = authorization
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connect, read = self._settings.connect_timeout, self._settings.read_timeout
        operation = _CURRENT.operation = _Operation(connect + 2 * read)
        with self._lock:
            self._operations = [*self._operations, operation]
            if self._watchdog is None or not self._watchdog.is_alive():
                self._watchdog = threading.Thread(target=self._watch, name="image-watchdog", daemon=True)
                self._watchdog.start()
        try:
            response = manager.urlopen(
                "POST" if form is not None else "HEAD" if head else "GET",
                str(url),
                body=None if form is None else urlencode(form),
                headers=sent,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=connect, read=read),
            )
        except BaseException as error:
            operation.ended = True
            if not isinstance(error, _BROKEN):
                raise
            raise _broken(error, operation, url) from error
        finally:
            _CURRENT.operation = None
        answer = Response(response, operation, self._settings, url)
        if operation.cut:
            # To http.client the end of a connection is also the end of the headers.
            answer.close()
            raise _broken(None, operation, url)
        return answer

    def _manager(self, url: Url) -> urllib3.PoolManager:
        with self._lock:
            found = self._managers.get(url.origin)
            if found is None:
                registry = self._trusts.get(url.origin, RegistrySettings())
                context = tls_context(registry) if url.scheme == "https" else None
                found = _manager_for(url, maxsize=self._settings.parallel + 2, ssl_context=context)
                self._managers[url.origin] = found
                found.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
            return found

    def _watch(self) -> None:
        while True:
            with self._lock:
                operations = self._operations = [one for one in self._operations if not one.ended]
                if self._closed and not operations:
                    return
            for operation in operations:
                operation.look(self._cancelled())
            time.sleep(_TICK)


def _manager_for(url: Url, **fields: Any) -> urllib3.PoolManager:
    """Use the environment's proxy, if any, by the rules of requests (NO_PROXY may name networks)."""
    proxy: str | None = None
    if any(name.lower().endswith("_proxy") for name in os.environ):
        import requests

        named = requests.utils.get_environ_proxies(str(url))
        proxy = requests.utils.select_proxy(str(url), named)
    if proxy is None:
        return urllib3.PoolManager(**fields)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    secret = unquote(urllib3.util.parse_url(proxy).auth or "")
    headers = urllib3.make_headers(proxy_basic_auth=secret) if secret else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **fields)


def _broken(error: BaseException | None, operation: _Operation, url: Url) -> Stalled | Retry:
    if operation.cut == "cancelled":
        return CancelledError("the pull was cancelled")
    if operation.cut:
        return Retry(f"{url.place} answers too slowly")
    cause = error
    while isinstance(cause, BaseException):
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = 'name the authority that signed it as ca = "FILE" in [registry."HOST"] of agent.toml'
            wrong = f"the certificate of {url.origin} can't be trusted: {cause.verify_message}"
            return Stalled(wrong, hint=hint)
        cause = cause.__cause__ or cause.__context__ or getattr(cause, "reason", None)
    # The innermost message: urllib3 wraps it several times.
    while error is not None and (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return Retry(f"cannot read {url.place}: {str(error) or type(error).__name__}")
