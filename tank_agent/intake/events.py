"""Record events that no step of a pod writes; if the journal fails, log it and go on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog
from msgspec.structs import replace

from tank_agent.errors import TankError
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent

_log = structlog.get_logger()


def record_events(journal: Journal, events: Sequence[NewEvent]) -> None:
    """Append events; if they cannot be stored, log that."""
    try:
        journal.record("", None, events)
    except TankError as error:
        _log.error("cannot record an event", error=str(error))


def record_for_pods(journal: Journal, pods: Collection[str], event: NewEvent) -> None:
    """Append an event in one transaction for each of the pods that is still desired."""
    desired = journal.desired()
    found = [desired[pod] for pod in sorted(pods) if pod in desired]
    record_events(journal, [replace(event, pod=pod.name, revision=pod.revision) for pod in found])
