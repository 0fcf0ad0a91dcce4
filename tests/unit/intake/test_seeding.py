from __future__ import annotations

import time

from tank_agent.errors import Retry
from tank_agent.intake.seeding import Seeding
from tank_agent.journal.journal import Journal
from tank_agent.journal.store import MemoryStore
from tank_agent.journal.transitions import Applied
from tank_agent.source.seed import SeedSource
from tank_agent.source.snapshot import Snapshot
from tests.unit.reconcile.test_pulls import pod


def test_seeds_that_cannot_be_stored_are_stored_later() -> None:
    class WatchedJournal(Journal):
        full = True

        def merge(self, snapshot: Snapshot) -> Applied:
            if self.full:
                raise Retry("the disk is full")
            return super().merge(snapshot)

    journal, woken = WatchedJournal(MemoryStore(), clock=time.time), list[str]()
    seeding = Seeding(journal, lambda name, _: woken.append(name), lambda: False)
    seeding.plant(SeedSource(None, pods=(pod("seed"),)), "agent start")
    seeding.catch_up()
    assert woken == []
    journal.full = False
    seeding.catch_up()
    assert woken == ["seed"]
    seeding.catch_up()
    assert woken == ["seed"]
