"""One POST request to a server that nobody trusts: it ends in time, follows nothing, and reads little.

requests' time-outs count the silence between two packets, so that a server which sends a byte a second could
hold a thread for ever. Here a timer cuts the connection. Nothing of it stays in memory between two requests.
Errors have words of their own: those of requests quote the address, which may be a secret.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from tank_agent.errors import Retry, Stalled
from tank_agent.linux.given_files import CERTIFICATES_HINT, why_no_certificates
from tank_agent.spec.network_values import is_loopback

ANSWER_MAX = 16 << 10
# Raised by a connection that breaks, or that the timer cuts; requests' errors are OSErrors.
_BROKEN = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
_TUNNEL = re.compile(r"Tunnel connection failed: ([0-9]{3})\b")


class Post:
    """Makes one request after the other; `cut` ends the one that is under way, from another thread.

    Args:
        seconds: how long a request may take in all; half of it for a connection to one address.
        ca: a file with certificates of authorities to trust.
        setting: the name of the setting that `ca` comes from.
        alone: trust no other authorities than those; otherwise the system's, too.
        named: errors begin with the server's name; otherwise nothing of the address is in them.
    """

    def __init__(
        self,
        *,
        seconds: float = 20.0,
        ca: str | None = None,
        setting: str = "git.ca_file",
        alone: bool = False,
        named: bool = False,
    ) -> None:
        self._seconds, self._named = seconds, named
        self._ca, self._setting, self._alone = ca, setting, alone
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
            self._opened(None)

    def _send(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        sent = {**headers, "Accept-Encoding": "identity", "Connection": "close"}
        # No requests.Session: that reads ~/.netrc, and of a redirect the whole body.
        request = requests.Request("POST", url, headers=sent, data=body).prepare()
        parts = urlsplit(url)
        # A proxy has another loopback than this machine, and would read the token.
        here = parts.scheme == "http" and is_loopback(parts.hostname or "")
        adapter = _Adapter(self._context() if parts.scheme == "https" else None, self._opened)
        try:
            with adapter.send(
                request,
                stream=True,
                # The timer ends what takes too long; the second one is for a machine that has no timer.
                timeout=(self._seconds / 2, self._seconds * 2),
                proxies={} if here else requests.utils.get_environ_proxies(url),
            ) as response:
                found = {name.lower(): value for name, value in response.headers.items()}
                text: bytes = response.raw.read(ANSWER_MAX, decode_content=False)
                # To http.client, the end of a connection that was cut is that of the answer.
                if self._late or self._cut:
                    raise TimeoutError("cut")
                return response.status_code, found, text
        finally:
            adapter.close()

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca if self._alone else None)
            if self._ca is not None and not self._alone:
                context.load_verify_locations(cafile=self._ca)
        except OSError as error:
            wrong = f"{self._setting}: {self._ca} {why_no_certificates(self._ca or '', error)}"
            raise Stalled(wrong, hint=CERTIFICATES_HINT) from error
        return context

    def _opened(self, opened: socket.socket | None) -> None:
        """Keep a second descriptor of the connection, whatever TLS makes of the first; None: it is over."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket = None if opened is None else socket.socket(fileno=os.dup(opened.fileno()))
            if self._late or self._cut:
                self._shut()

    def _too_late(self) -> None:
        with self._lock:
            self._late = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _failure(self, error: Exception, url: str) -> Stalled | Retry:
        name = f"{urllib3.util.parse_url(url).netloc}: " if self._named else ""
        if self._late:
            return Retry(f"{name}it did not answer within {self._seconds:g} s")
        # urllib3 calls it a time-out of reading if a server takes the connection, but not its part in TLS.
        if isinstance(error, requests.Timeout):
            return Retry(f"{name}no connection within {self._seconds / 2:g} s")
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                # What follows a comma is the server's name.
                wrong = f"its certificate is not to be trusted: {cause.verify_message.partition(',')[0]}"
                return Stalled(name + wrong, hint=f"name the authority that signed it as {self._setting}")
            if words := _words(cause):
                return Retry(name + words)
        return Retry(f"{name}it can't be reached ({type(error).__name__})")


class _Adapter(HTTPAdapter):
    """Trusts what `context` trusts, and gives `opened` the socket of each connection before it is used."""

    def __init__(self, context: ssl.SSLContext | None, opened: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._context, self._opened = context, opened

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        host, _ = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {"ssl_context": self._context}

    def cert_verify(self, *_: Any) -> None:
        """Add no authorities of requests' own to the context."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        opened = self._opened

        class Watched(pool.ConnectionCls):  # type: ignore[misc]
            def _new_conn(self) -> socket.socket:
                made: socket.socket = super()._new_conn()
                opened(made)
                return made

        pool.ConnectionCls = Watched
        return pool


def _words(cause: BaseException) -> str:
    """Return what went wrong, in words without the address; nothing if another cause may say more."""
    if isinstance(cause, ssl.SSLError):
        return f"no TLS with it: {cause.reason or 'it failed'}"
    if type(cause).__name__ in ("NameResolutionError", "gaierror"):
        return "its name can't be resolved"
    if isinstance(cause, OSError) and cause.errno in errno.errorcode:
        return f"it can't be reached: {os.strerror(cause.errno or 0)}"
    if tunnel := _TUNNEL.match(str(cause)):
        return f"it can't be reached: the proxy answers {tunnel[1]}"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it was made of."""
    left, seen = [error], set[int]()
    while left and len(seen) < 20:
        found = left.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
        left += [one for one in inner if isinstance(one, BaseException)]
