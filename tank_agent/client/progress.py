"""The lines of an answer that takes long: progress, and at last the result or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from tank_agent.api import storage, types

_Line = TypeVar("_Line", types.PullLine, types.UpdateLine)


def with_progress(lines: Iterator[_Line], progress: Callable[[storage.PullReport], None]) -> Iterator[_Line]:
    """Yield the lines of an answer; report the progress that they have, and raise their error."""
    from tank_agent.api.wire import raised_error

    for line in lines:
        if line.error is not None:
            raise raised_error(line.error)
        if line.progress is not None:
            progress(line.progress)
        yield line
