"""The API's server: accepts callers on the agent's socket, a thread for each, and stops within a deadline."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import socketserver
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from tank_agent.api import listener
from tank_agent.api.connection import Connection, Timeouts
from tank_agent.api.routes import ROUTES, Route, RouteTable
from tank_agent.api.types import ErrorBody
from tank_agent.api.wire import DEFAULT_GROUP, encode_error
from tank_agent.control.pods import Service
from tank_agent.errors import Retry, TankError, shortage

_LOG = structlog.get_logger()
_BACKLOG = 256
_RECEIVE = 1 << 16


class ApiServer:
    """Serves the agent at a socket for root and one group.

    Args:
        service: the agent. Its methods are called from many threads at once.
        socket_path: of any length; its directory is made if need be.
        group: whose members may call, besides root; without such a group only root may.
        routes: the table; tests add their own rows.
        limit: connections at once; further ones are refused with 503.
    """

    def __init__(
        self,
        service: Service,
        socket_path: Path,
        group: str = DEFAULT_GROUP,
        *,
        routes: Sequence[Route] = ROUTES,
        timeouts: Timeouts | None = None,
        limit: int = 256,
    ) -> None:
        self.service = service
        self.socket_path = socket_path
        self.routes = RouteTable(routes)
        self.group_name = group
        self.group: int | None = None
        self.timeouts = timeouts or Timeouts()
        self.stopping = threading.Event()
        # Readers who pause leave most connections to others.
        self.pauses = threading.Semaphore(limit // 4)
        self._limit = limit
        self._server: _Server | None = None
        self._acceptor: threading.Thread | None = None
        self._identity: tuple[int, int] | None = None
        # Of sockets that somebody removed: they serve who had called before.
        self._former: list[_Server] = []

    def start(self) -> None:
        """Listen, and answer from now on in threads of its own.

        Raises:
            Stalled: an agent answers at that socket already, or something else is in the way.
            OSError: the socket can't be made.
        """
        self.group = listener.group_id(self.group_name)
        bound = listener.listen(self.socket_path, self.group, _BACKLOG)
        self._identity = listener.identity(self.socket_path)
        self._server = _Server(bound, self, self._limit)
        self._acceptor = threading.Thread(target=self._server.serve_forever, name="api", daemon=True)
        self._acceptor.start()

    def check(self) -> bool:
        """Listen again if the socket is gone, or never could be made; return whether that was so.

        Raises:
            Stalled, OSError: as `start`.
        """
        if self._server is not None and listener.identity(self.socket_path) == self._identity:
            return False
        former = self._server
        self.start()
        self._former = [server for server in self._former if server.busy()]
        if former is not None:
            former.close_listener(None)
            self._former.append(former)
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """Stop listening and end every connection: answers under way may finish within `timeout` seconds."""
        if self._server is None or self._acceptor is None:
            return
        deadline = time.monotonic() + timeout
        self.stopping.set()
        self._server.close_listener(self.socket_path)
        self._acceptor.join(max(0.0, deadline - time.monotonic()))
        for server in (self._server, *self._former):
            server.end_connections(deadline)
        self._server = self._acceptor = None


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The standard library's server around a socket that is bound already."""

    daemon_threads = True

    def __init__(self, bound: socket.socket, host: ApiServer, limit: int) -> None:
        handler = type("BoundConnection", (Connection,), {"host": host})
        # The base class would bind by itself, and never uses its own socket here.
        socketserver.BaseServer.__init__(self, os.fspath(host.socket_path), handler)
        self.socket = bound
        self._host = host
        self._limit = limit
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        # Closed to accept one more caller, and answer why it is refused.
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def get_request(self) -> tuple[Any, Any]:
        try:
            connection, _ = self.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                self._refuse_one(error)
                # More callers are in the queue, so without a pause this would spin.
                self._host.stopping.wait(0.1)
            raise
        return connection, ("unix", 0)

    def _refuse_one(self, cause: OSError) -> None:
        """Answer the first caller in the queue with what the machine lacks."""
        lacking = shortage(cause)
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        with contextlib.suppress(OSError):
            connection, _ = self.socket.accept()
            _turn_away(connection, lacking or Retry(str(cause)))
            _close(connection)
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), name="api-caller", daemon=True
        )
        with self._lock:
            full = len(self._open) >= self._limit
            if not full:
                self._open[request] = thread
        if full:
            hint = "try again, and look who holds them: `ss -xp | grep tank.sock`"
            _turn_away(request, Retry(f"the agent serves {self._limit} connections already", hint=hint))
            self.shutdown_request(request)
            return
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        _close(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _LOG.exception("api: bug in a connection")

    def busy(self) -> bool:
        """Return whether a caller is still served."""
        with self._lock:
            return bool(self._open)

    def close_listener(self, path: Path | None) -> None:
        """Take no more callers; wakes the accepting thread at once. `path` goes, if it is still ours."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        if path is None:
            self.socket.close()
        else:
            listener.remove(path, self.socket)

    def end_connections(self, deadline: float) -> None:
        """Wake what reads, let what writes finish, and cut off what is left at the deadline."""
        for how, until in ((socket.SHUT_RD, deadline), (socket.SHUT_RDWR, deadline + 0.5)):
            with self._lock:
                left = dict(self._open)
                for connection in left:
                    with contextlib.suppress(OSError):
                        connection.shutdown(how)
            for thread in left.values():
                thread.join(max(0.0, until - time.monotonic()))


def _close(connection: socket.socket) -> None:
    """Close a connection without a reset, which is what a caller gets for a request that was left unread."""
    with contextlib.suppress(OSError):
        # From now on the caller can send no more, so that reading comes to an end without waiting.
        connection.shutdown(socket.SHUT_RDWR)
        while connection.recv(_RECEIVE):
            pass
    connection.close()


def _turn_away(connection: socket.socket, trouble: TankError) -> None:
    """Answer a caller why nobody serves it, without reading its request."""
    reason = ErrorBody(reason="busy", message=trouble.message, hint=trouble.hint)
    body = encode_error(reason)
    head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    connection.setblocking(False)
    with contextlib.suppress(OSError):
        connection.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
