"""Start the parts by which others see this machine: the page, notifications, and the status of a commit."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

import structlog

from tank_agent.api.reports import CommitStatusReport, WebReport
from tank_agent.api.types import shown
from tank_agent.control.pods import Service
from tank_agent.errors import TankError
from tank_agent.settings.git import GitSettings
from tank_agent.settings.notify import NotifySettings
from tank_agent.settings.settings import Settings
from tank_agent.settings.web import WebSettings
from tank_agent.source.git.follower import GitFollower

_log = structlog.get_logger()
_LOG = "`journalctl -u tank-agent` shows why; it is tried at the next start of the agent"


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
    web, notify, git = settings.web, settings.notify, settings.git
    if web is not None:
        _try("the web page", lambda: _start_web(settings, web, service, stack))
    if notify is not None:
        _try("notifications", lambda: _start_notify(notify, service, stack))
    follower = service.sources.git if git is not None and git.status is not None else None
    if git is not None and follower is not None:
        _try("the status of commits", lambda: _write_statuses(git, follower, service, stack))


def _try(what: str, start: Callable[[], None]) -> None:
    try:
        start()
    except Exception:
        # Such as a thread too many: pods come first.
        _log.exception(f"{what} can't be started; all else works")


def _start_web(settings: Settings, web: WebSettings, service: Service, stack: ExitStack) -> None:
    # Until it is known better; a start that fails, such as for a thread too many, never tells more.
    unknown = WebReport(listen=web.listen, error="the page can't be started", hint=_LOG)
    service.sources.web = lambda: unknown
    # Costs nothing where it is off.
    from tank_agent.api.web.server import WebServer

    server = WebServer(service, settings, web)
    stack.callback(server.stop)
    server.start()
    service.sources.web = server.report


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


def _write_statuses(settings: GitSettings, git: GitFollower, service: Service, stack: ExitStack) -> None:
    from tank_agent.outward.status_writer import Outlook, StatusWriter, sender

    observer, journal = service.reconciler.observer, service.journal
    facts = Outlook(
        journal=journal,
        git=lambda: git.repository.status,
        look=lambda pod: observer.situation(pod, observer.desired(pod)),
    )
    send, cut = sender(settings)
    host = service.sources.host.name
    writer = StatusWriter(settings, host, facts, send, cut=cut, clock=service.machine.clock)
    service.sources.commit_status = lambda: shown(writer.report(), CommitStatusReport)
    writer.start()
    stack.callback(writer.close)
