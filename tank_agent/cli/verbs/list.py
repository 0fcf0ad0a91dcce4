"""Print the pods that should run, one line each."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import ago, ports_text, print_table, show

HELP = "the pods, one line each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    pods = client_of(arguments).list()
    # The column is left out where no pod has ports.
    published = any(pod.ports for pod in pods)
    rows = (
        (
            pod.name,
            len(pod.pod.containers),
            pod.owner,
            pod.revision[:12] or "-",
            ago(pod.changed_at),
            *((ports_text(pod.ports),) if published else ()),
        )
        for pod in pods
    )
    headers = ("NAME", "CONTAINERS", "OWNER", "REVISION", "CHANGED", *(("PORTS",) if published else ()))
    return show(arguments, pods, lambda: print_table(headers, rows))
