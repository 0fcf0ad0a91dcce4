"""Wait until a pod's current spec is in a phase; after --timeout, print its phase instead and end with 1."""

from __future__ import annotations

import argparse

from tank_agent.api.types import DELETED, PHASES, READY
from tank_agent.cli.arguments import add_output, client_of, duration
from tank_agent.cli.output import say, show

HELP = "wait until a pod is in a phase"
EXAMPLES = (
    ("tank wait web", "until it runs, at most 60s"),
    ("tank wait web --for completed --timeout 10m", "until it has ended well"),
    ("tank wait web --for deleted", "until nothing of it is left"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    phases = (*PHASES, READY, DELETED)
    text = f"{', '.join(PHASES)}, {READY}, or {DELETED} (default running)"
    parser.add_argument("--for", dest="phase", choices=phases, default="running", metavar="PHASE", help=text)
    parser.add_argument("--timeout", type=duration, default=60.0, metavar="T", help="default 60s")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    found = client_of(arguments).wait(arguments.name, arguments.phase, arguments.timeout)
    return show(arguments, found, lambda: say(f"{found.name} {found.phase}"))
