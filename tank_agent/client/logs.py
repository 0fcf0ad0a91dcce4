"""The output of containers, line by line, as the agent streams it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from tank_agent.api.frames import SEVERAL
from tank_agent.client.fast import http


class LogLine(NamedTuple):
    """One line of output: `time` is RFC 3339 in UTC, `stream` stdout or stderr.

    `content` has no newline; where `whole` is False, the rest of the line follows in the stream's next one.
    """

    time: str
    stream: str
    container: str
    content: bytes
    whole: bool


def open_logs(
    path: str,
    name: str,
    *,
    follow: bool = False,
    tail: int | None = None,
    since: float | None = None,
    run: int | None = None,
) -> tuple[bool, Iterator[LogLine]]:
    """Return whether lines of several containers may come, and the lines, as `Client.logs` describes it."""
    query = {"follow": "1"} if follow else {}
    if tail is not None:
        query["tail"] = str(tail)
    if since is not None:
        query["since"] = moment(since)
    if run is not None:
        query["run"] = str(run)
    answered = http.ask(path, "GET", http.target_path(name, "logs", query)).answer(expected=200)
    several = answered.headers.get("content-type", "").endswith(SEVERAL)
    return several, map(_log_line, http.lines(answered, path))


def _log_line(line: bytes) -> LogLine:
    time, stream, tag, container, content = line.split(b" ", 4)
    return LogLine(time.decode(), stream.decode(), container.decode(), content, tag == b"F")


def moment(seconds: float) -> str:
    """Write a Unix time as conmon does: RFC 3339 in UTC with nanoseconds, the last three of them zero."""
    import time

    # A float of today's times is exact to a quarter of a microsecond only.
    whole, microseconds = divmod(round(seconds * 1e6), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{microseconds:06d}000+00:00"


def event_query(
    *,
    follow: bool,
    after: int,
    pod: str | None,
    by: str | None,
    kinds: Collection[str],
    since: float | None,
    tail: int | None,
) -> dict[str, str]:
    """Return the query of a request for events, as `Client.events` describes its arguments."""
    query = {"after": str(after)} | ({"follow": "1"} if follow else {}) | ({"pod": pod} if pod else {})
    if by is not None:
        query["by"] = by
    if kinds:
        query["type"] = ",".join(kinds)
    if since is not None:
        query["since"] = moment(since)
    if tail is not None:
        query["tail"] = str(tail)
    return query
