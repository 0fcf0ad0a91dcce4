"""The seam between a pull and the places that images come from: registries, layouts and archives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.image.manifest import Descriptor

# Returns at most so many bytes, b"" at the end.
ReadChunk = Callable[[int], bytes]


class CancelledError(Retry):
    """Nobody waits for the work any more."""

    reason = "cancelled"


class DamagedError(Retry):
    """The content that came is not what the manifest names."""

    reason = "damaged"


class MissingError(Stalled):
    """The place does not have what was asked for."""


class Document(Struct, frozen=True, kw_only=True):
    """An index or a manifest as it came, with the media type that was stated ("" if none was)."""

    data: bytes
    media_type: str


class ImageContent(Protocol):
    """One image's place. It verifies nothing; the pull does.

    `local` content is read in place instead of being kept while it is fetched. Every method may be called
    from any thread, and raises Stalled (it is not there, and trying again is pointless) or Retry.
    """

    local: bool

    def manifest(self, digest: str = "") -> Document:
        """Return what the reference names, or another manifest of the same place by its digest."""
        ...

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return small content whole; it is an error if it has more than `limit` bytes."""
        ...

    def open(self, descriptor: Descriptor, offset: int) -> AbstractContextManager[ReadChunk]:
        """Open content from a byte offset on."""
        ...

    def close(self) -> None:
        """Close connections and files. Idempotent."""
        ...
