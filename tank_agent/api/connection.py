"""Speaks HTTP/1.1 with one caller: reads requests within limits, finds their route, and sends the answers."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qsl

import structlog
from msgspec import Struct

from tank_agent.api.peer import Peer, peer_of
from tank_agent.api.request import Answer, RawConnection, Refused, Reply, Request, Stream, Upgrade
from tank_agent.api.routes import RouteTable
from tank_agent.api.stream import CallerGone, SocketReader, SocketWriter, TooBig, TooSlow, buffered, hung_up
from tank_agent.api.types import ErrorBody
from tank_agent.api.wire import JOIN_GROUP, encode_error, error_body, http_status
from tank_agent.control.pods import Service
from tank_agent.errors import TankError

_LOG = structlog.get_logger()
# Far above any request of the client: a path, a few parameters, a handful of headers.
MAX_HEAD = 64 << 10
# How much of a path is logged.
_SHOWN = 200


class Timeouts(Struct, frozen=True, kw_only=True):
    """How long a caller may take, in seconds: until its next request, for a head, for a body, to read.

    Who reads a stream may take longer, as long as not too many do.
    """

    idle: float = 60.0
    head: float = 10.0
    body: float = 30.0
    write: float = 30.0


class ServerFacts(Protocol):
    """The parts of a server that a connection needs."""

    service: Service
    routes: RouteTable
    group: int | None
    group_name: str
    timeouts: Timeouts
    stopping: threading.Event
    pauses: threading.Semaphore


class Connection(BaseHTTPRequestHandler):
    """One caller's connection, in a thread of its own until it closes."""

    protocol_version = "HTTP/1.1"
    server_version = "tank"
    sys_version = ""
    host: ServerFacts
    connection: socket.socket

    def setup(self) -> None:
        """Put our reader and writer between the base class and the socket."""
        self.connection = self.request
        self._times = self.host.timeouts
        self._reader = SocketReader(self.connection)
        self._buffer = io.BufferedReader(self._reader)
        self.rfile = self._buffer
        self.wfile = self._writer = SocketWriter(
            self.connection, self._times.write, self.host.stopping, self.host.pauses
        )
        self._peer: Peer = peer_of(self.connection)

    def finish(self) -> None:
        """Close nothing: the server closes the socket, and nothing is buffered."""

    def handle(self) -> None:
        """Answer requests until either side has had enough."""
        try:
            super().handle()
        except (CallerGone, TooBig, TooSlow):
            # Nobody is left to answer.
            self.close_connection = True

    def handle_one_request(self) -> None:
        """Read one request and answer it."""
        self.close_connection = True
        try:
            if not self._read_head():
                return
        except TooSlow:
            return self._send_error(Refused(408, "the request did not arrive in time"))
        except TooBig:
            return self._send_error(Refused(431, f"the head of the request exceeds {MAX_HEAD >> 10} KiB"))
        try:
            reply, protocol = self._reply()
        except TankError as error:
            return self._send_error(error)
        except (CallerGone, TooSlow):
            raise
        except Exception:
            # The last line of defence of this thread: a bug in one answer must not end the API.
            _LOG.exception("api: bug while answering", method=self.command, path=self.path)
            return self._send_error(None)
        self._send(reply, protocol)

    def _read_head(self) -> bool:
        """Read the request line and the headers; False if there is nothing to answer."""
        self._reader.allow(seconds=self._times.idle, size=MAX_HEAD)
        try:
            if not self._buffer.peek(1):
                return False
        except TooSlow:
            return False
        self._reader.allow(seconds=self._times.head, size=MAX_HEAD)
        self.raw_requestline = self.rfile.readline(MAX_HEAD)
        if not self.raw_requestline.endswith(b"\n"):
            raise TooBig if len(self.raw_requestline) >= MAX_HEAD else CallerGone
        # False: the base class has answered what was malformed, through `send_error`.
        return self.parse_request()

    def _reply(self) -> tuple[Reply, str]:
        """Check the request and ask its route's handler; also return the protocol to upgrade to."""
        self._check_access("member")
        if self.request_version == "HTTP/0.9":
            raise Refused(505, "this is HTTP/0.9; HTTP/1.1 is spoken here")
        path, _, query = self.path.partition("?")
        try:
            route, params = self.host.routes.find(self.command, path)
        except Refused:
            self._read_body(0)
            raise
        self._check_access(route.access)
        body = self._read_body(route.body)
        if "" in params.values():
            # An unset variable of a script is the usual reason.
            raise Refused(404, "the name is empty", hint="`tank list` shows all pods")
        if route.upgrade and self.headers.get("Upgrade", "").lower() != route.upgrade:
            raise Refused(426, f"this needs an upgrade of the connection to {route.upgrade}")
        request = Request(params=params, query=_query(query), body=body, peer=self._peer, ended=self._ended)
        reply = route.handler(self.host.service, request)
        if route.changes:
            _LOG.info("asked", what=f"{route.method} {path[:_SHOWN]}", uid=self._peer.uid, pid=self._peer.pid)
        return reply, route.upgrade

    def _check_access(self, access: str) -> None:
        if self._peer.member(self.host.group) and (access == "member" or self._peer.owner):
            return
        self.close_connection = True
        name = self.host.group_name
        who = f"root or a member of group {name}" if access == "member" else "root"
        raise Refused(
            403,
            f"user {self._peer.uid} may not do this: only {who} may",
            hint=JOIN_GROUP.format(group=name) if access == "member" else None,
        )

    def _read_body(self, limit: int) -> bytes:
        """Read the body, which keeps the connection usable for the next request.

        Raises:
            Refused: it is too long, of unknown length, or does not arrive.
        """
        keep, self.close_connection = self.close_connection, True
        if self.headers.get("Transfer-Encoding"):
            raise Refused(411, "the request needs a Content-Length")
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 16):
            raise Refused(400, "the Content-Length is not a number")
        size = int(length)
        if size > limit:
            raise Refused(413, f"the body has {size} bytes, more than the {limit} that are possible here")
        self._reader.allow(seconds=self._times.body, size=size)
        try:
            body = self.rfile.read(size)
        except TooSlow:
            raise Refused(408, "the body of the request did not arrive in time") from None
        if len(body) < size:
            raise CallerGone
        self.close_connection = keep
        return body

    def _ended(self) -> bool:
        return self.host.stopping.is_set() or hung_up(self.connection)

    def _send(self, reply: Reply, protocol: str) -> None:
        if isinstance(reply, Answer):
            self._send_answer(reply)
        elif isinstance(reply, Stream):
            self._send_stream(reply)
        else:
            self._hand_over(reply, protocol)

    def _send_answer(self, answer: Answer) -> None:
        if self.host.stopping.is_set():
            self.close_connection = True
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body))}
        if self.close_connection:
            headers["Connection"] = "close"
        self._send_head(answer.status, headers)
        self.wfile.write(answer.body)

    def _send_stream(self, stream: Stream) -> None:
        headers = {"Content-Type": stream.content_type}
        # HTTP/1.0 knows no chunks: there the end of the connection is the end of the stream.
        chunked = self.request_version != "HTTP/1.0"
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            self.close_connection = True
        self._send_head(200, headers)
        try:
            for chunk in stream.chunks:
                self._writer.write_stream(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        except CallerGone:
            raise
        except Exception:
            # The head is out: a stream that breaks off without its last chunk is how the caller learns of it.
            _LOG.exception("api: bug while streaming", path=self.path)
            self.close_connection = True
            return
        finally:
            close = getattr(stream.chunks, "close", None)
            if close:
                close()
        if self.host.stopping.is_set():
            # A stopping agent has not sent all: the caller must not take this for the end.
            self.close_connection = True
        elif chunked:
            self._writer.write_stream(b"0\r\n\r\n")

    def _hand_over(self, upgrade: Upgrade, protocol: str) -> None:
        self.close_connection = True
        self._send_head(101, {"Connection": "Upgrade", "Upgrade": protocol})
        received = buffered(self._buffer, self._reader)
        self.connection.settimeout(None)
        try:
            upgrade.run(RawConnection(socket=self.connection, received=received, stopping=self.host.stopping))
        except OSError as error:
            raise CallerGone from error
        except Exception:
            _LOG.exception("api: bug in an upgraded connection", path=self.path)

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _send_error(self, error: TankError | None) -> None:
        # The base class sends no head to a caller whose version is old, or not known yet.
        self.request_version = self.protocol_version
        if error is None:
            status, body = 500, ErrorBody(reason="bug", message="the agent failed; its log has the details")
        else:
            status = error.status if isinstance(error, Refused) else http_status(error)
            body = error_body(error)
        self._send_answer(Answer(status=status, body=encode_error(body)))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the base class found malformed, in our own form."""
        self.close_connection = True
        self._send_error(Refused(code, message or explain or "the request is malformed"))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing here: who asked for a change is logged once it was granted."""


def _query(text: str) -> dict[str, str]:
    try:
        # Bytes that are no UTF-8 are kept as Python keeps them in file names.
        return dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=100))
    except ValueError:
        raise Refused(400, "the query has too many parameters") from None
