"""What the store asks of the places that images come from: registries, layouts and archives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.image.manifest import Descriptor

Reader = Callable[[int], bytes]


class CancelledError(Retry):
    """Nobody waits for the work any more."""

    reason = "cancelled"


class DamagedError(Retry):
    """What came is not what the manifest names."""

    reason = "damaged"


class MissingError(Stalled):
    """The place does not have what was asked for."""


class Document(Struct, frozen=True, kw_only=True):
    """An index or a manifest as it came, with the media type that was stated ("" if none was)."""

    data: bytes
    media_type: str


class Content(Protocol):
    """One image's place. Nothing that it returns is verified; the store does that.

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

    def open(self, descriptor: Descriptor, offset: int) -> AbstractContextManager[Reader]:
        """Open content from a byte offset on. The reader returns at most so many bytes, b"" at the end."""
        ...

    def close(self) -> None:
        """Let go of connections and files. Idempotent."""
        ...
