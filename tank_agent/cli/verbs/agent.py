"""Run the agent in the foreground, until SIGTERM or Ctrl-C. Containers go on when it ends."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_places, load_places
from tank_agent.cli.output import say

if TYPE_CHECKING:
    from tank_agent.settings.settings import Settings

HELP = "run the agent in the foreground; systemd runs this"
EXAMPLES = (
    ("tank agent", "in the foreground"),
    ("tank agent --check", "before a reload or a restart"),
    ("tank agent --pods-dir pods --run-dir run", "beside another agent"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_places(parser)
    parser.add_argument(
        "--stop-pods", action="store_true", help="stop every pod when the agent is asked to end"
    )
    parser.add_argument(
        "--check", action="store_true", help="only check agent.toml, as before a reload or a restart"
    )
    parser.add_argument(
        "--drain", action="store_true", help="no agent: stop the pods that run, and end (at power off)"
    )


def _check(settings: Settings) -> int:
    """Print that the configuration can be used, or raise InvalidSpec with what is wrong with its seeds."""
    from tank_agent.errors import InvalidSpec

    if settings.seed_problems:
        raise InvalidSpec(settings.seed_problems)
    say(f"{settings.file}: ok" if settings.file else "there is no agent.toml, so the defaults count: ok")
    return 0


def run(arguments: argparse.Namespace) -> int:
    load = partial(load_places, arguments)
    if arguments.check:
        return _check(load())
    # Not before: a reload waits for the check.
    from tank_agent.agent import lifecycle as agent

    if arguments.drain:
        return agent.drain(load, partial(load, with_errors=True))
    return agent.run(load, stop_pods=arguments.stop_pods)
