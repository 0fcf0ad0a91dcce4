"""The API's server: accepts callers on the agent's socket, and speaks HTTP/1.1 with each in a thread.

It reads requests within limits, asks the handlers of `routes`, and stops within a deadline.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer
from typing import Any, cast
from urllib.parse import parse_qsl

import structlog
from msgspec import Struct

from tank_agent.api import listener
from tank_agent.api.request import Answer, RawConnection, Refused, Reply, Request, Stream, Upgrade, peer_of
from tank_agent.api.routes import ROUTES, Handler, answer, find_route
from tank_agent.api.stream import CallerGone, SocketReader, SocketWriter, TooBig, TooSlow, buffered, hung_up
from tank_agent.api.types import Call, ErrorBody
from tank_agent.api.wire import DEFAULT_GROUP, JOIN_GROUP, encode_error, error_body, http_status
from tank_agent.control.pods import Service
from tank_agent.errors import Retry, TankError, shortage

_LOG = structlog.get_logger()
_BACKLOG = 256
_RECEIVE = 1 << 16
# Far above any request of the client: a path, a few parameters, a handful of headers.
MAX_HEAD = 64 << 10
# Characters of a path that are logged.
_SHOWN = 200


class Timeouts(Struct, frozen=True, kw_only=True):
    """The seconds that a caller may take: until its next request, for a head, for a body, to read.

    Readers of streams may take longer, as long as they are not too many.
    """

    idle: float = 60.0
    head: float = 10.0
    body: float = 30.0
    write: float = 30.0


class ApiServer:
    """Serves the agent's API at a socket, for root and one group.

    Args:
        service: the agent. Its methods are called from many threads at once.
        socket_path: of any length; its directory is made if need be.
        group: the group whose members may call, besides root; without such a group only root may.
        routes: the handlers of the calls; tests add their own.
        limit: connections at once; further ones are refused with 503.
    """

    def __init__(
        self,
        service: Service,
        socket_path: Path,
        group: str = DEFAULT_GROUP,
        *,
        routes: Mapping[Call[Any], Handler] = ROUTES,
        timeouts: Timeouts | None = None,
        limit: int = 256,
    ) -> None:
        self.socket_path = socket_path
        self.service = service
        self.routes = routes
        self.group_name = group
        self.group: int | None = None
        self.timeouts = timeouts or Timeouts()
        self.limit = limit
        # Readers who pause leave most connections to others.
        self.pauses = threading.Semaphore(limit // 4)
        self.stopping = threading.Event()
        self._acceptor: _Acceptor | None = None
        self._identity: tuple[int, int] | None = None
        # The acceptors of removed sockets, which still have callers to serve.
        self._former: list[_Acceptor] = []

    def start(self) -> None:
        """Listen, and answer from now on in threads of its own.

        Raises:
            Stalled: an agent answers at that socket already, or something else is in the way.
            OSError: the socket can't be made.
        """
        self.group = listener.group_id(self.group_name)
        bound = listener.listen(self.socket_path, self.group, _BACKLOG)
        self._identity = listener.identity(self.socket_path)
        self._acceptor = _Acceptor(bound, self)

    def check(self) -> bool:
        """Listen again if the socket is gone, or never could be made; return whether that was so.

        Raises:
            Stalled, OSError: as `start`.
        """
        if self._acceptor is not None and listener.identity(self.socket_path) == self._identity:
            return False
        former = self._acceptor
        self.start()
        self._former = [acceptor for acceptor in self._former if acceptor.busy()]
        if former is not None:
            former.close(None)
            self._former.append(former)
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """Stop listening and end every connection: answers under way may finish within `timeout` seconds."""
        if self._acceptor is None:
            return
        deadline = time.monotonic() + timeout
        self.stopping.set()
        self._acceptor.close(self.socket_path)
        for acceptor in (self._acceptor, *self._former):
            acceptor.end_connections(deadline)
        self._acceptor = None


class _Acceptor:
    """Accepts callers at one socket, and serves each in a thread of its own."""

    def __init__(self, bound: socket.socket, host: ApiServer) -> None:
        self._socket = bound
        self._host = host
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closing = False
        # A spare descriptor: closed to accept one more caller, and answer why it is refused.
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        while not self._closing:
            # Accepting reserves a descriptor before it waits, so the lack of one would be found too late.
            poller.poll()
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    self._refuse_one(error)
                    # More callers are in the queue, so without a pause this loop would spin.
                    self._host.stopping.wait(0.1)
                continue
            try:
                self._admit(connection)
            except Exception:
                _LOG.exception("api: cannot serve a caller")
                self._release(connection)

    def _refuse_one(self, cause: OSError) -> None:
        """Answer the first caller in the queue with the error of `accept`."""
        lacking = shortage(cause)
        self._close_spare()
        with contextlib.suppress(OSError):
            connection, _ = self._socket.accept()
            _turn_away(connection, lacking or Retry(str(cause)))
            _close(connection)
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _close_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _admit(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(connection,), name="api-caller", daemon=True)
        with self._lock:
            full = len(self._open) >= self._host.limit
            if not full:
                self._open[connection] = thread
        if full:
            message = f"the agent serves {self._host.limit} connections already"
            hint = "try again, and look who holds them: `ss -xp | grep tank.sock`"
            _turn_away(connection, Retry(message, hint=hint))
            _close(connection)
        else:
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            _Connection(connection, self._host)
        except Exception:
            _LOG.exception("api: bug in a connection")
        finally:
            self._release(connection)

    def _release(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)
        _close(connection)

    def busy(self) -> bool:
        """Return whether a caller is still served."""
        with self._lock:
            return bool(self._open)

    def close(self, path: Path | None) -> None:
        """Take no more callers, and unlink `path` if it is still this socket's name."""
        self._closing = True
        with contextlib.suppress(OSError):
            # Wakes the accepting thread.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._close_spare()
        if path is None:
            self._socket.close()
        else:
            listener.remove(path, self._socket)

    def end_connections(self, deadline: float) -> None:
        """End connections that read, let those that write finish, and cut off the rest at the deadline."""
        for how, until in ((socket.SHUT_RD, deadline), (socket.SHUT_RDWR, deadline + 0.5)):
            with self._lock:
                left = dict(self._open)
                for connection in left:
                    with contextlib.suppress(OSError):
                        connection.shutdown(how)
            for thread in left.values():
                thread.join(max(0.0, until - time.monotonic()))


