"""Accept callers at a listening socket, and serve each in a thread, up to the limit of its door."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time

import structlog

from tank_agent.api.connection import CallerConnection
from tank_agent.api.door import Door
from tank_agent.api.types import ErrorBody
from tank_agent.api.wire import encode_error
from tank_agent.errors import Retry, TankError, shortage

_LOG = structlog.get_logger()
BACKLOG = 256
_RECEIVE = 1 << 16
# The most that a caller may still send, in bytes and seconds, before its connection is closed with a reset.
_LINGER_SIZE = 1 << 20
_LINGER = 1.0


class Acceptor:
    """Accepts callers at one listening socket, and serves each in a thread of its own."""

    def __init__(self, bound: socket.socket, door: Door) -> None:
        self.socket = bound
        self._door = door
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closing = False
        # A spare descriptor: closed to accept one more caller, and answer why it is refused.
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name=door.name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        while not self._closing:
            # Accepting reserves a descriptor before it waits, so the lack of one would be found too late.
            poller.poll()
            try:
                connection, _ = self.socket.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    self._refuse_one(error)
                    # More callers are in the queue, so without a pause this loop would spin.
                    self._door.stopping.wait(0.1)
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
            connection, _ = self.socket.accept()
            _turn_away(connection, lacking or Retry(str(cause)))
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _close_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _admit(self, connection: socket.socket) -> None:
        name = f"{self._door.name}-caller"
        thread = threading.Thread(target=self._serve, args=(connection,), name=name, daemon=True)
        with self._lock:
            full = len(self._open) >= self._door.limit
            if not full:
                self._open[connection] = thread
        if full:
            message = f"the agent serves {self._door.limit} connections already"
            _turn_away(connection, Retry(message, hint=self._door.busy_hint))
        else:
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            CallerConnection(connection, self._door)
        except Exception:
            _LOG.exception("api: bug in a connection")
        finally:
            self._release(connection)

    def _release(self, connection: socket.socket) -> None:
        # A place is free when nothing of its former caller is left.
        lingers = not self._door.half_open and not self._door.stopping.is_set()
        _close(connection, _LINGER if lingers else 0.0)
        with self._lock:
            self._open.pop(connection, None)

    def busy(self) -> bool:
        """Return whether a caller is still served."""
        with self._lock:
            return bool(self._open)

    def close(self) -> None:
        """Take no more callers; the socket stays open for its owner to close."""
        self._closing = True
        with contextlib.suppress(OSError):
            # Wakes the accepting thread.
            self.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._close_spare()

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


def _close(connection: socket.socket, linger: float = 0.0) -> None:
    """Close a connection without a reset, which an unread request would cause otherwise.

    Over TCP it would reach the caller before it has read the answer: so `linger` is the seconds that it has
    to hear of the end, and to stop sending.
    """
    deadline, left = time.monotonic() + linger, _LINGER_SIZE
    with contextlib.suppress(OSError):
        # After an end of both directions the caller can send no more, so reading ends without waiting.
        connection.shutdown(socket.SHUT_WR if linger else socket.SHUT_RDWR)
        connection.settimeout(linger)
        while left > 0 and (received := connection.recv(_RECEIVE)):
            left -= len(received)
            if linger:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
    connection.close()


def _turn_away(connection: socket.socket, trouble: TankError) -> None:
    """Send a caller the reason why it is not served, without reading its request, and close."""
    body = encode_error(ErrorBody(reason="busy", message=trouble.message, hint=trouble.hint))
    head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    connection.setblocking(False)
    with contextlib.suppress(OSError):
        connection.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    _close(connection)
