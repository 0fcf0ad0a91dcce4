"""The frames on a connection that was upgraded to a session (`tank exec`, `tank attach`).

A frame is a head of five bytes (one byte of type, four of length, big-endian) and at most 64 KiB of payload.
docs/interactive.md describes them for other clients. Nothing heavy is imported: `tank exec` starts with it.
"""

from __future__ import annotations

import struct

PROTOCOL = "tank-session-v1"
# What `tank dial` prints before the first byte of the agent, or before the error as JSON, a line.
DIAL_CONNECTED = b"tank-dial: connected\n"
DIAL_FAILED = b"tank-dial: failed "
MAX_PAYLOAD = 1 << 16

# The end of the media type of logs that may come from more than one container.
SEVERAL = "; containers=several"

# To the agent.
STDIN = 0  # bytes for the command
EOF = 1  # no payload: the end of STDIN
RESIZE = 2  # the terminal's rows and columns
DETACH = 3  # no payload: leave the command running; also the agent's answer to it
SIGNAL = 4  # one byte: the number of a signal for the command
# From the agent.
STDOUT = 5  # bytes of the command
STDERR = 6
EXIT = 7  # the exit of the command; the last frame
ERROR = 8  # the error in place of a result, as JSON; the last frame
TAKEN = 9  # the number of bytes of STDIN passed on since the last TAKEN; only if the caller asked for it

# A caller that asked for TAKEN has no more than these bytes and one frame under way. The agent always has
# room for them, so a signal never waits behind input, and a terminal's input is never dropped.
WINDOW = 192 << 10

_HEAD = struct.Struct(">BI")
_SIZE = struct.Struct(">HH")
_EXIT = struct.Struct(">BB")
_COUNT = struct.Struct(">I")
# A command ends with an exit code, or by a signal.
EXITED = 0
SIGNALED = 1


class BadFrameError(ValueError):
    """The received bytes are no frame of this protocol."""


def frame(kind: int, payload: bytes | memoryview = b"") -> bytes:
    """Return a whole frame."""
    return _HEAD.pack(kind, len(payload)) + payload


def head(kind: int, length: int) -> bytes:
    """Return the head of a frame, to be followed by its payload."""
    return _HEAD.pack(kind, length)


def size_payload(rows: int, columns: int) -> bytes:
    """Return the payload of RESIZE."""
    return _SIZE.pack(min(rows, 0xFFFF), min(columns, 0xFFFF))


def read_size(payload: bytes) -> tuple[int, int]:
    """Return rows and columns; zeros, which mean "not known", for a payload of another length."""
    if len(payload) != _SIZE.size:
        return 0, 0
    rows, columns = _SIZE.unpack(payload)
    return rows, columns


def exit_payload(how: int, number: int) -> bytes:
    """Return the payload of EXIT: EXITED and a code, or SIGNALED and a number."""
    return _EXIT.pack(how, number & 0xFF)


def read_exit(payload: bytes) -> tuple[int, int]:
    """Return EXITED and a code, or SIGNALED and a number."""
    if len(payload) != _EXIT.size:
        raise BadFrameError(f"an EXIT of {len(payload)} bytes")
    how, number = _EXIT.unpack(payload)
    return how, number


def count_payload(count: int) -> bytes:
    """Return the payload of TAKEN."""
    return _COUNT.pack(count)


def read_count(payload: bytes) -> int:
    """Return the number of bytes of a TAKEN."""
    if len(payload) != _COUNT.size:
        raise BadFrameError(f"a TAKEN of {len(payload)} bytes")
    return int(_COUNT.unpack(payload)[0])


class Decoder:
    """Cuts a stream of bytes, which comes in pieces of any length, into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the kind and the payload of every frame that is complete now.

        Raises:
            BadFrameError: a payload is too long.
        """
        if self._rest:
            data = self._rest + data
        frames = []
        begin = 0
        while len(data) - begin >= _HEAD.size:
            kind, length = _HEAD.unpack_from(data, begin)
            if length > MAX_PAYLOAD:
                raise BadFrameError(f"a payload of {length} bytes, more than {MAX_PAYLOAD}")
            end = begin + _HEAD.size + length
            if end > len(data):
                break
            frames.append((kind, data[begin + _HEAD.size : end]))
            begin = end
        self._rest = data[begin:]
        return frames
