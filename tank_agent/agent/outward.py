"""Start the parts by which others see this machine: the page, notifications, and the status of a commit."""

from __future__ import annotations

from contextlib import ExitStack

from tank_agent.control.pods import Service
from tank_agent.settings.settings import Settings
from tank_agent.settings.web import WebSettings


def start_outward(settings: Settings, service: Service, stack: ExitStack) -> None:
    """Start what the settings ask for; it ends with the stack, and never stands in the way of the loop."""
    if settings.web is not None:
        _start_web(settings, settings.web, service, stack)


def _start_web(settings: Settings, web: WebSettings, service: Service, stack: ExitStack) -> None:
    # Costs nothing where it is off.
    from tank_agent.api.web.server import WebServer

    server = WebServer(service, settings, web)
    stack.callback(server.stop)
    server.start()
