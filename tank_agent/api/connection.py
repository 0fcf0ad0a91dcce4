"""Speak HTTP/1.1 with one caller: read requests within limits, ask their handlers, and send the replies."""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer
from typing import Any, cast
from urllib.parse import parse_qsl

import structlog

from tank_agent.api.door import Door
from tank_agent.api.request import Answer, Head, RawConnection, Refused, Reply, Request, Stream, Upgrade
from tank_agent.api.routes import answer, find_route
from tank_agent.api.stream import CallerGone, SocketReader, SocketWriter, TooBig, TooSlow, buffered, hung_up
from tank_agent.api.types import ErrorBody
from tank_agent.api.wire import encode_error, error_body, http_status
from tank_agent.errors import TankError

_LOG = structlog.get_logger()
# Far above any request of the client: a path, a few parameters, a handful of headers.
MAX_HEAD = 64 << 10
# Characters of a path that are logged.
_SHOWN = 200
# RFC 9110, section 5.1. The base class takes more, and a proxy in front may read that otherwise than we do.
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00\r\n]*\r?\n")
_UNPRINTABLE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")


class CallerConnection(BaseHTTPRequestHandler):
    """One caller's connection, served until it closes."""

    protocol_version = "HTTP/1.1"
    server_version = "tank"
    sys_version = ""
    connection: socket.socket

    def __init__(self, connection: socket.socket, door: Door) -> None:
        self.door = door
        # The base class only keeps the address and the server.
        super().__init__(connection, None, cast("BaseServer", door))

    def setup(self) -> None:
        """Give the base class a reader and a writer with deadlines."""
        self.connection = self.request
        self._times = self.door.timeouts
        self._reader = SocketReader(self.connection)
        self._buffer = io.BufferedReader(self._reader)
        self.rfile = self._buffer
        self.wfile = self._writer = SocketWriter(
            self.connection, self._times.write, self.door.stopping, self.door.pauses
        )
        self._peer = self.door.meet(self.connection)

    def finish(self) -> None:
        """Close nothing: the server closes the socket, and nothing is buffered."""

    def handle(self) -> None:
        """Answer requests until either side ends the connection."""
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
        if isinstance(reply, Answer):
            self._send_answer(reply)
        elif isinstance(reply, Stream):
            self._send_stream(reply)
        else:
            self._hand_over(reply, protocol)

    def _read_head(self) -> bool:
        """Read the request line and the headers; False if there is nothing to answer."""
        self._reader.allow(seconds=self._times.idle, size=MAX_HEAD)
        try:
            if not self._buffer.peek(1):
                return False
        except TooSlow:
            return False
        self._reader.allow(seconds=self._times.head, size=MAX_HEAD)
        self.command = ""
        self.raw_requestline = self._read_line()
        well_formed, lines = not _UNPRINTABLE.search(self.raw_requestline), list[bytes]()
        # Only a request line of three words is followed by more.
        if well_formed and len(self.raw_requestline.split()) == 3:
            while lines[-1:] not in ([b"\r\n"], [b"\n"]):
                lines.append(self._read_line())
            well_formed = all(map(_FIELD.fullmatch, lines[:-1]))
        if not well_formed:
            self.send_error(400, "the head of the request is malformed")
            return False
        self.rfile = io.BytesIO(b"".join(lines))
        try:
            # False: the base class has answered a malformed head, through `send_error`.
            return self.parse_request()
        finally:
            self.rfile = self._buffer

    def _read_line(self) -> bytes:
        line = self._buffer.readline(MAX_HEAD)
        if not line.endswith(b"\n"):
            raise TooBig if len(line) >= MAX_HEAD else CallerGone
        return line

    def _reply(self) -> tuple[Reply, str]:
        """Check the request and ask its route's handler; also return the protocol to upgrade to."""
        path, _, query = self.path.partition("?")
        # Only a proxy in front could make two of them, and could mean the other one.
        if len(self.headers.get_all("Content-Length", ())) > 1:
            self.close_connection = True
            raise Refused(400, "the request has more than one Content-Length")
        try:
            method = self.door.admit(self._peer, Head(method=self.command, path=path, headers=self.headers))
        except Refused:
            self.close_connection = True
            raise
        if self.request_version == "HTTP/0.9":
            raise Refused(505, "this is HTTP/0.9; HTTP/1.1 is spoken here")
        try:
            call, handler, params = find_route(self.door.routes, method, path)
        except Refused:
            self._read_body(0)
            raise
        try:
            self.door.allow(self._peer, call)
        except Refused:
            self.close_connection = True
            raise
        body = self._read_body(call.body)
        if "" in params.values():
            # Usually a script's variable that is not set.
            raise Refused(404, "the name is empty", hint="`tank list` shows all pods")
        if call.upgrade and self.headers.get("Upgrade", "").lower() != call.upgrade:
            raise Refused(426, f"this needs an upgrade of the connection to {call.upgrade}")
        request = Request(params=params, query=_query(query), body=body, peer=self._peer, ended=self._ended)
        reply = answer(handler, self.door.service, request)
        if call.changes:
            _LOG.info("asked", what=f"{call.method} {path[:_SHOWN]}", uid=self._peer.uid, pid=self._peer.pid)
        return reply, call.upgrade

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
        return self.door.stopping.is_set() or hung_up(self.connection, half=not self.door.half_open)

    def _send_answer(self, answer: Answer) -> None:
        if self.door.stopping.is_set():
            self.close_connection = True
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body))}
        if self.close_connection:
            headers["Connection"] = "close"
        self._send_head(answer.status, {**headers, **answer.headers})
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _send_stream(self, stream: Stream) -> None:
        headers = {"Content-Type": stream.content_type, **stream.headers}
        # HTTP/1.0 knows no chunks: there the end of the connection is the end of the stream.
        chunked = self.request_version != "HTTP/1.0"
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            self.close_connection = True
        write = self._writer.write_stream if stream.patient else self._writer.write
        try:
            self._send_head(200, headers)
            for chunk in stream.chunks if self.command != "HEAD" else ():
                write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        except CallerGone:
            raise
        except Exception:
            # The head is sent, so a stream without its last chunk must show the caller that it failed.
            _LOG.exception("api: bug while streaming", path=self.path)
            self.close_connection = True
            return
        finally:
            if close := getattr(stream.chunks, "close", None):
                close()
        if self.door.stopping.is_set():
            # A stopping agent has not sent everything: the caller must not take this for the end.
            self.close_connection = True
        elif chunked and self.command != "HEAD":
            write(b"0\r\n\r\n")

    def _hand_over(self, upgrade: Upgrade, protocol: str) -> None:
        self.close_connection = True
        self._send_head(101, {"Connection": "Upgrade", "Upgrade": protocol})
        received = buffered(self._buffer, self._reader)
        self.connection.settimeout(None)
        try:
            upgrade.run(RawConnection(socket=self.connection, received=received, stopping=self.door.stopping))
        except OSError as error:
            raise CallerGone from error
        except Exception:
            _LOG.exception("api: bug in an upgraded connection", path=self.path)

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for key, value in {**self.door.headers, **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def _send_error(self, error: TankError | None) -> None:
        # For an old version, or one not known yet, the base class would send no head.
        self.request_version = self.protocol_version
        if error is None:
            status, body = 500, ErrorBody(reason="bug", message="the agent failed; its log has the details")
        else:
            status = error.status if isinstance(error, Refused) else http_status(error)
            body = error_body(error)
        more = error.headers if isinstance(error, Refused) else {}
        self._send_answer(Answer(status=status, body=encode_error(body), headers=more))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that the base class found malformed, in the form of the API."""
        self.close_connection = True
        self._send_error(Refused(code, message or explain or "the request is malformed"))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a caller that makes a change is logged once it was made."""


def _query(text: str) -> dict[str, str]:
    try:
        # Bytes that are no UTF-8 are decoded as in file names.
        return dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=100))
    except ValueError:
        raise Refused(400, "the query has too many parameters") from None
