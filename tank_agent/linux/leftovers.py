"""Clean up after an earlier agent; log what can't be removed, and continue."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog

from tank_agent.errors import TankError

_log = structlog.get_logger()


@contextlib.contextmanager
def left_for_later(what: str) -> Iterator[None]:
    """Log that something cannot be removed, and go on; the next agent tries again."""
    try:
        yield
    except (OSError, TankError) as error:
        _log.warning("cannot remove what a former agent left", what=what, error=str(error))
