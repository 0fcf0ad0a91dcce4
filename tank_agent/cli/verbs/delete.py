"""Remove pods. Their managed volumes stay; a pod that is not there is no error."""

from __future__ import annotations

import argparse
import time

from tank_agent.cli.arguments import add_output, client_of, duration

HELP = "remove pods"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--wait", action="store_true", help="until nothing of the pods is left")
    parser.add_argument("--timeout", type=duration, default=60.0, metavar="T", help="of --wait (default 60s)")
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from tank_agent.api.types import DELETED
    from tank_agent.cli.each import for_each
    from tank_agent.cli.output import print_json
    from tank_agent.spec.printable import escape

    client = client_of(arguments)

    def delete(name: str) -> dict[str, object]:
        return {"name": name, "deleted": client.delete(name)}

    results, code = for_each(arguments.names, delete)
    if arguments.output == "json":
        print_json(results)
    else:
        for result in results:
            print(f"{escape(str(result['name']))} {'deleted' if result['deleted'] else 'was not there'}")
    if arguments.wait:
        deadline = time.monotonic() + arguments.timeout
        for result in results:
            client.wait(str(result["name"]), DELETED, max(0.0, deadline - time.monotonic()))
    return code
