"""Run the agent in the foreground, until SIGTERM or Ctrl-C. Containers go on when it ends."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_places, load_places


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    add_places(parser)
    parser.add_argument(
        "--stop-pods", action="store_true", help="stop every pod when the agent is asked to end"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from tank_agent.agent import run as run_agent

    return run_agent(load_places(arguments), stop_pods=arguments.stop_pods)
