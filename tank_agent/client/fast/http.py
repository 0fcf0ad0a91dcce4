"""HTTP/1.1 on the agent's socket, as far as its answers need it; every verb that asks the agent uses it.

To import http.client would take longer than all of this, and socket's enumerations a third of Python's start.
Only errors import what they need, when there is one.
"""

from __future__ import annotations

import _socket
import os

from tank_agent.api.frames import PROTOCOL

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from tank_agent.errors import AgentUnreachable

DEFAULT_SOCKET = "/run/tank/tank.sock"
# `sun_path` holds 108 bytes with its NUL (unix(7)).
_MAX_SOCKET_PATH = 107
_MAX_HEAD = 64 << 10
_RECEIVE = 256 << 10
_TIMEOUT = 30.0
_STUCK = "look at its log, and at the load of the machine"
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Answered:
    """An answer whose head was read: `received` came behind it, further bytes are still in the socket."""

    def __init__(
        self, status: int, headers: Mapping[str, str], connection: _socket.socket, received: bytes
    ) -> None:
        self.status = status
        self.headers = headers
        self.connection = connection
        self.received = received


def quote(text: str) -> str:
    """Quote a text as one segment of a path, or as a value in a query."""
    return "".join(
        char if char in _UNRESERVED else "".join(f"%{byte:02X}" for byte in os.fsencode(char))
        for char in text
    )


def socket_path(path: str | os.PathLike[str] | None) -> str:
    """Return the socket to use, the given one, $TANK_SOCKET or the default; an address stays as it is."""
    return os.fspath(path) if path else os.environ.get("TANK_SOCKET") or DEFAULT_SOCKET


def address(socket: str | os.PathLike[str] | None, host: str | None) -> str:
    """Return the path of a socket, or the address of another machine and a socket there.

    Raises:
        TankError: it is none.
    """
    host = host or (os.environ.get("TANK_HOST") if socket is None else None)
    if not host:
        return socket_path(socket)
    from tank_agent.client.fast import ssh

    return ssh.address(host, os.fspath(socket) if socket else os.environ.get("TANK_SOCKET"))


def target_path(name: str, verb: str, query: Mapping[str, str] | None = None) -> str:
    """Return the target of a request about `POD` or `POD/CONTAINER`."""
    pod, slash, container = name.partition("/")
    pairs = {**({"container": container} if slash else {}), **(query or {})}
    return with_query(f"/v1/pods/{quote(pod)}/{verb}", pairs)


def with_query(path: str, query: Mapping[str, str] | None) -> str:
    """Return the target of a request for a path, which is quoted already."""
    text = "&".join(f"{key}={quote(value)}" for key, value in (query or {}).items())
    return f"{path}?{text}" if text else path


class Asked:
    """A request that was sent; its answer is still to come."""

    def __init__(self, path: str, connection: _socket.socket) -> None:
        self._path = path
        self._connection = connection

    def comes(self, seconds: float) -> bool:
        """Return whether the answer, or the end of the connection, comes within so many seconds."""
        before = self._connection.gettimeout()
        self._connection.settimeout(seconds)
        try:
            self._connection.recv(1, _socket.MSG_PEEK)
        except TimeoutError:
            return False
        except OSError:
            # `answer` tells it.
            pass
        finally:
            self._connection.settimeout(before)
        return True

    def answer(self, *, expected: int, timeout: float | None = None) -> Answered:
        """Read the head of the answer; `timeout` is the connection's afterwards, in seconds.

        Raises:
            AgentUnreachable: the agent has gone.
            TankError: what the agent raised.
        """
        try:
            try:
                answered = _read_head(self._connection)
            except OSError as error:
                raise lost(self._path, error) from error
            if answered.status != expected:
                from tank_agent.api.wire import decode_error

                raise decode_error(answered.status, _body(answered, self._path))
            self._connection.settimeout(timeout)
            return answered
        except BaseException:
            self._connection.close()
            raise


def ask(
    path: str,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    timeout: float | None = _TIMEOUT,
) -> Asked:
    """Send a request; `timeout` is how long each step may take until the answer begins, in seconds.

    Raises:
        AgentUnreachable: nobody answers.
    """
    lines = [f"{method} {target} HTTP/1.1", "Host: tank", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
    connection = connect(path, timeout)
    try:
        try:
            _send(connection, "\r\n".join([*lines, "", ""]).encode() + body)
        except OSError as error:
            raise lost(path, error) from error
        return Asked(path, connection)
    except BaseException:
        connection.close()
        raise


def connect(path: str, timeout: float | None) -> _socket.socket:
    """Return a connection to the agent at a socket, or at the address of another machine.

    Raises:
        AgentUnreachable: nobody answers.
    """
    if path.startswith("ssh://"):
        from tank_agent.client.fast import ssh

        distant = ssh.connect(path)
        distant.settimeout(timeout)
        return distant
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        _connect(connection, path)
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError):
            raise _unreachable(path, error) from error
        raise
    return connection


