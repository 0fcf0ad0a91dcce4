from __future__ import annotations

from collections.abc import Callable

import pytest

from tank_agent.journal.journal import Journal
from tank_agent.journal.store import MemoryStore
from tank_agent.journal.transitions import Retention
from tests.unit.journal.builders import FakeClock, Owners
from tests.unit.journal.conformance import JournalConformance


class TestJournal(JournalConformance):
    @pytest.fixture
    def open_journal(self, clock: FakeClock, owners: Owners) -> Callable[[], Journal]:
        store = MemoryStore()
        return lambda: Journal(
            store, clock=clock, kept=Retention(revisions=3, events=10), owner_exists=owners
        )
