"""HTTP/1.1 over the agent's unix socket, with errors that say what to do about them."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

from msgspec import Struct

from tank_agent.api.wire import DEFAULT_GROUP, JOIN_GROUP, decode_error
from tank_agent.errors import AgentUnreachable

# `sun_path` holds 108 bytes with its NUL (unix(7)).
_MAX_SOCKET_PATH = 107
# Far above any answer of ours: the specs of ten thousand pods take some 10 MB.
_MAX_ANSWER = 256 << 20
_MAX_LINE = 1 << 20
_STUCK = "look at its log, and at the load of the machine"


class Transport(Struct, frozen=True, kw_only=True):
    """Makes one connection for each call, so that it holds no state and may be used from any thread."""

    socket_path: Path

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        timeout: float,
    ) -> bytes:
        """Make a request and return the answer's body; `path` is quoted already.

        Raises:
            AgentUnreachable: nobody answers in time, or we may not ask.
            TankError: what the agent raised.
        """
        connection = _Connection(self.socket_path, timeout)
        try:
            response = self._send(connection, method, _target(path, query), body)
            return self._body(response)
        finally:
            connection.close()

    def lines(
        self, path: str, query: Mapping[str, str], *, timeout: float | None, method: str = "GET"
    ) -> Iterator[bytes]:
        """Make a request and yield the answer line by line, as it comes.

        `timeout` limits the wait for the answer's beginning and for each line; None waits for ever.
        Raises as `call` does, also when the stream breaks off.
        """
        connection = _Connection(self.socket_path, timeout)
        try:
            response = self._send(connection, method, _target(path, query), None)
            while line := self._line(response):
                yield line
        finally:
            connection.close()

    def _send(
        self, connection: _Connection, method: str, target: str, body: bytes | None
    ) -> http.client.HTTPResponse:
        try:
            connection.connect()
        except OSError as error:
            raise unreachable(self.socket_path, error) from error
        try:
            try:
                connection.request(method, target, body)
            except (BrokenPipeError, ConnectionResetError):
                # Refused before all was sent: the reason is waiting to be read.
                response = http.client.HTTPResponse(connection.sock, method=method)
                response.begin()
            else:
                response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self.broken(error) from error
        if response.status != 200:
            raise decode_error(response.status, self._body(response))
        return response

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read(_MAX_ANSWER) if response.length is None else response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self.broken(error) from error

    def _line(self, response: http.client.HTTPResponse) -> bytes:
        try:
            line = response.readline(_MAX_LINE)
        except (OSError, http.client.HTTPException) as error:
            raise self.broken(error) from error
        # A stream that breaks off in a chunk ends without the newline; one between chunks raises above.
        if line and not line.endswith(b"\n"):
            raise self.broken(None)
        return line

    def broken(self, error: Exception | None) -> AgentUnreachable:
        """Return the error for a connection that ended too early, or where nothing came in time."""
        where = os.fspath(self.socket_path)
        if isinstance(error, TimeoutError):
            return AgentUnreachable(
                "the agent did not answer in time",
                where=where,
                hint=_STUCK,
            )
        return AgentUnreachable(
            "the agent ended, or broke the connection off",
            where=where,
            hint="its log says why",
        )


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("tank", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        path = os.fspath(self._path)
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
            self.sock.connect(path)
            return
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock.connect(f"/proc/self/fd/{directory}/{self._path.name}")
        finally:
            os.close(directory)


def _target(path: str, query: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(query, errors='surrogateescape')}" if query else path


def unreachable(path: Path, error: OSError) -> AgentUnreachable:
    """Return the error for a socket that cannot be connected to."""
    where = os.fspath(path)
    if isinstance(error, PermissionError):
        return AgentUnreachable(
            f"not allowed to talk to the agent: only root and members of group {DEFAULT_GROUP} are",
            where=where,
            hint=JOIN_GROUP.format(group=DEFAULT_GROUP),
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return AgentUnreachable(
            "the agent is not running: nobody listens at this socket",
            where=where,
            hint="start it with `systemctl start tank-agent` or `tank agent`; "
            "if it uses another run_dir, give --socket or set TANK_SOCKET",
        )
    if isinstance(error, TimeoutError | BlockingIOError):
        return AgentUnreachable("the agent does not answer", where=where, hint=_STUCK)
    return AgentUnreachable(f"cannot connect: {error.strerror or error}", where=where)
