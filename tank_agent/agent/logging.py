"""The agent's own log (DESIGN section 2): text on a terminal, fields in the journal, else JSON lines."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, Literal

import structlog

from tank_agent.linux.systemd import JournalSocket, stderr_is_journal
from tank_agent.spec.printable import escape

# syslog(3).
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
Form = Literal["terminal", "journal", "json"]


def configure(*, form: Form | None = None) -> None:
    """Send structlog to standard error or the journal; `form` overrides the form that fits standard error."""
    detected: Form = "journal" if stderr_is_journal(os.environ) else "json"
    chosen = form or ("terminal" if sys.stderr.isatty() else detected)
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
    ]
    if chosen == "terminal":
        plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        processors += [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False), _harmless, plain]
    elif chosen == "json":
        stamper = structlog.processors.TimeStamper(fmt="iso", utc=True)
        processors += [stamper, structlog.processors.JSONRenderer()]
    # The journal notes the time itself.
    factory: Any = JournalLogger if chosen == "journal" else structlog.WriteLoggerFactory(file=sys.stderr)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )


def _harmless(_logger: object, _name: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape control characters, since texts come from images, files and servers."""
    return {
        key: escape(value if isinstance(value, str) else repr(value), keep="\n")
        for key, value in entry.items()
    }


class JournalLogger:
    """Sends structlog's entries to the journal, or as JSON to standard error if the journal does not answer.

    Every key becomes a field TANK_KEY, so that `journalctl TANK_POD=web` finds a pod's entries.
    """

    def __init__(self, *_names: object, journal: JournalSocket | None = None) -> None:
        self._journal = journal or JournalSocket()

    def msg(self, **entry: Any) -> None:
        """Send one entry."""
        if not self._journal.send(journal_fields(entry)):
            sys.stderr.write(json.dumps(entry, default=str) + "\n")

    debug = info = warning = error = critical = exception = msg


def journal_fields(entry: dict[str, Any]) -> dict[str, str]:
    """Return an entry's journal fields; MESSAGE is the event with its keys and values, for people."""
    rest = {key: value for key, value in entry.items() if key not in ("event", "level", "exception")}
    words = [str(entry.get("event", "")), *(f"{key}={_shown(value)}" for key, value in rest.items())]
    message = " ".join(words)
    if "exception" in entry:
        message = f"{message}\n{entry['exception']}"
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(_PRIORITIES.get(str(entry.get("level")), 6)),
        "SYSLOG_IDENTIFIER": "tank-agent",
        "TANK_EVENT": str(entry.get("event", "")),
    }
    for key, value in rest.items():
        name = "TANK_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in key).upper()
        fields[name[:63]] = str(value)
    return fields


def _shown(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(c in text for c in ' "=\n') else text
