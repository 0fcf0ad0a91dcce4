"""What the agent and its git helper say to each other: length-prefixed msgpack over a socket pair."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import msgspec
from msgspec import Struct

from tank_agent.source.git.access import Access, Failure, Wanted
from tank_agent.source.git.address import Remote
from tank_agent.source.git.objects import Kind

FRAME_LIMIT = 64 << 20
_LENGTH = struct.Struct("!I")


class Limits(Struct, frozen=True, kw_only=True):
    """What one session of the helper may use. Sizes in bytes, times in seconds."""

    file_size: int = 256 << 20
    memory: int = 1 << 30
    cpu: int = 120
    wall: float = 120.0
    entries: int = 100_000
    depth: int = 16
    blob: int = 1 << 20
    total: int = 64 << 20
    commits: int = 100_000


class Setup(Struct, frozen=True, kw_only=True, tag=True):
    """The first message. `descriptors` names those that come with it: scratch, objects, local.

    `uid` None stays who we are.
    """

    transport: str
    remote: Remote
    access: Access
    limits: Limits
    descriptors: tuple[str, ...]
    uid: int | None = None
    gid: int | None = None


class ListRefs(Struct, frozen=True, tag=True):
    """Answered by Refs."""

    names: tuple[str, ...]


class Fetch(Struct, frozen=True, tag=True):
    """Answered by Fetched; the packs are then in the scratch repository."""

    wanted: Wanted


class ReadHistory(Struct, frozen=True, tag=True):
    """Answered by Objects (tags and commits) and Done: what is needed to judge `tip` against `deployed`.

    `full` sends every commit.
    """

    tip: str
    deployed: str | None
    full: bool = False


class ReadTree(Struct, frozen=True, tag=True):
    """Answered by Objects (trees and .toml files not in `known`), Omitted and Done."""

    tree: str
    path: str
    known: frozenset[bytes]


class Refs(Struct, frozen=True, tag=True):
    """Full ref names and the objects they point to."""

    ids: dict[str, str]


class Fetched(Struct, frozen=True, tag=True):
    """The object that the wanted ref pointed to."""

    id: str


class Object(Struct, frozen=True, tag=True):
    """One object; the receiver computes its name itself."""

    kind: Kind
    data: bytes


class Omitted(Struct, frozen=True, tag=True):
    """A file that is larger than the limit; size 0 if it does not even fit into memory."""

    id: str
    size: int


class Done(Struct, frozen=True, tag=True):
    """The end of an answer."""


class Failed(Struct, frozen=True, tag=True):
    """The request failed, as GitError says."""

    kind: Failure
    message: str
    hint: str | None = None


Request = ListRefs | Fetch | ReadHistory | ReadTree
Reply = Refs | Fetched | Object | Omitted | Done | Failed

_ENCODER = msgspec.msgpack.Encoder()
SETUP = msgspec.msgpack.Decoder(Setup)
REQUEST: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
REPLY: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def send(channel: socket.socket, message: Struct, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message, with open files if any.

    Raises:
        OSError: nobody reads any more, or not in time.
    """
    body = _ENCODER.encode(message)
    frame = _LENGTH.pack(len(body)) + body
    if descriptors:
        sent = socket.send_fds(channel, [frame], list(descriptors))
        frame = frame[sent:]
    channel.sendall(frame)


def receive(
    channel: socket.socket, decoder: msgspec.msgpack.Decoder[Any], deadline: float | None = None
) -> Any:
    """Receive one message; `deadline` is on the monotonic clock.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: no whole answer before the deadline.
        OSError: the connection broke.
        ValueError: the frame is too long or not what the decoder expects.
    """
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size, deadline))
    if length > FRAME_LIMIT:
        raise ValueError("message too long")
    return decoder.decode(_exactly(channel, length, deadline))


def receive_setup(channel: socket.socket, limit: int = 8) -> tuple[Setup, list[int]]:
    """Receive the first message with its open files; errors as in `receive`."""
    head, descriptors, _, _ = socket.recv_fds(channel, _LENGTH.size, limit)
    if not head:
        raise EOFError
    head += _exactly(channel, _LENGTH.size - len(head))
    (length,) = _LENGTH.unpack(head)
    if length > FRAME_LIMIT:
        raise ValueError("message too long")
    return SETUP.decode(_exactly(channel, length)), descriptors


def _exactly(channel: socket.socket, size: int, deadline: float | None = None) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        if deadline is not None:
            # Zero would mean "do not block", which is another error.
            channel.settimeout(max(0.001, deadline - time.monotonic()))
        part = channel.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
