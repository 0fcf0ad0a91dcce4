"""Print what a pod's containers printed, over all their runs; with several, each line begins with a name."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import re
import sys
import time
from typing import BinaryIO

from tank_agent.cli.arguments import add_output, duration, whole_number
from tank_agent.client.fast import http
from tank_agent.client.logs import LogLine, open_logs
from tank_agent.spec.printable import escape, escape_output

HELP = "what a pod's containers printed, and with -f what they print"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[/CONTAINER]", help="without /CONTAINER: all of the pod's")
    parser.add_argument("-f", "--follow", action="store_true", help="go on, until the pod ends or Ctrl-C")
    parser.add_argument(
        "--tail", type=whole_number, metavar="N", help="begin with the last N lines of each container"
    )
    parser.add_argument(
        "--since", type=since, metavar="T", help="10m (ago), 2026-11-22T06:00:00Z, a date, or Unix seconds"
    )
    parser.add_argument("--timestamps", action="store_true", help="begin each line with its time")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    several, lines = open_logs(
        http.socket_path(arguments.socket),
        arguments.name,
        follow=arguments.follow,
        tail=arguments.tail,
        since=arguments.since,
    )
    output = sys.stdout.buffer
    printer = _Printer(output, safe=sys.stdout.isatty(), timestamps=arguments.timestamps, names=several)
    for line in lines:
        if arguments.output == "json":
            output.write(_json(arguments.name, line).encode())
        else:
            printer.write(line)
        if arguments.follow:
            output.flush()
    return 0


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
