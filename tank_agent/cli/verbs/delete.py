"""Remove pods. Their managed volumes stay; a pod that is not there is no error."""

from __future__ import annotations

import argparse
import time

from tank_agent.cli.arguments import add_output, add_wait, client_of, for_each
from tank_agent.cli.output import say, show

HELP = "remove pods"
EXAMPLES = (
    ("tank delete web", "its volumes stay"),
    ("tank delete web db --wait", "until nothing of them is left"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")
    add_wait(parser, "nothing of the pods is left")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.api.types import DELETED

    client = client_of(arguments)
    results, code = for_each(
        arguments, arguments.names, lambda name: {"name": name, "deleted": client.delete(name)}
    )
    lines = (f"{one['name']} {'deleted' if one['deleted'] else 'was not there'}" for one in results)
    show(arguments, results, lambda: say(*lines))
    if arguments.wait:
        deadline = time.monotonic() + arguments.timeout
        for result in results:
            client.wait(result["name"], DELETED, max(0.0, deadline - time.monotonic()))
    return code
