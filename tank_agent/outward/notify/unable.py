"""Tell that an agent can't work, and that it works again: it has no journal then, and remembers nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from tank_agent.errors import TankError, one_line
from tank_agent.outward.notify.channels import Body, body_of_note
from tank_agent.outward.notify.memory import TEXT_MAX, Note
from tank_agent.outward.notify.receivers import Receivers
from tank_agent.retry import Pace
from tank_agent.settings.notify import NotifySettings

_log = structlog.get_logger()
# Seconds for which an agent may be unable to start, such as while the machine boots.
_WITHIN = 60.0
_PACE = Pace(base=5.0, cap=900.0)


class Unable:
    """Tells once that the agent can't start, and once that it could.

    Args:
        settings: of [notify].
        host: the machine's name in messages.
        monotonic: seconds.
        start: runs a function in a thread of its own.
    """

    def __init__(
        self,
        settings: NotifySettings,
        host: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._settings, self._host, self._monotonic = settings, host, monotonic
        self._receivers = Receivers(settings)
        self._start = start or _in_a_thread
        self._since: float | None = None
        self._told = False
        self._ended = threading.Event()

    def cannot(self, trouble: TankError) -> None:
        """Note that a start failed, and tell so once that has lasted."""
        now = self._monotonic()
        self._since = now if self._since is None else self._since
        if self._told or now - self._since < min(_WITHIN, self._settings.after):
            return
        self._told = True
        self._tell("bad", "the agent can't work", one_line(str(trouble))[:TEXT_MAX])

    def can(self) -> None:
        """Note that the agent works, and tell so if it was told that it did not."""
        self._ended.set()
        if self._told:
            self._ended = threading.Event()
            self._tell("good", "the agent works again", "its pods are looked after")

    def _tell(self, state: str, title: str, message: str) -> None:
        note = Note(at=time.time(), kind="agent", state="bad" if state == "bad" else "good", title=title)
        body, ended = body_of_note(note, self._host, message), self._ended
        self._start(lambda: self._send(body, ended))

    def _send(self, body: Body, ended: threading.Event) -> None:
        """Send to each receiver, again and again until all have it or it is no longer true."""
        try:
            left = list(self._receivers.read())
            for tries in range(20):
                left = [one for one in left if one.send(body).error]
                if not left or ended.wait(_PACE.delay(tries)):
                    return
        except Exception as error:
            _log.warning("a notification could not be sent by a bug", error=type(error).__name__)


def _in_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="notify-unable", daemon=True).start()
