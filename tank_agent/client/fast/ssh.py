"""An agent of another machine: a connection is an ssh of the user, and at its far end `tank dial`.

Through the shell of that machine go constant words and a quoted path only. Connections whose answer was read
are kept for the next request, since a new one takes longer than most answers.
"""

from __future__ import annotations

import _socket
import _thread
import atexit
import os
import re
import select
import shlex
import signal
import time
from typing import NamedTuple

from tank_agent.api.frames import DIAL_CONNECTED, DIAL_FAILED
from tank_agent.errors import AgentUnreachable, TankError

SCHEME = "ssh://"
# What scp sets, too: the user's settings for terminals must not come in the way; and a cut link is noticed.
_OPTIONS = (
    *("-T", "-a", "-x", "-oClearAllForwardings=yes", "-oRemoteCommand=none", "-oPermitLocalCommand=no"),
    *("-oConnectTimeout=30", "-oServerAliveInterval=15"),
)
# Ctrl-C is for the command at the other end, and not for the ssh that carries it.
_WITHOUT_INTERRUPTS = 'trap "" INT QUIT; exec "$@"'
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+$-]*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\]")
_PORT = re.compile(r"[0-9]{1,5}")
_LAST_PORT = 65535
# A name and a password before the last @; what is a host, a port and the path of a socket is parsed before.
_PASSWORD = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^@:]*:.*@(?P<place>.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FORM = "write ssh://[USER@]HOST[:PORT], an IPv6 address in brackets"
# Bytes that the other machine's shell may print before it runs the command.
_NOISE = 64 << 10
# Seconds for the last words of an ssh, and for one that was asked to end.
_LAST_WORDS = 0.5
_ENDS_WITHIN = 2.0
_SSH_FAILED, _NOT_FOUND, _NOT_EXECUTABLE, _USAGE = 255, 127, 126, 2
# What OpenSSH prints → what that means and what to do now. The first that fits counts.
_REASONS = (
    (
        "Could not resolve hostname",
        "there is no host of this name",
        "check its name, or its entry in ~/.ssh/config",
    ),
    (
        "IDENTIFICATION HAS CHANGED",
        "the host's key is another one than ~/.ssh/known_hosts has, so somebody may listen in",
        "if the machine was set up anew, `ssh-keygen -R HOST` forgets the old key",
    ),
    (
        "Host key verification failed",
        "the host's key is not known",
        "connect once with `ssh HOST`, and compare the key that it shows",
    ),
    (
        "Permission denied (",
        "ssh is not let in",
        "`ssh HOST` has to work: give the key or the user that the machine knows",
    ),
    (
        "Too many authentication failures",
        "ssh is not let in: it offered too many keys",
        "name the right one by IdentityFile and IdentitiesOnly in ~/.ssh/config",
    ),
    ("Connection refused", "no ssh server listens there", "start sshd there, or give its port"),
    ("timed out", "the host does not answer", "look whether it is up, and whether a firewall is between"),
    ("No route to host", "the host cannot be reached", "look whether it is up, and at the network"),
    ("Network is unreachable", "the host cannot be reached", "look at this machine's network"),
)


class HostAddress(NamedTuple):
    """Where an agent is: `user` and `port` are empty where ssh decides, `socket` if the other tank does."""

    user: str
    name: str
    port: str
    socket: str

    @property
    def host(self) -> str:
        """Return it as `--host` takes it."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        user, port = self.user and f"{self.user}@", self.port and f":{self.port}"
        return f"{SCHEME}{user}{name}{port}"

    def argv(self, *, batch: bool) -> list[str]:
        """Return the arguments of ssh; with `batch`, it asks the user nothing."""
        far = ["tank", "dial", *(["--socket", shlex.quote(self.socket)] if self.socket else [])]
        port, user = ["-p", self.port] if self.port else [], ["-l", self.user] if self.user else []
        questions = ["-oBatchMode=yes"] if batch else []
        return ["ssh", *_OPTIONS, *questions, *port, *user, "--", self.name, " ".join(far)]


def parse(text: str) -> HostAddress:
    """Return the parts of ssh://[USER@]HOST[:PORT][/SOCKET].

    Raises:
        TankError: it is none.
    """
    if not text.startswith(SCHEME):
        _refuse_password(text)
        name = text.removeprefix("-")
        hint = f"write {SCHEME}{name}" if _NAME.fullmatch(text) else _FORM
        raise TankError(f"{text!a} is not the address of an agent", hint=hint)
    authority, slash, path = text[len(SCHEME) :].partition("/")
    user, at, place = authority.rpartition("@")
    if ":" in user:
        _refuse_password(text)
    bracketed = _IPV6.match(place)
    name, rest = (bracketed[1], place[bracketed.end() :]) if bracketed else (place, "")
    if not bracketed:
        name, colon, port = place.partition(":")
        rest = f"{colon}{port}"
    good = bool(bracketed or _NAME.fullmatch(name)) and (not at or _USER.fullmatch(user))
    port = rest.removeprefix(":")
    if rest and (rest == port or not _PORT.fullmatch(port) or not 0 < int(port) <= _LAST_PORT):
        good = False
    if not good or _CONTROL.search(path):
        _refuse_password(text)
        raise TankError(f"{text!a} is not the address of an agent", hint=_FORM)
    return HostAddress(user, name, port, f"/{path}" if slash and path else "")


def _refuse_password(text: str) -> None:
    """Raise TankError, without it, if an address has a password in it: a terminal or a log would keep it."""
    if found := _PASSWORD.match(text):
        message = f"the address of {found['place']!a} is given with a password"
        raise TankError(message, hint="leave it away: ssh asks for it")


def address(host: str, socket: str | None = None) -> str:
    """Return the address for a host, and the path of the socket there.

    Raises:
        TankError: one of them is none.
    """
    found = parse(host)
    if socket and not socket.startswith("/"):
        message = f"the socket {socket!a} is on the other machine, so its path has to be absolute"
        raise TankError(message, hint="write it from / on, as in /run/tank/tank.sock")
    text = f"{found.host}{socket or found.socket}"
    parse(text)
    return text


class SshConnection(_socket.socket):
    """Bytes to and from an agent; the ssh that carries them ends when this is closed."""

    def __init__(self, ours: int, pid: int, errors: int, where: str, *, batch: bool) -> None:
        super().__init__(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, ours)
        self.where = where
        self.said = ""
        self._pid = pid
        self._code: int | None = None
        self._errors = errors
        self._tells = not batch and os.isatty(2)

    def greet(self, deadline: float | None) -> None:
        """Wait until the agent is reached, which may take as long as the user types a password.

        Raises:
            AgentUnreachable: it is not.
        """
        poller = select.poll()
        poller.register(self, select.POLLIN)
        poller.register(self._errors, select.POLLIN)
        received = b""
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = poller.poll(left)
            if not ready:
                hint = "look whether it is up, and at the network"
                raise AgentUnreachable("the host did not answer in time", where=self.where, hint=hint)
            for descriptor, _ in ready:
                if descriptor == self._errors:
                    if not self._listen():
                        poller.unregister(self._errors)
                    continue
                data = self.recv(4096)
                received += data
                if _is_greeting(received, self.where):
                    # From here on, the terminal may be the one of a command.
                    self._tells, self.said = False, ""
                    return
                if not data or len(received) > _NOISE:
                    raise self._failure(received)

    def _listen(self) -> bool:
        """Read what ssh has printed, and show it if it may be part of a dialogue; False at its end."""
        try:
            data = os.read(self._errors, 1 << 16)
        except BlockingIOError:
            return True
        self.said += data.decode(errors="replace")
        if self._tells:
            os.write(2, data)
        return bool(data)

    def last_words(self) -> str:
        """Return what ssh has printed, once it has ended or has had the time for that, as one line."""
        deadline = time.monotonic() + _LAST_WORDS
        poller = select.poll()
        poller.register(self._errors, select.POLLIN)
        while poller.poll(max(0.0, deadline - time.monotonic()) * 1000) and self._listen():
            pass
        lines = (line.strip() for line in self.said.splitlines())
        return "; ".join(line for line in lines if line.strip("@ "))

    def _failure(self, received: bytes) -> AgentUnreachable:
        if len(received) > _NOISE:
            hint = "let the files of its shell (~/.bashrc) print nothing if there is no terminal"
            return AgentUnreachable("the other machine prints text of its own", where=self.where, hint=hint)
        said, code = self.last_words(), self._end(_ENDS_WITHIN)
        name = parse(self.where).name
        message, hint = _meaning(code, said, received.decode(errors="replace").strip())
        shown = "" if self._tells or not said else f" (ssh: {said})"
        return AgentUnreachable(f"{message}{shown}", where=self.where, hint=hint.replace("HOST", name))

    def is_alive(self) -> bool:
        """Return whether nothing has come, also no end, since the last answer."""
        poller = select.poll()
        poller.register(self, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """End the connection; its ssh then ends by itself."""
        if self._leave():
            with _lock:
                _ending.append(self._pid)

    def _leave(self) -> bool:
        """Close this end; False if it is closed already."""
        with _lock:
            if self.fileno() < 0:
                return False
            super().close()
            os.close(self._errors)
            _open.remove(self)
            return True

    def kill(self) -> None:
        """End the connection and its ssh, which may be asking the user something."""
        self._leave()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._end(0.0) is None:
                os.kill(self._pid, number)
                self._end(_ENDS_WITHIN)

    def _end(self, seconds: float) -> int | None:
        """Return the exit code of the ssh, which is told only once; None if it goes on for some seconds."""
        if self._code is None:
            self._code = _wait(self._pid, seconds)
        return self._code


# Of this process: those that are open, by address those that wait for a request, and the ssh of closed ones.
_lock = _thread.allocate_lock()
_open: list[SshConnection] = []
_idle: dict[str, list[SshConnection]] = {}
_ending: list[int] = []


def connect(where: str, *, within: float | None = None, batch: bool = False) -> SshConnection:
    """Return a connection to the agent at an address: one that was kept, or a new one.

    Args:
        within: seconds for that; by default ssh's own limits count, since a user may have to type a password.
        batch: the user is asked nothing.

    Raises:
        AgentUnreachable: the host, ssh there, tank there or the agent cannot be reached.
        TankError: the address is none.
    """
    while (connection := _kept(where)) is not None:
        if connection.fileno() >= 0 and connection.is_alive():
            return connection
        connection.close()
    deadline = None if within is None else time.monotonic() + within
    connection = _started(where, batch=batch)
    try:
        connection.greet(deadline)
    except BaseException:
        connection.kill()
        raise
    return connection


def _kept(where: str) -> SshConnection | None:
    with _lock:
        kept = _idle.get(where)
        return kept.pop() if kept else None


def keep(connection: _socket.socket) -> None:
    """Keep a connection whose answer was read for the next request; a closed one is not used again."""
    if not isinstance(connection, SshConnection):
        return
    with _lock:
        _idle.setdefault(connection.where, []).append(connection)


def _started(where: str, *, batch: bool) -> SshConnection:
    """Start an ssh."""
    argv = parse(where).argv(batch=batch)
    program = next((path for path in _candidates() if os.access(path, os.X_OK)), None)
    if program is None:
        hint = "install openssh-client"
        raise AgentUnreachable("there is no ssh on this machine", where=where, hint=hint)
    _reap()
    ours, theirs = _socket.socketpair()
    # A pipe that is full must not stop an ssh that prints much.
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    streams = ((theirs.fileno(), 0), (theirs.fileno(), 1), (writer, 2))
    try:
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _WITHOUT_INTERRUPTS, "sh", program, *argv[1:]],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, descriptor, number) for descriptor, number in streams],
        )
    except BaseException:
        ours.close()
        os.close(reader)
        raise
    finally:
        theirs.close()
        os.close(writer)
    connection = SshConnection(ours.detach(), pid, reader, where, batch=batch)
    _open.append(connection)
    return connection


def lost(where: str) -> AgentUnreachable:
    """Return the error for a connection that ended too early."""
    ended = [one for one in list(_open) if one.where == where and not one.is_alive()]
    said = [connection.last_words() for connection in ended]
    text = next((f" (ssh: {words})" for words in said if words), "")
    message = f"the agent ended, or the connection to it broke off{text}"
    hint = f"`tank --host {parse(where).host} version` shows whether it can be reached again"
    return AgentUnreachable(message, where=where, hint=hint)


def _candidates() -> list[str]:
    return [os.path.join(directory, "ssh") for directory in os.get_exec_path()]


def _is_greeting(received: bytes, where: str) -> bool:
    """Return whether the agent is reached, once the line of `tank dial` is whole.

    Raises:
        AgentUnreachable: as the other machine tells it.
    """
    if DIAL_CONNECTED in received:
        return True
    _, failed, rest = received.partition(DIAL_FAILED)
    if not failed or b"\n" not in rest:
        return False
    from tank_agent.api.wire import decode_error

    error = decode_error(403, rest.partition(b"\n")[0])
    place = parse(where)
    raise AgentUnreachable(error.message, where=f"{place.host}{error.where or place.socket}", hint=error.hint)


def _meaning(code: int | None, said: str, printed: str) -> tuple[str, str]:
    """Return what an ssh that ended without a connection means, and what to do now."""
    if code == _SSH_FAILED:
        return next(
            ((message, hint) for text, message, hint in _REASONS if text in said),
            ("ssh failed", "`ssh HOST` has to work"),
        )
    if code == _NOT_FOUND:
        hint = "install tank-agent there, or let `ssh HOST tank version` find it on the PATH"
        return "there is no tank on that machine", hint
    if code == _NOT_EXECUTABLE:
        return "tank cannot be executed on that machine", "`ssh HOST tank version` has to work"
    if code == _USAGE:
        return "tank on that machine is too old to be reached from another", "update it there"
    ending = f"ended with code {code}" if code is not None and code >= 0 else "was ended"
    text = f" and printed {printed[-200:]!a}" if printed else ""
    return f"the command `tank dial` on that machine {ending}{text}", "`ssh HOST tank version` has to work"


def _wait(pid: int, seconds: float) -> int | None:
    """Return the exit code of a child, negative for a signal; None if it has none within some seconds."""
    try:
        poller, watched = select.poll(), os.pidfd_open(pid)
        try:
            poller.register(watched, select.POLLIN)
            poller.poll(seconds * 1000)
        finally:
            os.close(watched)
        ended, status = os.waitpid(pid, os.WNOHANG)
    except (ProcessLookupError, ChildProcessError):
        # Ctrl-C came when the kernel had told the end, and before that was noted.
        return _SSH_FAILED
    return os.waitstatus_to_exitcode(status) if ended else None


def _reap() -> None:
    """Let the kernel forget the ssh that have ended."""
    with _lock:
        _ending[:] = [pid for pid in _ending if _wait(pid, 0.0) is None]


@atexit.register
def close_all() -> None:
    """Close all connections of this process."""
    for connection in list(_open):
        connection.close()
