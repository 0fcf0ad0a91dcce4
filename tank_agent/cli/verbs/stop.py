"""Let nothing of pods run until `tank start`, also over restarts of the agent and of the machine.

Their files go on counting, and what they say by then runs once the pods are started. A job ends its run and
begins none.
"""

from __future__ import annotations

import argparse
import time

from tank_agent.cli.arguments import add_output, add_wait, client_of, for_each
from tank_agent.cli.output import say, show

HELP = "hold pods stopped, over reboots, until `tank start`"
EXAMPLES = (
    ("tank stop db", "nothing of it runs until `tank start db`"),
    ("tank stop web db --wait", "return once all of it has ended"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")
    add_wait(parser, "all of it has ended")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)
    results, code = for_each(arguments, arguments.names, client.stop)
    show(arguments, results, lambda: say(*(one.message for one in results)))
    if arguments.wait:
        deadline = time.monotonic() + arguments.timeout
        for result in results:
            client.wait(result.name, "stopped", max(0.0, deadline - time.monotonic()))
    return code
