"""HTTP as registries need it: every wait ends, nothing is read without bound, no secret goes to another host.

requests' own time-outs count the silence between two packets, so a server that drips one byte a second could
hold a worker for ever. Here a watchdog shuts the socket of any request that is cancelled or past its
deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests
import requests.adapters
import urllib3

from tank_agent.errors import Retry, Stalled
from tank_agent.image.content import CancelledError
from tank_agent.image.registry.url import Url
from tank_agent.linux import certificates
from tank_agent.settings.image import ImageSettings

_REDIRECTS = 5
_REDIRECTIONS = (301, 302, 303, 307, 308)
_TICK = 0.1
# What may come out of a connection that breaks or that the watchdog shuts.
_BROKEN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)


class Trust:
    """How a host is spoken to: `ca` is a PEM file instead of the system's; `insecure` believes anyone."""

    def __init__(self, *, ca: str | None = None, insecure: bool = False) -> None:
        self.ca = ca
        self.insecure = insecure

    def context(self) -> ssl.SSLContext:
        """Make the TLS context.

        Raises:
            Stalled: the file with the authority can't be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            wrong = certificates.why_not(self.ca or "", error)
            raise Stalled(f"the certificate authority {self.ca} {wrong}", hint=certificates.HINT) from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _Operation:
    """One request under watch, from its first byte to the last of its body."""

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self.cancelled = cancelled
        self.deadline = 0.0
        self.socket: socket.socket | None = None
        self.cut: str = ""

    def allow(self, seconds: float) -> None:
        """Let the next step take this long."""
        self.deadline = time.monotonic() + seconds

    def look(self, now: float) -> None:
        """Cut the connection if it is time to; what blocks on it then fails at once."""
        if self.cut:
            return
        if self.cancelled():
            self.cut = "cancelled"
        elif now > self.deadline:
            self.cut = "too slow"
        if self.cut and self.socket is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket's own shutdown: that takes the TLS layer away from under the reader.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


_CURRENT = threading.local()


def _register(connection: http.client.HTTPConnection) -> None:
    operation: _Operation | None = getattr(_CURRENT, "operation", None)
    if operation is not None and connection.sock is not None:
        operation.socket = connection.sock


class _Watched:
    """Makes a connection tell the operation of its thread which socket it uses."""

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        # The user said `insecure`; urllib3 would warn about it at every request.
        self.is_verified = True
        _register(self)  # type: ignore[arg-type]

    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        _register(self)  # type: ignore[arg-type]
        super().putrequest(*args, **kwargs)  # type: ignore[misc]


class _HttpConnection(_Watched, urllib3.connection.HTTPConnection):
    pass


class _HttpsConnection(_Watched, urllib3.connection.HTTPSConnection):
    pass


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _Adapter(requests.adapters.HTTPAdapter):
    """Takes trust from a context of ours instead of from certifi, and connections from `_Watched`."""

    def __init__(self, context: ssl.SSLContext | None, connections: int) -> None:
        self._context = context
        super().__init__(pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, ssl_context=self._context, **kwargs)
        manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        return manager

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        pass


class Response:
    """A response whose body has not been read yet.

    `strayed` says that the way to it led over another host than the one that was asked: what it says is not
    that host's word.
    """

    def __init__(
        self,
        response: requests.Response,
        operation: _Operation,
        settings: ImageSettings,
        url: Url,
        *,
        strayed: bool,
    ) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.url = url
        self.strayed = strayed
        self._response = response
        self._operation = operation
        self._settings = settings
        self._error: Exception | None = None

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes of the body as it came, b"" at the end.

        What came before a connection broke is returned first, and the error by the next call.

        Raises:
            Retry: the connection broke, or is too slow.
        """
        self._operation.allow(self._settings.read_timeout + size / self._settings.minimum_rate)
        pieces: list[bytes] = []
        try:
            while self._error is None and size > 0:
                piece = self._response.raw.read1(size, decode_content=False)
                if not piece:
                    break
                pieces.append(piece)
                size -= len(piece)
        except _BROKEN as error:
            self._error = error
        if not pieces and (self._error or self._operation.cut):
            raise _broken(self._error, self._operation, self.url) from self._error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_all(self, limit: int, what: str) -> bytes:
        """Return the whole body.

        Raises:
            Stalled: it is larger than `limit` bytes.
            Retry: as for `read`.
        """
        data = b""
        while chunk := self.read(1 << 16):
            data += chunk
            if len(data) > limit:
                raise Stalled(f"{what} from {self.url.place} is larger than {limit} bytes")
        return data


