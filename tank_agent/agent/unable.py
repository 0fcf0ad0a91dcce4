"""Answer every request with the reason while the machine does not let the agent work."""

from __future__ import annotations

import os
from typing import NoReturn, cast

from tank_agent.control.pods import Service
from tank_agent.errors import Retry, TankError
from tank_agent.linux.shortage import shortage

_HINT = "pods go on as they are; the agent tries again every few seconds"


def as_trouble(error: Exception) -> TankError:
    """Return an error of the machine, met while the agent was starting, as one for people.

    Raises:
        Exception: the error itself, if it is a bug.
    """
    if isinstance(error, TankError):
        return error
    if isinstance(error, OSError):
        where = os.fsdecode(error.filename) if error.filename else None
        return Retry(f"cannot start: {error.strerror or error}", where=where, hint=_HINT)
    if shortage(error) is not None:
        limits = "give it more memory, address space or threads (ulimit -a, LimitAS=, TasksMax=)"
        return Retry("cannot start: the machine, or a limit of the agent, is too small", hint=limits)
    raise error


def unable(trouble: TankError) -> Service:
    """Return a service of which every question is answered with this error."""
    return cast(Service, _Unable(trouble))


class _Unable:
    def __init__(self, trouble: TankError) -> None:
        self._trouble = trouble

    def __getattr__(self, name: str) -> NoReturn:
        raise self._trouble
