"""Print tables, times for people, JSON and errors; nothing in them can steer a terminal."""

from __future__ import annotations

import contextlib
import errno
import io
import operator
import os
import sys
import time
import unicodedata
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from tank_agent.linux.standard_streams import CannotWrite
from tank_agent.spec.printable import escape, escape_json, to_json

if TYPE_CHECKING:
    from tank_agent.errors import TankError

RED, GREEN, YELLOW, BOLD = "31", "32", "33", "1"
_COLORS = {
    **dict.fromkeys(("running", "completed", "healthy", "good", "succeeded"), GREEN),
    **dict.fromkeys(("failed", "degraded", "unhealthy", "rolled-back", "quarantined", "timed-out"), RED),
    **dict.fromkeys(("backing-off", "updating", "rolling-back", "blocked"), YELLOW),
}
_COLORED_COLUMNS = ("PHASE", "HEALTH", "UPDATE", "OUTCOME", "LAST RUN")
# The least that a column is shortened to, and the least of a digest that is shown.
_LEAST = 16
_DIGEST = 12
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


class Page(io.StringIO):
    """What is printed for a terminal of this width, as a text."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def isatty(self) -> bool:
        """Return that it is for a terminal."""
        return True


def colored(text: str, color: str, stream: TextIO | None = None) -> str:
    """Color a text for a terminal, unless NO_COLOR is set (no-color.org)."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{color}m{text}\x1b[0m"


def asked_by(user: str) -> str:
    """Return what follows a message that a user is the reason of; nothing without a user."""
    return f" (by {user})" if user else ""


def colored_phase(phase: str) -> str:
    """Color a phase, a health, or the state of an update green, yellow or red."""
    return colored(escape(phase), _COLORS[phase]) if phase in _COLORS else escape(phase)


