"""Read and write a connection with deadlines, so that a stuck caller holds nothing but its own thread."""

from __future__ import annotations

import io
import select
import socket
import time
from threading import Event, Semaphore
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


# Seconds until the writer notices that a caller who does not read has left, or that the agent stops.
_LOOK = 0.5


class CallerGone(Exception):
    """The caller hung up, or stopped reading: there is nobody left to answer."""


class TooSlow(Exception):
    """The rest of the caller's request did not arrive in time."""


class TooBig(Exception):
    """The caller sent more than it may."""


class SocketReader(io.RawIOBase):
    """Reads a socket until a deadline and up to a number of bytes, both set by `allow` for each part."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = 0.0
        self._left = 0

    def allow(self, *, seconds: float, size: int) -> None:
        """Set how long and how much may be read from now on."""
        self._deadline = time.monotonic() + seconds
        self._left = size

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what is there, waiting for it until the deadline.

        Raises:
            TooSlow: nothing came in time.
            TooBig: everything that was allowed has been read already.
            CallerGone: the connection broke.
        """
        view = memoryview(buffer).cast("B")
        if self._left <= 0:
            raise TooBig
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TooSlow
        self._connection.settimeout(left)
        try:
            size = self._connection.recv_into(view[: self._left])
        except TimeoutError:
            raise TooSlow from None
        except OSError as error:
            raise CallerGone from error
        self._left -= size
        return size


class SocketWriter(io.BufferedIOBase):
    """Writes all of its data, within `seconds` for each call.

    `stopping` is set when the agent stops; `pauses` counts the readers of streams that may take longer.
    """

    def __init__(self, connection: socket.socket, seconds: float, stopping: Event, pauses: Semaphore) -> None:
        self._connection = connection
        self._seconds = seconds
        self._stopping = stopping
        self._pauses = pauses

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Send everything.

        Raises:
            CallerGone: it does not read, or hung up.
        """
        self._connection.settimeout(self._seconds)
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise CallerGone from error
        return memoryview(data).nbytes

    def write_stream(self, data: bytes) -> None:
        """Send everything to a caller that may read it hours later, such as a pager or a paused terminal.

        Raises:
            CallerGone: it hung up, the agent stops, or too many others do not read either.
        """
        self._connection.setblocking(False)
        poller = select.poll()
        poller.register(self._connection, select.POLLOUT)
        deadline = time.monotonic() + self._seconds
        left = memoryview(data)
        pauses = False
        try:
            while left:
                try:
                    left = left[self._connection.send(left) :]
                    continue
                except BlockingIOError:
                    if poller.poll(_LOOK * 1000):
                        continue
                if self._stopping.is_set():
                    raise CallerGone
                if not pauses and time.monotonic() > deadline:
                    pauses = self._pauses.acquire(blocking=False)
                    if not pauses:
                        raise CallerGone
        except OSError as error:
            raise CallerGone from error
        finally:
            if pauses:
                self._pauses.release()


def hung_up(connection: socket.socket, *, half: bool = False) -> bool:
    """Return whether the peer has closed its end for both directions; with `half`, also only for sending."""
    poller = select.poll()
    poller.register(connection, select.POLLRDHUP if half else 0)
    return bool(poller.poll(0))


def buffered(buffer: io.BufferedReader[SocketReader], reader: SocketReader) -> bytes:
    """Take what was read from the socket but not yet out of the buffer, without reading more."""
    reader.allow(seconds=0, size=1)
    try:
        return buffer.read(len(buffer.peek()))
    except TooSlow:
        return b""
