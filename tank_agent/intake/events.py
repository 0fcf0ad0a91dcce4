"""Record events that no step of a pod writes; if the journal fails, the log has to do."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from tank_agent.errors import TankError
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent
from tank_agent.reconcile.pulls import News

_log = structlog.get_logger()


def tell(journal: Journal, events: Sequence[NewEvent]) -> None:
    """Append events; where they cannot be stored, the log must do."""
    try:
        journal.record("", None, events)
    except TankError as error:
        _log.error("cannot record an event", error=str(error))


def tell_pods(journal: Journal, pods: Collection[str], news: News) -> None:
    """Append in one transaction how a pull ended, for each pod that waited for it and is still desired."""
    desired = journal.desired()
    events = [
        NewEvent(
            pod=pod, type=news.type, message=news.message, revision=desired[pod].revision, cause=news.cause
        )
        for pod in sorted(pods)
        if pod in desired
    ]
    tell(journal, events)