class Http:
    """Requests of one pull. May be used from several threads."""

    def __init__(self, settings: ImageSettings, cancelled: Callable[[], bool]) -> None:
        self._settings = settings
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._trusts: dict[str, Trust] = {}
        self._adapters: dict[str, _Adapter] = {}
        self._operations: set[_Operation] = set()
        self._wake = threading.Event()
        self._watchdog: threading.Thread | None = None
        self._closed = False

    def trust(self, origin: str, trust: Trust) -> None:
        """Say how to speak with an origin; others are trusted as the system says."""
        self._trusts[origin] = trust

    def close(self) -> None:
        """Close all connections. Idempotent."""
        with self._lock:
            self._closed = True
            adapters = list(self._adapters.values())
        for adapter in adapters:
            adapter.close()

    @contextlib.contextmanager
    def request(
        self,
        url: Url,
        *,
        headers: Mapping[str, str],
        authorization: str | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Iterator[Response]:
        """Make a GET request (a POST if there is a form) and follow redirects of a GET.

        The secret is for the origin of `url` alone. The first redirect to another one ends its use, also if
        a later one leads back: by then it is not the host's own wish any more.

        Raises:
            Stalled: the host is not who it should be, or redirects where it may not.
            Retry: the host can't be reached now.
        """
        with self._watched() as operation:
            here, strayed = url, False
            for _ in range(_REDIRECTS):
                secret = None if strayed else authorization
                response = self._send(here, headers, secret, form, operation)
                target = response.headers.get("Location")
                if form is not None or not target or response.status_code not in _REDIRECTIONS:
                    break
                response.close()
                here = self._redirected(here, target)
                strayed = strayed or here.origin != url.origin
            else:
                raise Stalled(f"{url.place} redirects more than {_REDIRECTS} times")
            try:
                yield Response(response, operation, self._settings, here, strayed=strayed)
            finally:
                response.close()

    def sleep(self, seconds: float) -> None:
        """Wait, but not longer than somebody is interested.

        Raises:
            CancelledError: nobody is.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._cancelled():
                raise CancelledError("the pull was cancelled")
            time.sleep(min(left, _TICK))

    def _send(
        self,
        url: Url,
        headers: Mapping[str, str],
        authorization: str | None,
        form: Mapping[str, str] | None,
        operation: _Operation,
    ) -> requests.Response:
        adapter = self._adapter(url)
        # Identity: a proxy that compresses once more would change the digest.
        sent = {"User-Agent": "tank-agent", "Accept-Encoding": "identity", **headers}
        if authorization:
            sent["Authorization"] = authorization
        operation.allow(self._settings.connect_timeout + 2 * self._settings.read_timeout)
        try:
            # No session: its cookies and .netrc would send to hosts what nobody configured here.
            request = requests.Request("GET" if form is None else "POST", str(url), headers=sent, data=form)
            response = adapter.send(
                request.prepare(),
                stream=True,
                timeout=(self._settings.connect_timeout, self._settings.read_timeout),
                verify=not self._trust(url).insecure,
                proxies=requests.utils.get_environ_proxies(str(url)),
            )
        except _BROKEN as error:
            raise _broken(error, operation, url) from error
        if operation.cut:
            # To http.client the end of a connection is also the end of the headers.
            response.close()
            raise _broken(None, operation, url)
        return response

    def _trust(self, url: Url) -> Trust:
        return self._trusts.get(url.origin, Trust())

    def _adapter(self, url: Url) -> _Adapter:
        with self._lock:
            found = self._adapters.get(url.origin)
            if found is None:
                context = self._trust(url).context() if url.scheme == "https" else None
                found = self._adapters[url.origin] = _Adapter(context, self._settings.parallel + 2)
            return found

    def _redirected(self, url: Url, target: str) -> Url:
        try:
            new = url.to(target)
        except Stalled as error:
            raise Stalled(f"{url.place} redirects: {error.message}") from error
        plain_allowed = url.scheme == "http" or new.origin in self._trusts
        if new.scheme == "http" and not plain_allowed:
            raise Stalled(f"{url.place} redirects to {new.place}, which is not encrypted")
        return new

    @contextlib.contextmanager
    def _watched(self) -> Iterator[_Operation]:
        operation = _Operation(self._cancelled)
        operation.allow(self._settings.connect_timeout)
        with self._lock:
            self._operations.add(operation)
            if self._watchdog is None or not self._watchdog.is_alive():
                self._watchdog = threading.Thread(target=self._watch, name="image-watchdog", daemon=True)
                self._watchdog.start()
        _CURRENT.operation = operation
        try:
            yield operation
        finally:
            _CURRENT.operation = None
            with self._lock:
                self._operations.discard(operation)

    def _watch(self) -> None:
        while True:
            with self._lock:
                operations = list(self._operations)
                if self._closed and not operations:
                    return
            now = time.monotonic()
            for operation in operations:
                operation.look(now)
            time.sleep(_TICK)


def _broken(error: BaseException | None, operation: _Operation, url: Url) -> Stalled | Retry:
    place = url.place
    if operation.cut == "cancelled":
        return CancelledError("the pull was cancelled")
    if operation.cut:
        return Retry(f"{place} answers too slowly")
    cause = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Stalled(
                f"the certificate of {url.origin} can't be trusted: {cause.verify_message}",
                hint='name the authority that signed it as ca = "FILE" in [registry."HOST"] of agent.toml',
            )
        cause = cause.__cause__ or cause.__context__ or getattr(cause, "reason", None)
        if not isinstance(cause, BaseException):
            break
    return Retry(f"cannot read {place}: {_shortest(error)}")


def _shortest(error: BaseException | None) -> str:
    """Return the innermost message: requests and urllib3 wrap it several times."""
    while error is not None:
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return str(error) or type(error).__name__
