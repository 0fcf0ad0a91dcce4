"""One attempt of a tcp or http probe: a few system calls, none of which blocks.

Its target is the pod itself: 127.0.0.1, then ::1, in the pod's network namespace, and nothing else.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import select
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from tank_agent.errors import shortage
from tank_agent.runtime.health.probe import Probe
from tank_agent.runtime.health.result import GOOD, ProbeResult, bad, ours
from tank_agent.spec.model import HttpProbe

if TYPE_CHECKING:
    import ssl

_ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_CONNECTED = (0, errno.EISCONN)
_UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY)
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
# Only the status line matters, so this is all that is read of an answer.
_ANSWER_SIZE = 4 << 10
_SHOWN = 80
_STATUS = re.compile(rb"HTTP/[0-9]\.[0-9] ([0-9]{3})(?: ([^\r\n]*))?\r?\n")
_START = b"HTTP/"
# What TLS can send as the name of a server (RFC 6066): a name of the DNS.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
_NAME_SIZE = 253
_HEADERS = {"Host": "localhost", "User-Agent": "tank-probe", "Accept": "*/*", "Connection": "close"}
# struct linger: on, for 0 s.
_RESET = struct.pack("ii", 1, 0)

OpenSocket = Callable[[socket.AddressFamily], socket.socket]


class ProbeTarget(Struct, frozen=True, kw_only=True):
    """The port of a probe, and what is sent there: nothing for tcp; `name` is the one asked for with TLS."""

    port: int
    request: bytes = b""
    tls: bool = False
    name: str = ""


def target_of(probe: Probe) -> ProbeTarget | None:
    """Return the target of a tcp or http probe; None for another."""
    if probe.tcp is not None:
        return ProbeTarget(port=probe.tcp)
    if probe.http is None:
        return None
    headers = _headers(probe.http)
    lines = [f"GET {probe.http.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.values())]
    host = headers["host"][1].rpartition(":")[0] or headers["host"][1]
    return ProbeTarget(
        port=probe.http.port,
        request="\r\n".join([*lines, "", ""]).encode(),
        tls=probe.http.tls,
        name=host if len(host) <= _NAME_SIZE and _NAME.fullmatch(host) else "",
    )


def _headers(http: HttpProbe) -> dict[str, tuple[str, str]]:
    """Return name and value of each header, by its name in small letters; those of the file win."""
    return {name.lower(): (name, value) for name, value in (*_HEADERS.items(), *http.headers.items())}


class Connection:
    """One attempt. It is worked on by one thread at a time, which waits for `events` of `descriptor`.

    `awaited` is for that thread: the descriptor that it waits for.

    Args:
        open_socket: makes a non-blocking socket in the pod's network namespace.
    """

    def __init__(self, target: ProbeTarget, open_socket: OpenSocket) -> None:
        self._target, self._open = target, open_socket
        self._left = list(_ADDRESSES)
        self._address: tuple[str, int] = ("", 0)
        self._socket: socket.socket | None = None
        self._error = 0
        self._connected = self._secured = False
        self._unsent, self._answer, self._received = target.request, b"", 0
        self.events = select.EPOLLOUT
        self.awaited = -1

    @property
    def descriptor(self) -> int:
        """Return the descriptor of the socket; -1 if it has none."""
        return self._socket.fileno() if self._socket is not None else -1

    def begin(self) -> ProbeResult | None:
        """Begin; return the result if that is known already."""
        while self._left:
            family, address = self._left.pop(0)
            try:
                self._socket = self._open(family)
            except OSError as error:
                if error.errno in _NO_FAMILY and self._error:
                    continue
                lacking = shortage(error)
                return ours(str(lacking) if lacking is not None else f"cannot enter its network: {error}")
            self._address = (address, self._target.port)
            result = self._connect(self._socket)
            if result is not None or self._socket is not None:
                return result
        return bad(f"cannot connect to port {self._target.port}: {os.strerror(self._error)}")

    def go_on(self) -> ProbeResult | None:
        """Go on after an event; return the result once it is known."""
        if self._socket is None:
            return None
        if self._connected:
            return self._talk(self._socket)
        result = self._connect(self._socket)
        # Refused at the first address.
        return self.begin() if result is None and self._socket is None else result

    def expire(self, timeout: float) -> ProbeResult:
        """End it, since its time is over."""
        what = "connection to"
        if self._connected:
            what = "TLS at" if self._target.tls and not self._secured else "answer from"
        self.abort()
        return bad(f"no {what} port {self._target.port} within {timeout:g} s")

    def abort(self) -> None:
        """Close the socket now, with nothing left of it that could keep the pod's network namespace."""
        if self._socket is not None:
            if self._socket.fileno() >= 0:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, connecting: socket.socket) -> ProbeResult | None:
        """Connect, or see how far it is; without a result, it is under way, or the socket is closed."""
        # On the loopback it is mostly done by the time of a second call, which saves the wait for an event.
        for _ in range(2):
            result = connecting.connect_ex(self._address)
            if result in _CONNECTED:
                self._connected = True
                return self._talk(connecting) if self._target.request else self._end(GOOD)
            if result not in _UNDER_WAY:
                self._error = self._error or result
                self.abort()
                return None
        return None

    def _talk(self, connected: socket.socket) -> ProbeResult | None:
        try:
            if self._target.tls and not self._secured:
                connected = self._secure(connected)
            if self._unsent:
                self._unsent = self._unsent[connected.send(self._unsent) :]
                self.events = select.EPOLLOUT if self._unsent else select.EPOLLIN
                return None
            return self._read(connected)
        except BlockingIOError:
            return None
        except OSError as error:
            if self._target.tls and (wanted := _wanted(error)):
                self.events = wanted
                return None
            self.abort()
            what = "no TLS at" if self._target.tls and not self._secured else "lost the connection to"
            return bad(f"{what} port {self._target.port}: {error.strerror or error}")

    def _read(self, connected: socket.socket) -> ProbeResult | None:
        while self._received < _ANSWER_SIZE:
            data = connected.recv(_ANSWER_SIZE - self._received)
            self._answer += data
            self._received += len(data)
            result = self._judge(closed=not data)
            if result is not None:
                return self._end(result)
        return self._end(self._garbage())

    def _judge(self, *, closed: bool) -> ProbeResult | None:
        """Return the result by what was read so far; None if more may come."""
        found = _STATUS.match(self._answer)
        while found is not None and found[1].startswith(b"1") and found[1] != b"101":
            # It announces the answer proper, which comes behind an empty line (RFC 9110, 15.2).
            end = re.search(rb"\r?\n\r?\n", self._answer)
            if end is None:
                break
            self._answer = self._answer[end.end() :]
            found = _STATUS.match(self._answer)
        else:
            if found is not None:
                status = int(found[1])
                words = f"{status} {(found[2] or b'').decode(errors='replace')}".strip()
                return GOOD if 200 <= status < 400 else bad(f"port {self._target.port} answers {words}")
            if self._answer and not self._answer.startswith(_START[: len(self._answer)]):
                return self._garbage()
        if not closed:
            return None
        if self._answer:
            return self._garbage()
        return bad(f"port {self._target.port} closed the connection without an answer")

    def _garbage(self) -> ProbeResult:
        begin = self._answer[:_SHOWN].decode(errors="replace")
        return bad(f"port {self._target.port} does not answer in HTTP but with {begin!r}")

    def _end(self, result: ProbeResult) -> ProbeResult:
        self._close()
        return result

    def _secure(self, plain: socket.socket) -> socket.socket:
        """Return the socket with TLS, once the handshake is done; else an OSError says for what it waits."""
        secured = plain
        if not _is_tls(plain):
            secured = self._socket = _context().wrap_socket(
                plain, server_hostname=self._target.name or None, do_handshake_on_connect=False
            )
        secured.do_handshake()  # type: ignore[attr-defined]
        self._secured = True
        return secured


def _is_tls(found: socket.socket) -> bool:
    return hasattr(found, "do_handshake")


@functools.cache
def _context() -> ssl.SSLContext:
    """Return the context of all probes: it takes any certificate, and old ciphers, too."""
    # Only for probes with TLS: it takes some milliseconds and megabytes.
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def _wanted(error: OSError) -> int:
    """Return the event that TLS waits for; 0 if it is a real error."""
    import ssl

    if isinstance(error, ssl.SSLWantReadError):
        return select.EPOLLIN
    return select.EPOLLOUT if isinstance(error, ssl.SSLWantWriteError) else 0
