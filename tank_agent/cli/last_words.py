"""The lines about containers that ended badly: what they printed last, and the command that shows more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tank_agent.api.reports import PodReport

# Not those in which a container runs, or was stopped on purpose.
_DOWN = ("pending", "pulling", "starting", "backing-off", "failed", "degraded")


def last_words(pod: PodReport) -> Iterator[str]:
    """Yield a line on each container of a pod that is down after a bad end; jobs tell of their runs."""
    for one in pod.containers if pod.job is None else ():
        end = one.exit
        if end is None or one.phase not in _DOWN or not (end.code or end.signal):
            continue
        said = f"printed last: {one.last_line}; see" if one.last_line else "see"
        yield f"{one.name}: {said} `tank logs {pod.name}{f'/{one.name}' if len(pod.containers) > 1 else ''}`"
