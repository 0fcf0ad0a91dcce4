"""Show what the containers that run use: CPU, memory and its limit, processes, uptime; live on a terminal.

100 % is one CPU. In a pipe, one table follows the other; -1 prints one, and so does -o json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tank_agent.cli.arguments import add_interval, add_output, client_of
from tank_agent.cli.output import memory, print_table, say, seconds_of, show, uptime

if TYPE_CHECKING:
    from tank_agent.api.reports import ContainerReport, PodReport

HELP = "what containers use: CPU, memory, processes; live"
EXAMPLES = (
    ("tank top", "all, live; q or Ctrl-C ends"),
    ("tank top web db/app --sort memory", "some of them"),
    ("tank top -1", "one table"),
    ("tank top -o json", "for a script"),
)
# Seconds between the two looks of one table: CPU is what was used meanwhile.
_BETWEEN = 1.0


class _Sample(NamedTuple):
    """The CPU time of a run at a moment, both in seconds."""

    started_at: str | None
    cpu: float
    at: float


class ContainerUse(NamedTuple):
    """A container's use: `cpu_percent` of one CPU, None before the second look; memory in bytes."""

    pod: str
    container: str
    cpu_percent: float | None
    memory: int
    memory_limit: int | None
    pids: int
    started_at: str | None


class Meter:
    """Turns CPU time into percent, from one look to the next."""

    def __init__(self) -> None:
        self._former: dict[tuple[str, str], _Sample] = {}

    def read(self, pods: Sequence[PodReport], at: float) -> list[ContainerUse]:
        """Return the use of each container that runs; `at` is in seconds of a clock that goes evenly."""
        former, self._former = self._former, {}
        return [self._read(pod.name, one, at, former) for pod in pods for one in pod.containers if one.usage]

    def _read(
        self,
        pod: str,
        one: ContainerReport,
        at: float,
        former: dict[tuple[str, str], _Sample],
    ) -> ContainerUse:
        used, percent = one.usage, None
        assert used is not None
        key = pod, one.name
        now, then = _Sample(one.started_at, used.cpu, at), former.get(key)
        self._former[key] = now
        # A run that began since then counts from 0.
        if then is not None and then.started_at == now.started_at and then.at < at and then.cpu <= now.cpu:
            percent = round(100 * (now.cpu - then.cpu) / (at - then.at), 1)
        return ContainerUse(pod, one.name, percent, used.memory, one.memory_limit, used.pids, one.started_at)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME[/CONTAINER]", help="only these")
    text = "print one table, a second later"
    parser.add_argument("-1", "--once", "--no-stream", dest="once", action="store_true", help=text)
    text = "the column that decides the order (default cpu)"
    parser.add_argument("--sort", choices=(*_ORDERS,), default="cpu", help=text)
    add_interval(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    client, meter = client_of(arguments), Meter()
    names: list[str] = list(dict.fromkeys(arguments.names))

    def look() -> tuple[list[ContainerUse], list[str]]:
        pods = client.status()
        used = meter.read(pods, time.monotonic())
        missing = [name for name in names if not _is_there(name, pods)]
        return sorted(_chosen(used, names), key=_ORDERS[arguments.sort]), missing

    if not arguments.once and arguments.output != "json":
        from tank_agent.cli.live import show_live

        return show_live(look, _print, arguments.interval)
    look()
    time.sleep(min(_BETWEEN, arguments.interval))
    used, missing = look()
    show(arguments, [one._asdict() for one in used], lambda: _print((used, [])))
    sys.stdout.flush()
    for name in missing:
        print(f"tank: {_no(name)}", file=sys.stderr)
    return 1 if missing else 0


def _is_there(name: str, pods: Sequence[PodReport]) -> bool:
    pod, slash, container = name.partition("/")
    named = [one for one in pods if one.name == pod]
    return any(not slash or any(each.name == container for each in one.containers) for one in named)


def _chosen(used: Sequence[ContainerUse], names: Sequence[str]) -> list[ContainerUse]:
    return [one for one in used if not names or one.pod in names or f"{one.pod}/{one.container}" in names]


def _no(name: str) -> str:
    from tank_agent.spec.printable import escape

    return f"there is no {'container' if '/' in name else 'pod'} {escape(name)}"


def _print(seen: tuple[Sequence[ContainerUse], Sequence[str]]) -> None:
    """Print a table, its sum, and the names that are none."""
    used, missing = seen
    rows = [
        (
            f"{one.pod}/{one.container}",
            "-" if one.cpu_percent is None else f"{one.cpu_percent:.1f}",
            memory(one.memory),
            memory(one.memory_limit) if one.memory_limit else "-",
            f"{100 * one.memory / one.memory_limit:.0f}" if one.memory_limit else "-",
            one.pids,
            uptime(one.started_at),
        )
        for one in used
    ]
    if rows:
        headers = ("CONTAINER", "CPU %", "MEMORY", "LIMIT", "LIMIT %", "PIDS", "UPTIME")
        print_table(headers, rows, spare=("LIMIT", "UPTIME", "LIMIT %", "PIDS"))
    else:
        print("no container runs")
    if len(rows) > 1:
        cpu, pids = sum(one.cpu_percent or 0.0 for one in used), sum(one.pids for one in used)
        print()
        print(f"all: {cpu:.1f} % CPU, {memory(sum(one.memory for one in used))} of memory, {pids} pids")
    say(*map(_no, missing))


def _name(one: ContainerUse) -> tuple[str, str]:
    return one.pod, one.container


# The largest first; of equals by name.
_ORDERS = {
    "cpu": lambda one: (-(one.cpu_percent or 0.0), -one.memory, _name(one)),
    "memory": lambda one: (-one.memory, _name(one)),
    "pids": lambda one: (-one.pids, _name(one)),
    "uptime": lambda one: (seconds_of(one.started_at) or 0.0, _name(one)),
    "name": _name,
}
