"""The last line that a container printed before it ended badly, as a status may show it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

from tank_agent.api.reports import ContainerReport
from tank_agent.control.sessions import LogQuery, Sessions
from tank_agent.errors import TankError
from tank_agent.linux.clock import rfc3339
from tank_agent.spec.model import Pod
from tank_agent.spec.printable import escape

_LONGEST = 200
# A shorter value would be found in any text, and is no secret.
_SHORTEST = 4
_SECRETIVE = re.compile("pass|secret|token|key|credential|auth", re.IGNORECASE)
# Not those in which a container runs, or was stopped on purpose.
_DOWN = ("pending", "pulling", "starting", "backing-off", "failed", "degraded")
# Of a machine where hundreds of containers crash, `tank status` must still answer fast.
MOST = 50


def is_due(container: ContainerReport) -> bool:
    """Return whether a container's last line may say why it does not run."""
    end = container.exit
    return end is not None and container.phase in _DOWN and bool(end.code or end.signal)


def shown(line: str, pod: Pod, container: str) -> str | None:
    """Return a line as a status shows it: printable, cut, and without values that are likely secrets.

    None for a pod with encrypted secrets, or files of the host as secrets: it may have printed one.
    """
    if pod.secrets or not line.strip():
        return None
    for spec in pod.containers:
        env = spec.env.items() if spec.name == container else ()
        for value in (value for name, value in env if _SECRETIVE.search(name) and len(value) >= _SHORTEST):
            line = line.replace(value, "***")
    text = escape(line.strip())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def reader(sessions: Sessions) -> Callable[[str, str, float | None], str]:
    """Return a function that returns what a container printed last, since a time; empty if nothing."""

    def last_line(pod: str, container: str, since: float | None) -> str:
        # Without its Z, the time sorts before all that have more digits.
        query = LogQuery(tail=1, since=(rfc3339(since) or "").removesuffix("Z"))
        with contextlib.suppress(TankError, OSError):
            _, pieces = sessions.logs(pod, container, query, lambda: False)
            lines = b"".join(pieces).splitlines()
            parts = lines[-1].split(b" ", 4) if lines else []
            return parts[4].decode(errors="replace") if len(parts) == 5 else ""
        return ""

    return last_line
