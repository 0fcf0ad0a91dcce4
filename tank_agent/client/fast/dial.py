"""`tank dial`: carries one connection to this machine's agent, for `tank --host` on another one."""

from __future__ import annotations

import _thread
import os

from tank_agent.api.frames import DIAL_CONNECTED, DIAL_FAILED
from tank_agent.client.fast import http

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import argparse

_PIECE = 1 << 16


def read_dial(words: list[str]) -> argparse.Namespace | None:
    """Return the arguments of `tank dial [--socket S]`; None if they are others."""
    from types import SimpleNamespace

    if words and (len(words) != 2 or words[0] != "--socket"):
        return None
    socket = words[1] if words else None
    return SimpleNamespace(socket=socket, run=run, version=False, debug=False)  # type: ignore[return-value]


def run(arguments: argparse.Namespace) -> int:
    """Connect, and carry bytes until either side ends."""
    from tank_agent.errors import AgentUnreachable

    try:
        connection = http.connect(http.socket_path(arguments.socket), None)
    except AgentUnreachable as error:
        from tank_agent.api.wire import encode_error, error_body

        _write(DIAL_FAILED + encode_error(error_body(error)) + b"\n")
        return 1
    _write(DIAL_CONNECTED)
    _thread.start_new_thread(_send, (connection,))
    try:
        while data := connection.recv(_PIECE):
            _write(data)
    except OSError:
        # One of the two is gone, which is the end of the other.
        pass
    return 0


def _send(connection: _socket.socket) -> None:
    """Pass on standard input; its end ends the connection, as when a client closes it."""
    import _socket

    try:
        while data := os.read(0, _PIECE):
            connection.sendall(data)
        connection.shutdown(_socket.SHUT_RDWR)
    except OSError:
        pass


def _write(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]
