"""Print the pods that should run, one line each."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of

HELP = "the pods, one line each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from tank_agent.cli.output import ago, print_json, print_table

    pods = client_of(arguments).list()
    if arguments.output == "json":
        print_json(pods)
        return 0
    rows = [
        (pod.name, len(pod.pod.containers), pod.owner, pod.revision[:12] or "-", ago(pod.changed_at))
        for pod in pods
    ]
    print_table(("NAME", "CONTAINERS", "OWNER", "REVISION", "CHANGED"), rows)
    return 0
