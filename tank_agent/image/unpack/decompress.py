"""Decompress layers, by their first bytes and never by their name.

This runs in the confined child, which starts in milliseconds; therefore the libraries are imported late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
# A skippable frame may come first (RFC 8878, section 3.1.2): 0x184D2A50 to 0x184D2A5F, little endian.
_SKIPPABLE = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))
HEAD = 4
_OUTPUT = 1 << 20
_INPUT = 1 << 18
# zstd --long=27, which is also what its own decoder takes without being asked.
_ZSTD_WINDOW = 1 << 27


class BadLayerError(ValueError):
    """The layer is damaged, hostile, or larger than allowed; users see the message."""


def plain(head: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield a stream's uncompressed bytes in pieces of some MiB; BadLayerError if it is damaged or cut off.

    `head` are its first `HEAD` bytes, which were read already; `read` returns at most so many further bytes.
    """

    def whole(size: int) -> bytes:
        nonlocal head
        taken, head = head, b""
        return taken or read(size)

    if head.startswith(GZIP):
        return _gunzip(whole)
    return _unzstd(whole) if _is_zstd(head) else iter(lambda: whole(_OUTPUT), b"")


def load_library(head: bytes) -> None:
    """Import what `plain` will need for a stream that starts like this, while files can be opened."""
    if head.startswith(GZIP):
        _gzip_library()
    elif _is_zstd(head):
        import zstandard  # noqa: F401


def _is_zstd(head: bytes) -> bool:
    return head[:4] == ZSTD or head[:4] in _SKIPPABLE


def _gunzip(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Decompress all members: eStargz writes one per file."""
    library = _gzip_library()
    data = read(_INPUT)
    while data:
        member = library.decompressobj(31)
        while not member.eof:
            if not data and not (data := read(_INPUT)):
                raise BadLayerError("gzip data ends early")
            try:
                output = member.decompress(data, _OUTPUT)
            except library.error as error:
                raise BadLayerError(f"damaged gzip data: {error}") from error
            data = member.unconsumed_tail
            if output:
                yield output
        # Padding with zeros is allowed after a member (gzip(1)).
        data = member.unused_data.lstrip(b"\0")
        while not data and (more := read(_INPUT)):
            data = more.lstrip(b"\0")


def _gzip_library() -> Any:
    """Return ISA-L's zlib, about 2.5 times as fast, or zlib."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib
    return isal_zlib


def _unzstd(read: Callable[[int], bytes]) -> Iterator[bytes]:
    import zstandard

    source: Any = SimpleNamespace(read=read)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    try:
        with decompressor.stream_reader(source, read_size=_INPUT, read_across_frames=True) as reader:
            while chunk := reader.read(_OUTPUT):
                yield chunk
    except zstandard.ZstdError as error:
        raise BadLayerError(f"damaged zstd data: {error}") from error
