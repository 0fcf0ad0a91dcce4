"""Writes down for people what no pod is to blame for; trouble of the journal is not the teller's."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from tank_agent.errors import TankError
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent

_log = structlog.get_logger()


def tell(journal: Journal, events: Sequence[NewEvent]) -> None:
    """Append events; where they cannot be stored, the log must do."""
    try:
        journal.record("", None, events)
    except TankError as error:
        _log.error("cannot record an event", error=str(error))
