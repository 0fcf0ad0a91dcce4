"""One POST request to a server that nobody trusts: it ends in time, follows nothing, and reads little.

urllib3's time-outs count the silence between two packets, so that a server which sends a byte a second could
hold a thread for ever. Here a timer cuts the connection. Nothing of it stays in memory between two requests.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from tank_agent.errors import Retry, Stalled
from tank_agent.linux.given_files import CERTIFICATES_HINT, why_no_certificates

ANSWER_MAX = 16 << 10
# Raised by a connection that breaks, or that the timer cuts.
_BROKEN = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)


class Post:
    """Makes one request after the other; `cut` ends the one that is under way, from another thread.

    Args:
        seconds: how long a request may take in all.
        ca: a file with certificates of authorities to trust beside the system's.
    """

    def __init__(self, *, seconds: float = 20.0, ca: str | None = None) -> None:
        self._seconds, self._ca = seconds, ca
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = self._late = False

    def cut(self) -> None:
        """End the request that is under way; those that follow fail at once."""
        with self._lock:
            self._cut = True
            self._shut()

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return the status of the answer, its headers by lower-case names, and the begin of its body.

        Raises:
            Stalled: the server's certificate can't be trusted, or the file of authorities can't be used.
            Retry: it can't be reached, or did not answer in time.
        """
        timer = threading.Timer(self._seconds, self._too_late)
        timer.daemon = True
        self._late = False
        timer.start()
        try:
            return self._send(url, headers, body)
        except _BROKEN as error:
            raise self._failure(error, url) from error
        finally:
            timer.cancel()
            with self._lock:
                self._socket = None

    def _send(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        secure = url.startswith("https:")
        fields: dict[str, Any] = {"ssl_context": _context(self._ca)} if secure else {}
        manager = _manager(url, **fields)
        manager.pool_classes_by_scheme = {
            "http": _pool(urllib3.HTTPConnectionPool, HTTPConnection, self._opened),
            "https": _pool(urllib3.HTTPSConnectionPool, HTTPSConnection, self._opened),
        }
        try:
            response = manager.urlopen(
                "POST",
                url,
                body=body,
                headers={**headers, "Accept-Encoding": "identity", "Connection": "close"},
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=self._seconds / 2, read=self._seconds),
            )
            with response:
                found = {name.lower(): value for name, value in response.headers.items()}
                text = response.read(ANSWER_MAX, decode_content=False)
                # To http.client, the end of a connection that was cut is that of the answer.
                if self._late or self._cut:
                    raise TimeoutError("cut")
                return response.status, found, text
        finally:
            manager.clear()

    def _opened(self, opened: socket.socket) -> None:
        with self._lock:
            self._socket = opened
            if self._late or self._cut:
                self._shut()

    def _too_late(self) -> None:
        with self._lock:
            self._late = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                # Not SSLSocket's own shutdown: that takes the TLS layer away from under the reader.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _failure(self, error: BaseException, url: str) -> Stalled | Retry:
        place = urllib3.util.parse_url(url).netloc or url
        if self._late:
            return Retry(f"{place} did not answer within {self._seconds:g} s")
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                wrong = f"the certificate of {place} can't be trusted: {cause.verify_message}"
                return Stalled(wrong, hint="name the authority that signed it as ca_file in [git]")
            cause = cause.__cause__ or cause.__context__ or getattr(cause, "reason", None)
        # The innermost message: urllib3 wraps it several times.
        inner: BaseException = error
        while (deeper := inner.__cause__ or inner.__context__) is not None:
            inner = deeper
        said = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
        return Retry(f"cannot reach {place}: {said or type(inner).__name__}")


def _context(ca: str | None) -> ssl.SSLContext:
    """Make a TLS context that checks certificates; Stalled if the file of authorities can't be used."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            wrong = f"git.ca_file: {ca} {why_no_certificates(ca, error)}"
            raise Stalled(wrong, hint=CERTIFICATES_HINT) from error
    return context


def _pool(pool: type[Any], connection: type[HTTPConnection], opened: Any) -> type[Any]:
    """Return a pool whose connections tell when they have a socket."""

    class Watched(connection):  # type: ignore[misc,valid-type]
        def connect(self) -> None:
            super().connect()
            opened(self.sock)

    class WatchedPool(pool):  # type: ignore[misc]
        ConnectionCls = Watched

    return WatchedPool


def _manager(url: str, **fields: Any) -> urllib3.PoolManager:
    """Use the environment's proxy, if any, by the rules of requests (NO_PROXY may name networks)."""
    proxy: str | None = None
    # Without TLS it is to this machine, and a proxy would read the token.
    if url.startswith("https:") and any(name.lower().endswith("_proxy") for name in os.environ):
        import requests

        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if proxy is None:
        return urllib3.PoolManager(**fields)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    secret = unquote(urllib3.util.parse_url(proxy).auth or "")
    headers = urllib3.make_headers(proxy_basic_auth=secret) if secret else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **fields)
