"""Run the agent in the foreground, until SIGTERM or Ctrl-C. Containers go on when it ends."""

from __future__ import annotations

import argparse
from functools import partial

from tank_agent.cli.arguments import add_places, load_places

HELP = "run the agent in the foreground; systemd runs this"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_places(parser)
    parser.add_argument(
        "--stop-pods", action="store_true", help="stop every pod when the agent is asked to end"
    )
    parser.add_argument(
        "--drain", action="store_true", help="no agent: stop the pods that run, and end (at power off)"
    )


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.agent import lifecycle as agent

    load = partial(load_places, arguments)
    if arguments.drain:
        return agent.drain(load, partial(load, with_errors=True))
    return agent.run(load, stop_pods=arguments.stop_pods)
