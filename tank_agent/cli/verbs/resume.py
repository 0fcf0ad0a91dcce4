"""Follow files and git again: one pod that is suspended or pinned, or without a name all sources."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of

HELP = "follow files and git again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one pod; without it, everything")
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from tank_agent.cli.output import print_json
    from tank_agent.spec.printable import escape

    sources = client_of(arguments).resume(arguments.name)
    if arguments.output == "json":
        print_json(sources)
    elif arguments.name is not None:
        print(escape(f"{arguments.name} follows its file again"))
    else:
        print("files and git are followed again")
    return 0
