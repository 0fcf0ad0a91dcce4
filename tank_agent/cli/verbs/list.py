"""Print the pods that should run, one line each: what is declared, where, and since when.

`tank status` says what runs.
"""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import ago, ports_text, print_table, show

HELP = "the pods that should run, one line each; `tank status` says what runs"
EXAMPLES = (
    ("tank list", "what should run, and since when"),
    ("tank list -o json", "with every key of the pods"),
)

# What a narrow terminal does without.
_SPARE = ("REVISION", "CHANGED", "CONTAINERS", "SCHEDULE", "PORTS", "OWNER")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    pods = client_of(arguments).list()
    # The columns are left out where no pod has anything there.
    published, scheduled = any(pod.ports for pod in pods), any(pod.pod.schedule for pod in pods)
    rows = (
        (
            pod.name,
            len(pod.pod.containers),
            pod.owner,
            pod.revision[:12] or "-",
            ago(pod.changed_at),
            *((pod.pod.schedule.cron if pod.pod.schedule else "-",) if scheduled else ()),
            *((ports_text(pod.ports),) if published else ()),
        )
        for pod in pods
    )
    more = (*(("SCHEDULE",) if scheduled else ()), *(("PORTS",) if published else ()))
    headers = ("NAME", "CONTAINERS", "OWNER", "REVISION", "CHANGED", *more)
    return show(arguments, pods, lambda: print_table(headers, rows, spare=_SPARE, cut=("OWNER", "PORTS")))