def print_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    spare: Sequence[str] = (),
    cut: Sequence[str] = (),
) -> list[str]:
    """Print rows in columns as wide as they need; those of phases, health and outcomes are colored.

    On a terminal that is too narrow, the columns of `cut` are shortened, and those of `spare` left out, the
    first one first, as far as it takes; at last, the first column is shortened.

    Returns the headers of the columns that were left out.
    """
    cells = [[escape(str(cell)) for cell in row] for row in rows]
    room = columns() if spare or cut else None
    dropped: list[str] = []
    if room is not None:
        headers, cells, dropped = _fitted(headers, cells, room, spare, cut)
    widths = [max(map(width_of, column)) for column in zip(headers, *cells, strict=True)]

    def line(cells: Sequence[str], texts: Sequence[str]) -> str:
        # Widths are those of the visible characters, without colors.
        spaces = (" " * (width - width_of(cell)) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(map(operator.add, texts, spaces)).rstrip()

    print(colored(line(headers, headers), BOLD))
    states = {at for at, header in enumerate(headers) if header in _COLORED_COLUMNS}
    for row in cells:
        print(line(row, [colored_phase(cell) if at in states else cell for at, cell in enumerate(row)]))
    return dropped


def _fitted(
    headers: Sequence[str], cells: list[list[str]], room: int, spare: Sequence[str], cut: Sequence[str]
) -> tuple[Sequence[str], list[list[str]], list[str]]:
    """Return headers and rows that fit into a number of columns, and the headers that had to go."""
    widths = {
        header: max(map(width_of, (header, *column))) for header, *column in zip(headers, *cells, strict=True)
    }
    least = {header: min(widths[header], max(len(header), _LEAST)) for header in cut if header in widths}
    kept, dropped = list(headers), []

    def over(of: Mapping[str, int]) -> int:
        return sum(of.get(header, widths[header]) for header in kept) + 2 * (len(kept) - 1) - room

    for header in spare:
        if over(least) > 0 and header in kept:
            kept.remove(header)
            dropped.append(header)
    for header in (*cut, kept[0]):
        if header in kept and (excess := over({})) > 0:
            widths[header] = max(least.get(header, len(header)), widths[header] - excess)
    places = [(headers.index(header), widths[header]) for header in kept]
    return kept, [[shortened(row[at], width) for at, width in places] for row in cells], dropped


def shortened(text: str, width: int) -> str:
    """Return a text that takes at most `width` columns, cut in the middle, or in its digest at the end."""
    if width_of(text) <= width:
        return text
    name, at, digest = text.partition("@sha256:")
    if at and len(name) + len(at) + _DIGEST + 1 <= width:
        return f"{name}{at}{digest[: width - len(name) - len(at) - 1]}…"
    left = width // 2
    right = width - 1 - left
    while True:
        short = f"{text[:left]}…{text[len(text) - right :]}"
        if width_of(short) <= width or not left:
            return short
        # Characters that take two columns.
        left, right = left - 1, max(0, right - 1)


def show(arguments: Namespace, value: object, text: Callable[[], object]) -> int:
    """Print a value as JSON for `-o json`, else call `text` to print it; return 0."""
    if arguments.output == "json":
        print_json(value)
    else:
        text()
    return 0


def say(*lines: str) -> None:
    """Print lines of text from elsewhere, which must not steer the terminal."""
    for line in lines:
        print(escape(line))


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    import msgspec

    print(escape_json(msgspec.json.format(to_json(value)).decode()))


def json_line(value: object) -> str:
    """Return a value as one line of JSON."""
    return escape_json(to_json(value).decode())


def print_error(error: TankError, *, as_json: bool = False) -> None:
    """Print an error to stderr: what, where, and what to do now; as JSON where the output is asked for so."""
    from tank_agent.errors import InvalidSpec

    if as_json:
        from tank_agent.api.types import Envelope
        from tank_agent.api.wire import error_body

        prefix, text = "", json_line(Envelope(error_body(error)))
    else:
        text = escape(str(error), keep="\n")
        # Findings stand alone, so that an editor can jump to file:line.
        prefix = "" if isinstance(error, InvalidSpec) else colored("tank: ", RED, sys.stderr)
    text = f"{prefix}{text}"
    if "JOURNAL_STREAM" in os.environ:
        text = _with_priority(text)
    # Earlier output comes first, also if both streams go to one file. An error here comes again at the end.
    with contextlib.suppress(OSError, CannotWrite):
        sys.stdout.flush()
    print(text, file=sys.stderr)


def _with_priority(text: str) -> str:
    """Mark each line as an error for the journal (sd-daemon(3)), if that is what reads standard error."""
    from tank_agent.linux.systemd import stderr_is_journal

    return "\n".join(f"<3>{line}" for line in text.splitlines()) if stderr_is_journal(os.environ) else text


def cannot_write(error: OSError) -> TankError:
    """Return the error for output that is lost."""
    from tank_agent.errors import TankError

    if error.errno == errno.EBADF:
        return TankError("cannot write: the output is closed")
    return TankError(f"cannot write: {error.strerror or error}")


def ports_text(ports: Iterable[object]) -> str:
    """Write ports of the machine in one line: "127.0.0.1:8080→80/tcp, 0.0.0.0:53→53/udp"."""
    return ", ".join(map(str, ports)) or "-"


def short_digest(image: str | None, digest: str | None) -> str:
    """Write the beginning of an image's digest behind its name, "@3f2a…", unless that names one already."""
    return "" if not digest or "@" in (image or "") else f"@{digest.removeprefix('sha256:')[:12]}"


def megabytes(size: float) -> str:
    """Write an amount of data for people: "57.3 MB", with units of 1000 as disks and networks have them."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1000:.1f} kB" if size >= 1000 else f"{size:.0f} B"


def memory(size: float) -> str:
    """Write an amount of memory as pod files have it: "57.3M", with units of 1024."""
    for unit, factor in (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20)):
        if size >= factor:
            return f"{size / factor:.1f}{unit}"
    return f"{size / 1024:.0f}K"


def share(done: int, total: int) -> str:
    """Write how much is done of something: "12.3 MB of 57.3 MB (21 %)"."""
    percent = f" ({100 * done // total} %)" if total else ""
    return f"{megabytes(done)} of {megabytes(total)}{percent}"


def span(seconds: float) -> str:
    """Write a duration for people, in its two largest units: "1h 5m"."""
    left = max(0, round(seconds))
    parts = []
    for unit, size in _UNITS:
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2]) or "0s"


def uptime(moment: str | float | None, now: float | None = None) -> str:
    """Write the time since a time of the API in one word: "45s", "3h5m", "12d"; "-" if there is none."""
    then = seconds_of(moment)
    if then is None:
        return "-"
    parts = span((time.time() if now is None else now) - then).split()
    # The second unit tells nothing any more.
    return parts[0] if int(parts[0][:-1]) >= 10 else "".join(parts)


def seconds_of(moment: str | float | None) -> float | None:
    """Return a time of the API (RFC 3339, or Unix time) as Unix time."""
    if not isinstance(moment, str):
        return moment
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()


def ago(moment: str | float | None) -> str:
    """Write how long ago a time of the API was."""
    then = seconds_of(moment)
    return "-" if then is None else f"{_close(time.time() - then)} ago"


def until(moment: str | float | None) -> str:
    """Write how long it is until a time of the API; "now" once it has passed."""
    then = seconds_of(moment)
    left = 0.0 if then is None else then - time.time()
    return f"in {_close(left)}" if left >= 0.05 else "now"


def _close(seconds: float) -> str:
    """Write the time to or from a moment; less than a second in tenths: "0.4s"."""
    return f"{seconds:.1f}s" if 0.05 <= seconds < 0.95 else span(seconds)


def columns() -> int | None:
    """Return how many columns the terminal has; None if the output is none, or does not say."""
    if isinstance(sys.stdout, Page):
        return sys.stdout.columns
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    return None


def width_of(text: str) -> int:
    """Return the number of terminal columns that a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    marks = sum(unicodedata.combining(char) != 0 for char in text)
    return len(text) + wide - marks
