"""Remove pods. Their managed volumes stay; a pod that is not there is no error."""

from __future__ import annotations

import argparse
import time

from tank_agent.cli.arguments import add_output, client_of, duration, for_each
from tank_agent.cli.output import say, show

HELP = "remove pods"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--wait", action="store_true", help="until nothing of the pods is left")
    parser.add_argument("--timeout", type=duration, default=60.0, metavar="T", help="of --wait (default 60s)")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.api.types import DELETED

    client = client_of(arguments)
    results, code = for_each(arguments.names, lambda name: {"name": name, "deleted": client.delete(name)})
    lines = (f"{one['name']} {'deleted' if one['deleted'] else 'was not there'}" for one in results)
    show(arguments, results, lambda: say(*lines))
    if arguments.wait:
        deadline = time.monotonic() + arguments.timeout
        for result in results:
            client.wait(result["name"], DELETED, max(0.0, deadline - time.monotonic()))
    return code
