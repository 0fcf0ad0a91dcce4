"""Writes seeds into the journal: once each, at the agent's start and at a reload."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from tank_agent.errors import TankError
from tank_agent.journal.journal import Journal
from tank_agent.source.seed import SeedSource

_log = structlog.get_logger()


class Seeding:
    """Plants seeds; what the journal cannot take now, such as on a full disk, it gets later.

    Args:
        journal: seeds go there, unless they were there before.
        wake: called for every pod that was seeded, with the cause.
        suspended: while it says so, nothing is seeded.
        note: told of "seed" what keeps seeds from being stored, or None once they were; and the cause.
    """

    def __init__(
        self,
        journal: Journal,
        wake: Callable[[str, str], None],
        suspended: Callable[[], bool],
        note: Callable[[str, str | None, str], None] = lambda *_: None,
    ) -> None:
        self._journal = journal
        self._wake = wake
        self._suspended = suspended
        self._note = note
        self._owed: SeedSource | None = None

    def plant(self, seeds: SeedSource, cause: str) -> None:
        """Write the seeds that were never written before; after pods_dir, which wins a name of both."""
        if self._suspended():
            return
        snapshot = seeds.snapshot()
        for problem in snapshot.problems:
            _log.warning(
                "problem in a seed", pod=problem.pod or "", revision="", problem=str(problem), cause=cause
            )
        try:
            changed = self._journal.merge(snapshot).changed
        except TankError as error:
            self._note("seed", str(error), cause)
            self._owed = seeds
            return
        self._note("seed", None, cause)
        self._owed = None
        desired = self._journal.desired()
        for pod in changed:
            _log.info("seeded", pod=pod, revision=desired[pod].revision, cause=cause)
            self._wake(pod, "seeded")

    def catch_up(self) -> None:
        """Try again what could not be stored."""
        if self._owed is not None:
            self.plant(self._owed, "resync")
