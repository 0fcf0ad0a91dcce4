"""Print tables, times for people, JSON and errors; nothing in them can steer a terminal."""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import sys
import time
import unicodedata
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from tank_agent.linux.standard_streams import CannotWrite
from tank_agent.spec.printable import escape, escape_json, to_json

if TYPE_CHECKING:
    from tank_agent.errors import TankError

RED, GREEN, YELLOW, BOLD = "31", "32", "33", "1"
_PHASE_COLORS = {"running": GREEN, "completed": GREEN, "failed": RED, "degraded": RED, "backing-off": YELLOW}
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def colored(text: str, color: str, stream: TextIO | None = None) -> str:
    """Color a text for a terminal, unless NO_COLOR is set (no-color.org)."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{color}m{text}\x1b[0m"


def colored_phase(phase: str) -> str:
    """Color a phase green, yellow or red."""
    return colored(escape(phase), _PHASE_COLORS[phase]) if phase in _PHASE_COLORS else escape(phase)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns as wide as they need; a column called PHASE is colored."""
    cells = [[escape(str(cell)) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(headers, *cells, strict=True)]

    def line(cells: Sequence[str], texts: Sequence[str]) -> str:
        # Widths are those of the visible characters, without colors.
        spaces = (" " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(map(operator.add, texts, spaces)).rstrip()

    print(colored(line(headers, headers), BOLD))
    phase = headers.index("PHASE") if "PHASE" in headers else None
    for row in cells:
        print(line(row, [colored_phase(cell) if at == phase else cell for at, cell in enumerate(row)]))


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


def print_error(error: TankError) -> None:
    """Print an error to stderr: what, where, and what to do now."""
    from tank_agent.errors import InvalidSpec

    text = escape(str(error), keep="\n")
    # Findings stand alone, so that an editor can jump to file:line.
    prefix = "" if isinstance(error, InvalidSpec) else colored("tank: ", RED, sys.stderr)
    # Earlier output comes first, also if both streams go to one file. An error here comes again at the end.
    with contextlib.suppress(OSError, CannotWrite):
        sys.stdout.flush()
    print(f"{prefix}{text}", file=sys.stderr)


def cannot_write(error: OSError) -> TankError:
    """Return the error for output that is lost."""
    from tank_agent.errors import TankError

    if error.errno == errno.EBADF:
        return TankError("cannot write: the output is closed")
    return TankError(f"cannot write: {error.strerror or error}")


def ports_text(ports: Iterable[object]) -> str:
    """Write ports of the machine in one line: "127.0.0.1:8080→80/tcp, 0.0.0.0:53→53/udp"."""
    return ", ".join(map(str, ports)) or "-"


def megabytes(size: float) -> str:
    """Write an amount of data for people: "57.3 MB", with units of 1000 as disks and networks have them."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1000:.1f} kB" if size >= 1000 else f"{size:.0f} B"


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


def _width(text: str) -> int:
    """Return the number of terminal columns that a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    marks = sum(unicodedata.combining(char) != 0 for char in text)
    return len(text) + wide - marks
