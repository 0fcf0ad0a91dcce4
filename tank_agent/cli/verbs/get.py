"""Print a pod's spec, in the form of a pod file."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import print_json

HELP = "a pod's spec, as TOML"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    add_output(parser, "toml")


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.spec.render import render_pod

    text = render_pod(client_of(arguments).get(arguments.name).pod)
    if arguments.output == "json":
        import tomllib

        # The same document, so that both forms use the keys of a pod file.
        print_json(tomllib.loads(text))
    else:
        print(text, end="")
    return 0
