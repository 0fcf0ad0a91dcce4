"""The standard streams of a session's client."""

from __future__ import annotations

import os

from tank_agent.linux import standard_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

    Stream = int | IO[bytes] | IO[str]


class Streams:
    """The descriptors of stdin, stdout and stderr; by default those of the process."""

    def __init__(self, stdin: Stream | None, stdout: Stream | None, stderr: Stream | None) -> None:
        # Before there is a connection, which would get the number of a closed stream.
        standard_streams.reserve()
        self.stdin = _descriptor(stdin, 0)
        self.stdout = _descriptor(stdout, 1)
        self.stderr = _descriptor(stderr, 2)

    def stdin_is_terminal(self) -> bool:
        """Return whether stdin is a terminal."""
        return os.isatty(self.stdin)

    def size(self) -> tuple[int, int]:
        """Return rows and columns of the terminal; zeros if there is none, or they are not known."""
        for descriptor in (self.stdout, self.stdin):
            try:
                columns, rows = os.get_terminal_size(descriptor)
            except OSError:
                continue
            if rows and columns:
                return rows, columns
        return 0, 0


def _descriptor(stream: Stream | None, default: int) -> int:
    if stream is None:
        return default
    return stream if isinstance(stream, int) else stream.fileno()
