"""Let pods run again that `tank stop` stopped, each with a fresh run of all that its file says now."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, add_wait, client_of, for_each
from tank_agent.cli.output import say, show
from tank_agent.cli.verbs.restart import wait_until_ready

HELP = "let stopped pods run again"
EXAMPLES = (
    ("tank start db", "let it run again"),
    ("tank start db web --wait", "return once both are ready"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")
    add_wait(parser, "the pods are ready")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)
    results, code = for_each(arguments, arguments.names, client.start)
    show(arguments, results, lambda: say(*(one.message for one in results)))
    return max(code, wait_until_ready(client, results, arguments))
