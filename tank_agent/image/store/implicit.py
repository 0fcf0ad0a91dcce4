"""The directories of a layer that no entry describes, as a list that is never in memory whole.

A name that is 250 directories deep makes 250 of them, whose paths have 125 times as many bytes as the name.
So a line says how many bytes it shares with the path before it, and the rest as hexadecimal digits:
`SHARED REST`. Paths are in the order of their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_LONGEST_PATH = 4095
LONGEST_LINE = 2 * _LONGEST_PATH + 10


def packed(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a line, without its end, for each path."""
    before = b""
    for path in paths:
        shared = before
        while not path.startswith(shared):
            shared = shared.rpartition(b"/")[0]
        yield b"%d %s" % (len(shared), path[len(shared) :].hex().encode())
        before = path


def unpacked(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the path of each line.

    Raises:
        ValueError: a line has another form, or is not what `packed` makes of a path in a sorted list.
    """
    before: bytes | None = None
    for line in lines:
        shared, space, rest = line.rstrip(b"\n").partition(b" ")
        path = (before or b"")[: int(shared)] + bytes.fromhex(rest.decode("ascii"))
        if not space or len(path) > _LONGEST_PATH or (before is not None and path <= before):
            raise ValueError("a damaged list of directories")
        yield path
        before = path
