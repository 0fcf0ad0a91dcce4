"""The store of a journal: ordered tables of keys and values, with atomic and durable writes.

LMDB implements it on disk; the store in memory replaces it where the journal can't be opened.
"""

from __future__ import annotations

import enum
import itertools
import threading
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from tank_agent.errors import Stalled


class UnreadableJournal(Stalled):
    """The journal is damaged, or of a newer version: a person must replace it."""


def unreadable(place: str, why: str) -> UnreadableJournal:
    """Return the error of a damaged journal."""
    return UnreadableJournal(
        f"the journal in {place} can't be read: {why}",
        hint=f"restore {place} from a backup; or start afresh with `mv {place} {place}.broken`: pods of files"
        " and of git come back, those of `tank apply` go on, but must be applied again, and deleted seeds"
        " come back",
    )


class Table(enum.StrEnum):
    """The tables; names are part of the file's format."""

    META = "meta"
    DESIRED = "desired"
    REVISIONS = "revisions"
    VERDICTS = "verdicts"
    STATUS = "status"
    EVENTS = "events"


class Write(Struct, frozen=True):
    """One change: `value` None deletes the key (which may be absent)."""

    table: Table
    key: bytes
    value: bytes | None


class Store(Protocol):
    """Tables of bytes, keys in byte order. Reads may come from any thread, also while `write` runs.

    Attributes:
        place: where the tables are, for messages.
    """

    place: str

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


class MemoryStore:
    """Implements `Store` in memory."""

    place = "memory"

    def __init__(self) -> None:
        self._tables: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self._lock = threading.Lock()

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return one value."""
        return self._tables[table].get(key)

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the entries with `start` <= key < `stop`, in key order, at most `limit` of them."""
        with self._lock:
            entries = sorted(self._tables[table].items())
        found = (entry for entry in entries if entry[0] >= start and (stop is None or entry[0] < stop))
        return list(itertools.islice(found, limit))

    def keys(self, table: Table) -> list[bytes]:
        """Return every key in order."""
        with self._lock:
            return sorted(self._tables[table])

    def write(self, writes: Sequence[Write]) -> None:
        """Apply all of the writes."""
        with self._lock:
            for write in writes:
                if write.value is None:
                    self._tables[write.table].pop(write.key, None)
                else:
                    self._tables[write.table][write.key] = write.value

    def close(self) -> None:
        """Do nothing, so that another journal can use the tables."""
