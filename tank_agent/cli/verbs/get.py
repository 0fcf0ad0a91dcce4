"""Print a pod's spec, in the form of a pod file."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import print_json

HELP = "a pod's spec, as TOML"
EXAMPLES = (
    ("tank get web", "the pod file of web"),
    ("tank get web > web.toml", "to apply it again, or elsewhere"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    add_output(parser, "toml")


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.errors import PodNotFound
    from tank_agent.spec.render import render_pod

    try:
        text = render_pod(client_of(arguments).get(arguments.name).pod)
    except PodNotFound as error:
        from tank_agent.spec.other_tools.verbs import KINDS, VERBS

        if arguments.name not in KINDS:
            raise
        raise PodNotFound(error.message, hint=VERBS["pods"]) from error
    if arguments.output == "json":
        import tomllib

        # The same document, so that both forms use the keys of a pod file.
        print_json(tomllib.loads(text))
    else:
        print(text, end="")
    return 0
