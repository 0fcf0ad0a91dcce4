"""Let a pod stay as it is, whatever its file says; without a name, all pods.

What runs goes on, and is kept running. `tank resume` ends it.
"""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import client_of
from tank_agent.cli.output import say, show
from tank_agent.cli.verbs.resume import add_arguments

__all__ = ["EXAMPLES", "HELP", "add_arguments", "run"]

HELP = "leave a pod, or all, as they are, whatever files and git say"
EXAMPLES = (
    ("tank suspend web", "web stays as it is"),
    ("tank suspend", "all pods stay as they are"),
)


def run(arguments: argparse.Namespace) -> int:
    sources = client_of(arguments).suspend(arguments.name)
    text = f"{arguments.name} no longer follows its file"
    if arguments.name is None:
        text = "files and git no longer count; `tank resume` follows them again"
    return show(arguments, sources, lambda: say(text))
