"""The seam below the journal: an ordered key-value store with a few tables and atomic, durable writes."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from tank_agent.errors import Stalled

HOW_TO_GO_ON = (
    "restore {path} from a backup; or start afresh with `mv {path} {path}.broken`: pods of files and of git"
    " come back, those of `tank apply` go on, but must be applied again, and deleted seeds come back"
)


class UnreadableJournal(Stalled):
    """The journal is damaged, or of a newer version: a person must put another in its place."""


class Table(enum.StrEnum):
    """The tables; names are part of the file's format."""

    META = "meta"
    DESIRED = "desired"
    REVISIONS = "revisions"
    STATUS = "status"
    EVENTS = "events"


class Write(Struct, frozen=True):
    """One change: `value` None deletes the key (which may be absent)."""

    table: Table
    key: bytes
    value: bytes | None


class Store(Protocol):
    """Tables of bytes, keys in byte order. Reads may come from any thread, also while `write` runs."""

    @property
    def place(self) -> str:
        """Where the tables are, for messages."""
        ...

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return one value."""
        ...

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the entries with `start` <= key < `stop`, in key order, at most `limit` of them."""
        ...

    def keys(self, table: Table) -> list[bytes]:
        """Return every key in order, without reading the values."""
        ...

    def write(self, writes: Sequence[Write]) -> None:
        """Make all of the writes durable, or none of them. Called by one thread at a time.

        Raises:
            Retry: the disk is full or failed; nothing was stored.
            Stalled: the store can't be used any more.
        """
        ...

    def close(self) -> None:
        """Release the store; no other method may be called after it."""
        ...
