"""Give a pod an older spec: of a generation or a commit, else the last one before that did not fail.

A pod that follows a file or git is pinned there until `tank resume NAME`, or until its file changes.
"""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import YELLOW, colored, print_json, say
from tank_agent.spec.printable import escape

HELP = "give a pod an older spec, and pin it there"
EXAMPLES = (
    ("tank rollback web", "to the last one that did not fail"),
    ("tank rollback web 3", "to generation 3"),
    ("tank rollback web --with-data", "volumes go back to their snapshots"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("revision", nargs="?", metavar="REV", help="a generation, or a commit")
    parser.add_argument("--force", action="store_true", help="also to one that failed as an update")
    parser.add_argument("--with-data", action="store_true", help="also put back the snapshots of its volumes")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)
    revision = client.rollback(
        arguments.name, arguments.revision, force=arguments.force, with_data=arguments.with_data
    )
    status = client.status(arguments.name)
    if arguments.output == "json":
        print_json(status)
        return 0
    place = f"generation {revision.generation}" if revision.generation else "a commit that never ran here"
    what = f"{revision.revision[:12] or '-'} {revision.subject}".rstrip()
    data = ", with the data that it had" if arguments.with_data else ""
    say(f"{arguments.name} goes back to {place}, {what}{data}")
    if status.stopped is not None:
        print(colored(escape(f"it is stopped, and runs once you `tank start {arguments.name}`"), YELLOW))
    if status.hold is not None:
        text = f"it is {status.hold.kind} there; `tank resume {arguments.name}` follows its file again"
        print(colored(escape(text), YELLOW))
    return 0