def ask_for_session(
    path: str, target: str, body: bytes = b"", within: float = 30.0, method: str = "POST"
) -> Asked:
    """Ask for a session, which the agent answers with 101 after at most `within` seconds; raises as `ask`."""
    headers = {"Connection": "Upgrade", "Upgrade": PROTOCOL}
    return ask(path, method, target, headers, body, timeout=within + _TIMEOUT)


def whole(answered: Answered, path: str) -> bytes:
    """Return the body of an answer with a Content-Length; closes the connection, or keeps it.

    Raises:
        AgentUnreachable: it breaks off.
    """
    keeps = path.startswith("ssh://") and answered.headers.get("connection") != "close"
    try:
        body = _body(answered, path)
    except BaseException:
        keeps = False
        raise
    finally:
        if not keeps:
            answered.connection.close()
    if keeps:
        from tank_agent.client.fast import ssh

        ssh.keep(answered.connection)
    return body


def _body(answered: Answered, path: str) -> bytes:
    length = _number(answered.headers.get("content-length", ""), 10, path)
    pieces, left = [answered.received], length - len(answered.received)
    while left > 0:
        pieces.append(_receive(answered.connection, path))
        left -= len(pieces[-1])
    return b"".join(pieces)


def chunks(answered: Answered, path: str) -> Generator[bytes, None, None]:
    """Yield the body of an answer that comes in chunks, until its end; closes the connection.

    Raises:
        AgentUnreachable: it breaks off.
    """
    connection, data = answered.connection, answered.received
    try:
        while True:
            while b"\r\n" not in data:
                data += _receive(connection, path)
            size, _, data = data.partition(b"\r\n")
            left = _number(size, 16, path)
            if left == 0:
                return
            while left:
                data = data or _receive(connection, path)
                piece, data = data[:left], data[left:]
                left -= len(piece)
                yield piece
            while len(data) < len(b"\r\n"):
                data += _receive(connection, path)
            data = data[len(b"\r\n") :]
    finally:
        connection.close()


def lines(answered: Answered, path: str) -> Generator[bytes, None, None]:
    """Yield the lines of an answer that comes in chunks, as `chunks` does."""
    rest = b""
    for chunk in chunks(answered, path):
        *complete, rest = (rest + chunk).split(b"\n")
        yield from complete
    if rest:
        # The connection broke within a line, but between two chunks.
        raise lost(path)


def _receive(connection: _socket.socket, path: str) -> bytes:
    try:
        received = connection.recv(_RECEIVE)
    except OSError as error:
        raise lost(path, error) from error
    if not received:
        raise lost(path)
    return received


def lost(path: str, error: OSError | None = None) -> AgentUnreachable:
    """Return the error for a connection that ended too early, or where nothing came in time."""
    from tank_agent.errors import AgentUnreachable

    if isinstance(error, TimeoutError):
        return AgentUnreachable("the agent did not answer in time", where=path, hint=_STUCK)
    if path.startswith("ssh://"):
        from tank_agent.client.fast import ssh

        return ssh.lost(path)
    message = "the agent ended, or broke the connection off"
    return AgentUnreachable(message, where=path, hint="its log says why")


def _unreachable(path: str, error: OSError) -> AgentUnreachable:
    """Return the error for a socket that cannot be connected to."""
    from tank_agent.api.wire import DEFAULT_GROUP, JOIN_GROUP
    from tank_agent.errors import AgentUnreachable

    if isinstance(error, PermissionError):
        message = f"not allowed to talk to the agent: only root and members of group {DEFAULT_GROUP} are"
        return AgentUnreachable(message, where=path, hint=JOIN_GROUP.format(group=DEFAULT_GROUP))
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return AgentUnreachable(
            "the agent is not running: nobody listens at this socket",
            where=path,
            hint="start it with `systemctl start tank-agent` or `tank agent`; "
            "if it uses another run_dir, give --socket or set TANK_SOCKET",
        )
    if isinstance(error, TimeoutError | BlockingIOError):
        return AgentUnreachable("the agent does not answer", where=path, hint=_STUCK)
    return AgentUnreachable(f"cannot connect: {error.strerror or error}", where=path)


def _connect(connection: _socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        connection.connect(path)
        return
    directory, name = os.path.split(path)
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{opened}/{name}")
    finally:
        os.close(opened)


def _send(connection: _socket.socket, request: bytes) -> None:
    try:
        connection.sendall(request)
    except (BrokenPipeError, ConnectionResetError):
        # Refused before all was sent: the reason is waiting to be read.
        return


def _number(text: str | bytes, base: int, path: str) -> int:
    try:
        return int(text, base)
    except ValueError:
        # It is not our agent that answers like this.
        raise lost(path) from None


def _read_head(connection: _socket.socket) -> Answered:
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(_RECEIVE)
        if not received or len(data) > _MAX_HEAD:
            raise ConnectionResetError
        data += received
    text, _, rest = data.partition(b"\r\n\r\n")
    status, *lines = text.decode("latin-1").split("\r\n")
    if not status.startswith("HTTP/1.1 ") or not status[9:12].isdigit():
        raise ConnectionResetError
    pairs = (line.partition(":") for line in lines)
    headers = {key.lower(): value.strip() for key, _, value in pairs}
    return Answered(int(status[9:12]), headers, connection, rest)
