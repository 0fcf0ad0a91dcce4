"""`tank status` of several machines: all are asked at once, and one that does not answer is a line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tank_agent.cli.output import print_error, print_table, show
from tank_agent.cli.verbs import status
from tank_agent.client.client import Client
from tank_agent.client.fast import ssh
from tank_agent.errors import AgentUnreachable, TankError
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.api.reports import PodReport, SourcesReport

# Seconds for a connection to a machine, and for each of its answers.
_WITHIN = 15.0
# Each ssh takes some CPU time while it connects.
_AT_ONCE = 16


class HostStatus(NamedTuple):
    """What a machine has answered: its pods and sources, or errors."""

    host: str
    pods: Sequence[PodReport]
    sources: SourcesReport | None
    errors: Sequence[TankError]


def run(arguments: argparse.Namespace) -> int:
    """Show the status of all machines; 1 if one of them has not answered."""
    if arguments.watch:
        print("tank status: -w shows one machine; give one --host", file=sys.stderr)
        return 2
    names = list(dict.fromkeys(arguments.names))
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        looks = [
            threads.submit(_look, address, names, everywhere=arguments.all) for address in arguments.hosts
        ]
        seen = [look.result() for look in looks]
    found = [{"host": one.host, **msgspec.to_builtins(pod)} for one in seen for pod in one.pods]
    show(arguments, found, lambda: _print_details(seen) if names else _print(seen))
    for one in seen:
        for error in one.errors:
            print_error(error, as_json=arguments.output == "json")
    missing = [name for name in names if not any(pod.name == name for one in seen for pod in one.pods)]
    for name in missing:
        print(f"tank: none of these machines has a pod {name!a}", file=sys.stderr)
    return 1 if missing or any(one.errors for one in seen) else 0


def _look(address: str, names: Sequence[str], *, everywhere: bool) -> HostStatus:
    host = ssh.parse(address).host
    try:
        # Nobody could tell which machine wants a password.
        ssh.keep(ssh.connect(address, within=_WITHIN, batch=True))
        client = Client(address, timeout=_WITHIN)
        pods = client.status(everywhere=everywhere or bool(names))
        chosen = [pod for pod in pods if pod.name in names] if names else pods
        return HostStatus(host, chosen, client.sources(), ())
    except AgentUnreachable as error:
        return HostStatus(host, (), None, (error,))
    except TankError as error:
        return HostStatus(host, (), None, (TankError(error.message, where=host, hint=error.hint),))


def _print_details(seen: Sequence[HostStatus]) -> None:
    """Print everything that is known of some pods, machine by machine."""
    for number, one in enumerate(one for one in seen if one.pods):
        if number:
            print()
        print(f"{'host':<12}{one.host}")
        status.print_details(one.pods)


def _print(seen: Sequence[HostStatus]) -> None:
    """Print a table of the pods of all machines, and below it the troubles of each."""
    columns = status.columns_of([pod for one in seen for pod in one.pods])
    rows = [[_short(one.host), *(cell(pod) for _, cell in columns)] for one in seen for pod in one.pods]
    headers = ["HOST", *(header for header, _ in columns)]
    print_table(headers, rows, spare=status.SPARE, cut=status.CUT)
    lines = [line for one in seen for line in _troubles(one)]
    if lines:
        print("", *lines, sep="\n")


def _troubles(one: HostStatus) -> list[str]:
    if one.sources is None:
        return []
    host, troubles = _short(one.host), status.troubles_of(one.pods, one.sources)
    of_pods = [
        "\n  ".join(map(escape, (f"{host}: {name}: {lines[0]}", *lines[1:])))
        for name, lines in troubles.items()
    ]
    warnings = {warning: None for pod in one.pods for warning in pod.warnings}
    elsewhere = [pod for pod in one.pods if pod.elsewhere]
    of_sources = status.lines_of_sources(one.sources, elsewhere)
    return [
        *of_pods,
        *(escape(f"{host}: warning: {warning}") for warning in warnings),
        *(f"{host}: {line}" for line in of_sources),
    ]


def _short(host: str) -> str:
    return host.removeprefix(ssh.SCHEME)
