"""Print what the containers of pods printed, over all their runs; with several, each line begins with a name.

Of a job, that is one run: the last one, and with -f the one under way, or the next.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from tank_agent.cli.arguments import add_output, duration, whole_number
from tank_agent.client.fast import http
from tank_agent.client.logs import LogLine, open_logs
from tank_agent.spec.printable import escape, escape_output

HELP = "what the containers of pods printed, and with -f what they print"
EXAMPLES = (
    ("tank logs web", "all that its containers printed"),
    ("tank logs web/app -f -n 20", "the last 20 lines of app, then go on"),
    ("tank logs web db -t", "of two pods, with the time of each line"),
    ("tank logs web --since 10m", "of the last ten minutes"),
    ("tank logs nightly --run -2", "of the last run but one of a job"),
)
_USAGE = 2
# Lines of several pods that are read ahead.
_AHEAD = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="+", metavar="NAME[/CONTAINER]", help="without /CONTAINER: all of the pod's"
    )
    parser.add_argument("-c", "--container", metavar="CONTAINER", help="the same as NAME/CONTAINER")
    parser.add_argument("-f", "--follow", action="store_true", help="go on, until the pod ends or Ctrl-C")
    parser.add_argument(
        "-n",
        "--tail",
        "--lines",
        dest="tail",
        type=_tail,
        metavar="N",
        help="begin with the last N lines of each container (default all)",
    )
    parser.add_argument(
        "--since", type=since, metavar="T", help="10m (ago), 2026-11-22T06:00:00Z, a date, or Unix seconds"
    )
    parser.add_argument(
        "--run",
        dest="run_number",
        type=run_number,
        metavar="N",
        help="of a job: run N, or -1 for the last, -2 for the one before",
    )
    parser.add_argument("-t", "--timestamps", action="store_true", help="begin each line with its time")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    names = list(dict.fromkeys(arguments.names))
    if arguments.container is not None:
        taken = next((name for name in names if "/" in name), None)
        if taken is not None:
            text = f"{escape(taken)} names a container already; leave -c away"
            print(f"tank logs: {text}", file=sys.stderr)
            return _USAGE
        names = [f"{name}/{arguments.container}" for name in names]
    opened = {
        name: open_logs(
            http.socket_path(arguments.socket),
            name,
            follow=arguments.follow,
            tail=arguments.tail,
            since=arguments.since,
            run=arguments.run_number,
        )
        for name in names
    }
    in_json, follow = arguments.output == "json", arguments.follow
    if len(names) == 1:
        print_logs(names[0], opened[names[0]], timestamps=arguments.timestamps, in_json=in_json, flush=follow)
        return 0
    printer = _printer(timestamps=arguments.timestamps, names=True)
    lines = {name: found for name, (_, found) in opened.items()}
    for name, line in _followed(lines) if follow else _merged(lines):
        if in_json:
            printer.write_json(name, line)
        else:
            printer.write(line._replace(container=f"{name.partition('/')[0]}/{line.container}"))
        if follow:
            sys.stdout.buffer.flush()
    return 0


def _tail(text: str) -> int | None:
    """Return a number of lines; None for all of them, as docker and kubectl write it."""
    return None if text in ("all", "-1") else whole_number(text)


def _merged(lines: Mapping[str, Iterator[LogLine]]) -> Iterator[tuple[str, LogLine]]:
    """Return the lines of several pods in the order of time, each with its pod's name."""
    import heapq

    def named(name: str, found: Iterator[LogLine]) -> Iterator[tuple[str, LogLine]]:
        return ((name, line) for line in found)

    return heapq.merge(*(named(name, found) for name, found in lines.items()), key=lambda pair: pair[1].time)


def _followed(lines: Mapping[str, Iterator[LogLine]]) -> Iterator[tuple[str, LogLine]]:
    """Yield the lines of several pods as they come, until the last of them ends.

    Raises:
        TankError: what one of them raised.
    """
    import queue
    import threading

    arrived: queue.Queue[tuple[str, LogLine] | BaseException | None] = queue.Queue(_AHEAD)

    def read(name: str, found: Iterator[LogLine]) -> None:
        try:
            for line in found:
                arrived.put((name, line))
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    for name, found in lines.items():
        threading.Thread(target=read, args=(name, found), daemon=True).start()
    left = len(lines)
    while left:
        one = arrived.get()
        if one is None:
            left -= 1
        elif isinstance(one, BaseException):
            raise one
        else:
            yield one


def print_logs(
    name: str,
    opened: tuple[bool, Iterator[LogLine]],
    *,
    timestamps: bool = False,
    in_json: bool = False,
    flush: bool = False,
) -> None:
    """Print the lines of `open_logs` as they come; `flush` each, for somebody who watches."""
    several, lines = opened
    printer = _printer(timestamps=timestamps, names=several)
    for line in lines:
        if in_json:
            printer.write_json(name, line)
        else:
            printer.write(line)
        if flush:
            sys.stdout.buffer.flush()


def _printer(*, timestamps: bool, names: bool) -> _Printer:
    return _Printer(sys.stdout.buffer, safe=sys.stdout.isatty(), timestamps=timestamps, names=names)


class _Printer:
    """Writes lines for people; joins the pieces of a line, unless another stream's piece comes between."""

    def __init__(self, output: BinaryIO, *, safe: bool, timestamps: bool, names: bool) -> None:
        self._output = output
        self._safe = safe
        self._timestamps = timestamps
        self._names = names
        self._open: tuple[str, str] | None = None
        # It keeps the first bytes of a character whose rest is in the next piece.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def write(self, line: LogLine) -> None:
        source = (line.container, line.stream)
        if self._open not in (None, source):
            self._output.write(self._shown(b"", whole=True) + b"\n")
            self._open = None
        if self._open is None:
            if self._names:
                self._output.write(f"{escape(line.container)} | ".encode())
            if self._timestamps:
                self._output.write(f"{escape(line.time)} ".encode())
        content = self._shown(line.content, whole=line.whole)
        self._output.write(content + b"\n" if line.whole else content)
        self._open = None if line.whole else source

    def write_json(self, name: str, line: LogLine) -> None:
        """Write a line as an object of JSON; `name` is POD or POD/CONTAINER."""
        self._output.write(_json(name, line).encode())

    def _shown(self, content: bytes, *, whole: bool) -> bytes:
        if not self._safe:
            return content
        text = self._decoder.decode(content, whole)
        return escape_output(text).encode(errors="backslashreplace")


def _json(name: str, line: LogLine) -> str:
    # Plain lines need no msgspec, whose import takes as long as all else here.
    from tank_agent.cli.output import json_line

    pod = name.partition("/")[0]
    fields = {"time": line.time, "pod": pod, "container": line.container, "stream": line.stream}
    message = line.content.decode(errors="replace")
    return json_line({**fields, "message": message, "partial": not line.whole}) + "\n"


def run_number(text: str) -> int:
    """Return the number of a job's run, from the end if it is negative, or raise ArgumentTypeError."""
    if not re.fullmatch(r"-?[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no run, such as 7, or -1 for the last one")
    return int(text)


def since(text: str) -> float:
    """Return a moment as Unix time, or raise ArgumentTypeError."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    with contextlib.suppress(argparse.ArgumentTypeError):
        return time.time() - duration(text)
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time, such as 10m, 2026-11-22T06:00:00Z or 2026-11-22"
        ) from None
