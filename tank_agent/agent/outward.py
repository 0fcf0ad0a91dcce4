"""Start the parts by which others see this machine: the page, notifications, and the status of a commit."""

from __future__ import annotations

import platform
from contextlib import ExitStack
from typing import Protocol

from tank_agent.control.pods import Service
from tank_agent.errors import TankError
from tank_agent.settings.notify import NotifySettings
from tank_agent.settings.settings import Settings
from tank_agent.settings.web import WebSettings


class Starts(Protocol):
    """Who is told that the agent can't start, and that it could."""

    def cannot(self, trouble: TankError) -> None:
        """Note that a start failed."""

    def can(self) -> None:
        """Note that the agent works."""


class NoStarts:
    """Tells nobody."""

    def cannot(self, trouble: TankError) -> None:
        """Do nothing."""

    def can(self) -> None:
        """Do nothing."""


def start_outward(settings: Settings, service: Service, stack: ExitStack) -> None:
    """Start what the settings ask for; it ends with the stack, and never stands in the way of the loop."""
    if settings.web is not None:
        _start_web(settings, settings.web, service, stack)
    if settings.notify is not None:
        _start_notify(settings.notify, service, stack)


def _start_web(settings: Settings, web: WebSettings, service: Service, stack: ExitStack) -> None:
    # Costs nothing where it is off.
    from tank_agent.api.web.server import WebServer

    server = WebServer(service, settings, web)
    stack.callback(server.stop)
    server.start()


def _start_notify(settings: NotifySettings, service: Service, stack: ExitStack) -> None:
    from tank_agent.outward.notify.notifier import Notifications

    notifications = Notifications(service, settings, platform.node())
    service.notices = notifications
    service.sources.untold = notifications.untold
    notifications.start()
    stack.callback(notifications.close)


def told_of_start(settings: Settings) -> Starts:
    """Return who is told if the agent can't start."""
    if settings.notify is None or "agent" not in settings.notify.events:
        return NoStarts()
    from tank_agent.outward.notify.unable import Unable

    return Unable(settings.notify, platform.node())
