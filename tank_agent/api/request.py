"""The request that a handler gets, its caller, and the three kinds of answers that a handler can give."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from email.message import Message

from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.linux.channels import peer_credentials, peer_groups
from tank_agent.linux.users import user_name
from tank_agent.spec.printable import to_json


class Peer(Struct, frozen=True, kw_only=True):
    """The process that connected, with the credentials that it had at that moment.

    Over TCP nothing is known of it but its address, and `local`, the one that it called.
    """

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()
    address: str = ""
    local: str = ""

    @property
    def user(self) -> str:
        """Return the name of its user, as events have it."""
        return user_name(self.uid)

    @property
    def owner(self) -> bool:
        """Return whether it is root, or the user that the agent itself runs as."""
        return self.uid in (0, os.geteuid())

    def member(self, group: int | None) -> bool:
        """Return whether it may use the API: the owner, or in the group of this number."""
        return self.owner or (group is not None and (group == self.gid or group in self.groups))


def peer_of(connection: socket.socket) -> Peer:
    """Return the credentials of the process that connected, as the kernel noted them.

    The groups are the kernel's list, not the group file's: the socket's mode is checked against the same one,
    and a name service that hangs can't stop the API.

    Raises:
        OSError: the socket is not a connected unix socket.
    """
    pid, uid, gid = peer_credentials(connection)
    return Peer(pid=pid, uid=uid, gid=gid, groups=peer_groups(connection))


class Refused(TankError):
    """A request that never reached the agent: malformed, too big, not allowed, or to no known route."""

    reason = "refused"

    def __init__(
        self,
        status: int,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status = status
        self.headers = headers or {}


class Head(Struct, frozen=True, kw_only=True):
    """What a request asks for: its path without the query, and its headers."""

    method: str
    path: str
    headers: Message


class Request(Struct, frozen=True, kw_only=True):
    """One request, checked and read whole.

    `params` are the named parts of the path. `ended` returns True once the caller has hung up or the server
    stops: a handler that waits looks at it between its slices.
    """

    params: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    peer: Peer
    ended: Callable[[], bool]

    def seconds(self, key: str, default: float, most: float) -> float:
        """Return a duration of the query in seconds, cut to 0 … `most`.

        Raises:
            Refused: it is not a number.
        """
        try:
            value = float(self.query.get(key, default))
        except ValueError:
            raise Refused(400, f"{key} must be a number of seconds") from None
        # Written so that a NaN ends up as 0.
        return min(value, most) if value > 0 else 0.0

    def count(self, key: str, default: int) -> int:
        """Return a whole number of the query.

        Raises:
            Refused: it is not a whole number, or is negative.
        """
        text = self.query.get(key, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise Refused(400, f"{key} must be a whole number")
        return int(text)


class Answer(Struct, frozen=True, kw_only=True):
    """An answer of known length."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class Stream(Struct, frozen=True, kw_only=True):
    """An answer in chunks, each of which is sent at once. The iterator is closed at the end.

    `patient`: the caller may read on hours later, such as a pager; else it must take each chunk in time.
    """

    chunks: Iterator[bytes]
    content_type: str = "application/x-ndjson"
    patient: bool = True
    headers: Mapping[str, str] = {}


class RawConnection(Struct, frozen=True, kw_only=True):
    """The connection itself, after an upgrade.

    `received` are the bytes that came behind the request; take them before reading the socket, which blocks
    and has no time-out. When `stopping` is set, reads return the end of the stream.
    """

    socket: socket.socket
    received: bytes
    stopping: threading.Event


class Upgrade(Struct, frozen=True, kw_only=True):
    """Take the connection over: `run` gets it after the 101, in the connection's thread, until it returns.

    A handler refuses what it must before it returns this.
    """

    run: Callable[[RawConnection], None]


Reply = Answer | Stream | Upgrade


def json_answer(value: object) -> Answer:
    """Answer with a value as JSON."""
    return Answer(body=to_json(value))
