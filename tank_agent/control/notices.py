"""Answers of the API about notifications: who is told, and does it work. `outward.notify` does the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tank_agent.api.reports import NotifyReport, TestedReceiver
from tank_agent.errors import Stalled

OFF = "this agent tells nobody: agent.toml has no [notify], or had none when the agent started"
_HINT = "see [notify] in docs/notifications.md; it counts when the agent is started again"


class Notices(Protocol):
    """The notifications of an agent; all methods may be called from any thread."""

    def report(self) -> NotifyReport:
        """Return who is told, what waits, and what does not work."""

    def test(self, by: str) -> Sequence[TestedReceiver]:
        """Send a test notification to each receiver now, and return what each said."""


class NoNotices:
    """Stands for notifications where `[notify]` is not set."""

    def report(self) -> NotifyReport:
        """Say that there are none."""
        return NotifyReport(on=False)

    def test(self, by: str) -> Sequence[TestedReceiver]:
        """Refuse: there is nobody to tell."""
        raise Stalled(OFF, hint=_HINT)
