"""Let a pod stay as it is, whatever its file says; without a name, all pods.

What runs goes on, and is kept running. `tank resume` ends it.
"""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of

HELP = "leave a pod, or all, as they are, whatever files and git say"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one pod; without it, everything")
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from tank_agent.cli.output import print_json
    from tank_agent.spec.printable import escape

    sources = client_of(arguments).suspend(arguments.name)
    if arguments.output == "json":
        print_json(sources)
    elif arguments.name is not None:
        print(escape(f"{arguments.name} no longer follows its file"))
    else:
        print("files and git no longer count; `tank resume` follows them again")
    return 0
