"""Start the parts by which others see this machine: the page, notifications, and the status of a commit."""

from __future__ import annotations

from contextlib import ExitStack

from tank_agent.control.pods import Service
from tank_agent.settings.settings import Settings


def start_outward(settings: Settings, service: Service, stack: ExitStack) -> None:
    """Start what the settings ask for; it ends with the stack, and never stands in the way of the loop."""
