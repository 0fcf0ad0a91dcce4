"""Give a pod an older spec: that of a generation or a commit, else the one before the present.

A pod that follows a file or git is pinned there until `tank resume NAME`, or until its file changes.
"""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import YELLOW, colored, print_json, say
from tank_agent.spec.printable import escape

HELP = "give a pod an older spec, and pin it there"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("revision", nargs="?", metavar="REV", help="a generation, or a commit")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)
    revision = client.rollback(arguments.name, arguments.revision)
    status = client.status(arguments.name)
    if arguments.output == "json":
        print_json(status)
        return 0
    place = f"generation {revision.generation}" if revision.generation else "a commit that never ran here"
    what = f"{revision.revision[:12] or '-'} {revision.subject}".rstrip()
    say(f"{arguments.name} goes back to {place}, {what}")
    if status.hold is not None:
        text = f"it is {status.hold.kind} there; `tank resume {arguments.name}` follows its file again"
        print(colored(escape(text), YELLOW))
    return 0
