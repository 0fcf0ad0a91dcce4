"""Follow files and git again: one pod that is suspended or pinned, or without a name all sources."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import say, show

HELP = "follow files and git again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one pod; without it, everything")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    sources = client_of(arguments).resume(arguments.name)
    one = f"{arguments.name} follows its file again"
    text = "files and git are followed again" if arguments.name is None else one
    return show(arguments, sources, lambda: say(text))
