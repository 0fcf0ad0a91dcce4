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
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.api.types import DELETED

    client = client_of(arguments)

    def text() -> None:
        for result in results:
            say(f"{result['name']} {'deleted' if result['deleted'] else 'was not there'}")

    results, code = for_each(arguments.names, lambda name: {"name": name, "deleted": client.delete(name)})
    show(arguments, results, text)
    if arguments.wait:
        deadline = time.monotonic() + arguments.timeout
        for result in results:
            client.wait(result["name"], DELETED, max(0.0, deadline - time.monotonic()))
    return code