class _Connection(BaseHTTPRequestHandler):
    """One caller's connection, served until it closes."""

    protocol_version = "HTTP/1.1"
    server_version = "tank"
    sys_version = ""
    connection: socket.socket

    def __init__(self, connection: socket.socket, host: ApiServer) -> None:
        self.host = host
        # The base class only keeps the address and the server.
        super().__init__(connection, None, cast("BaseServer", host))

    def setup(self) -> None:
        """Give the base class a reader and a writer with deadlines."""
        self.connection = self.request
        self._times = self.host.timeouts
        self._reader = SocketReader(self.connection)
        self._buffer = io.BufferedReader(self._reader)
        self.rfile = self._buffer
        self.wfile = self._writer = SocketWriter(
            self.connection, self._times.write, self.host.stopping, self.host.pauses
        )
        self._peer = peer_of(self.connection)

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
        self.raw_requestline = self.rfile.readline(MAX_HEAD)
        if not self.raw_requestline.endswith(b"\n"):
            raise TooBig if len(self.raw_requestline) >= MAX_HEAD else CallerGone
        # False: the base class has answered a malformed head, through `send_error`.
        return self.parse_request()

    def _reply(self) -> tuple[Reply, str]:
        """Check the request and ask its route's handler; also return the protocol to upgrade to."""
        self._check_access("member")
        if self.request_version == "HTTP/0.9":
            raise Refused(505, "this is HTTP/0.9; HTTP/1.1 is spoken here")
        path, _, query = self.path.partition("?")
        try:
            call, handler, params = find_route(self.host.routes, self.command, path)
        except Refused:
            self._read_body(0)
            raise
        self._check_access(call.access)
        body = self._read_body(call.body)
        if "" in params.values():
            # Usually a script's variable that is not set.
            raise Refused(404, "the name is empty", hint="`tank list` shows all pods")
        if call.upgrade and self.headers.get("Upgrade", "").lower() != call.upgrade:
            raise Refused(426, f"this needs an upgrade of the connection to {call.upgrade}")
        request = Request(params=params, query=_query(query), body=body, peer=self._peer, ended=self._ended)
        reply = answer(handler, self.host.service, request)
        if call.changes:
            _LOG.info("asked", what=f"{call.method} {path[:_SHOWN]}", uid=self._peer.uid, pid=self._peer.pid)
        return reply, call.upgrade

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
            # The head is sent, so a stream without its last chunk must show the caller that it failed.
            _LOG.exception("api: bug while streaming", path=self.path)
            self.close_connection = True
            return
        finally:
            if close := getattr(stream.chunks, "close", None):
                close()
        if self.host.stopping.is_set():
            # A stopping agent has not sent everything: the caller must not take this for the end.
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
        # For an old version, or one not known yet, the base class would send no head.
        self.request_version = self.protocol_version
        if error is None:
            status, body = 500, ErrorBody(reason="bug", message="the agent failed; its log has the details")
        else:
            status = error.status if isinstance(error, Refused) else http_status(error)
            body = error_body(error)
        self._send_answer(Answer(status=status, body=encode_error(body)))

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


def _close(connection: socket.socket) -> None:
    """Close a connection without a reset, which an unread request would cause otherwise."""
    with contextlib.suppress(OSError):
        # After this the caller can send no more, so reading ends without waiting.
        connection.shutdown(socket.SHUT_RDWR)
        while connection.recv(_RECEIVE):
            pass
    connection.close()


def _turn_away(connection: socket.socket, trouble: TankError) -> None:
    """Send a caller the reason why it is not served, without reading its request."""
    body = encode_error(ErrorBody(reason="busy", message=trouble.message, hint=trouble.hint))
    head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    connection.setblocking(False)
    with contextlib.suppress(OSError):
        connection.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
