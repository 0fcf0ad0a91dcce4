"""The receivers: the webhook of agent.toml, and each URL of urls_file, which is read again on a change."""

from __future__ import annotations

import threading

from tank_agent.outward.notify.channels import Body, Delivery, Receiver
from tank_agent.runtime.secrets.identities import Mark, mark_of
from tank_agent.settings.notify import NotifySettings


class _Webhook:
    """Loads requests, which takes 3 MB, with the first message only."""

    name = "webhook"

    def __init__(self, *declared: str | None) -> None:
        self._declared = declared

    def send(self, body: Body) -> Delivery:
        from tank_agent.outward.notify.webhook import Webhook

        url, token_file, ca_file = self._declared
        return Webhook(url or "", token_file, ca_file).send(body)


class Receivers:
    """The receivers of [notify], for any thread; `problems` are of the last reading, as sentences."""

    def __init__(self, settings: NotifySettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._mark: Mark = ()
        self._found: tuple[Receiver, ...] = ()
        self.problems: tuple[str, ...] = ()

    def read(self) -> tuple[Receiver, ...]:
        """Return the receivers as they are now; those of a file that can't be read are none."""
        settings = self._settings
        with self._lock:
            mark = mark_of(settings.urls_file) if settings.urls_file is not None else None
            if self._mark == mark:
                return self._found
            found: list[Receiver] = []
            problems: list[str] = []
            if settings.webhook is not None:
                found.append(
                    _Webhook(settings.webhook, settings.webhook_token_file, settings.webhook_ca_file)
                )
            if settings.urls_file is not None:
                from tank_agent.outward.notify.apprise import receivers

                named, wrong = receivers(settings.urls_file)
                found += named
                problems += wrong
            self._mark, self._found, self.problems = mark, tuple(found), tuple(problems)
            return self._found
