"""A journal that forgets: the same rules over a store in memory, for tests of other rooms."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

from tank_agent.journal.store import Table, Write
from tank_agent.journal.stored import StoredJournal, owner_is_there


class MemoryStore:
    """Implements `Store` in memory."""

    def __init__(self) -> None:
        self._tables: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """Where the tables are, for messages."""
        return "memory"

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
        """Do nothing: what was stored can be opened again."""


class MemoryJournal(StoredJournal):
    """Implements `Journal` in memory; give it another's `store` to see what a restart of the agent would."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        max_revisions: int = 20,
        max_events: int = 10_000,
        owner_exists: Callable[[str], bool] = owner_is_there,
        store: MemoryStore | None = None,
    ) -> None:
        self.store = store or MemoryStore()
        super().__init__(
            self.store,
            clock=clock,
            max_revisions=max_revisions,
            max_events=max_events,
            owner_exists=owner_exists,
        )
