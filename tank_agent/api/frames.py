"""The frames that flow over a connection once it was upgraded to a session (`tank exec`, `tank attach`).

A frame is a head of five bytes (one byte of type, four of length, big-endian) and at most 64 KiB of payload.
docs/interactive.md describes them for other clients. Nothing heavy is imported: `tank exec` starts with it.
"""

from __future__ import annotations

import struct

PROTOCOL = "tank-session-v1"
MAX_PAYLOAD = 1 << 16

# What the media type of a stream of logs ends with when it holds more than one container's.
SEVERAL = "; containers=several"

# To the agent.
STDIN = 0  # bytes for the command
EOF = 1  # no payload: there will be no more of them
RESIZE = 2  # the terminal's rows and columns
DETACH = 3  # no payload: leave the command running; also the agent's answer to it
SIGNAL = 4  # one byte: the number of a signal for the command
# From the agent.
STDOUT = 5  # bytes of the command
STDERR = 6
EXIT = 7  # how it ended; the last frame
ERROR = 8  # why there is no result, as JSON; the last frame
TAKEN = 9  # how many bytes of STDIN were passed on since the last of these; only to who asked for it

# A caller that asked for TAKEN has no more than this and one frame under way, which the agent always has room
# for: so a signal is never behind input that waits, and a terminal's input is never dropped.
WINDOW = 192 << 10

_HEAD = struct.Struct(">BI")
_SIZE = struct.Struct(">HH")
_EXIT = struct.Struct(">BB")
_COUNT = struct.Struct(">I")
# The two ways to end: with an exit code, or by a signal.
EXITED = 0
SIGNALED = 1


class BadFrameError(ValueError):
    """What came is no frame of this protocol."""


def frame(kind: int, payload: bytes | memoryview = b"") -> bytes:
    """Return a whole frame."""
    return _HEAD.pack(kind, len(payload)) + payload


def head(kind: int, length: int) -> bytes:
    """Return the head of a frame whose payload is sent behind it."""
    return _HEAD.pack(kind, length)


def size_payload(rows: int, columns: int) -> bytes:
    """Return the payload of RESIZE."""
    return _SIZE.pack(min(rows, 0xFFFF), min(columns, 0xFFFF))


def read_size(payload: bytes) -> tuple[int, int]:
    """Return rows and columns; zeros, which mean "not known", if it is no payload of RESIZE."""
    if len(payload) != _SIZE.size:
        return 0, 0
    rows, columns = _SIZE.unpack(payload)
    return rows, columns


def exit_payload(how: int, number: int) -> bytes:
    """Return the payload of EXIT: EXITED and a code, or SIGNALED and a number."""
    return _EXIT.pack(how, number & 0xFF)


def read_exit(payload: bytes) -> tuple[int, int]:
    """Return how the command ended, and the number that belongs to it."""
    if len(payload) != _EXIT.size:
        raise BadFrameError(f"an EXIT of {len(payload)} bytes")
    how, number = _EXIT.unpack(payload)
    return how, number


def count_payload(count: int) -> bytes:
    """Return the payload of TAKEN."""
    return _COUNT.pack(count)


def read_count(payload: bytes) -> int:
    """Return how many bytes were taken."""
    if len(payload) != _COUNT.size:
        raise BadFrameError(f"a TAKEN of {len(payload)} bytes")
    return int(_COUNT.unpack(payload)[0])


class Decoder:
    """Cuts a stream of bytes into frames, whatever the pieces in which it comes."""

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
