"""Give pods, or single containers of them, a fresh run: ended in order and with grace, then started again.

It asks for that and returns, unless --wait is given. A pod as a whole also runs its init containers again.
The image stays the same one; `tank image update` takes a newer. It counts as no failure.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, add_wait, client_of, for_each
from tank_agent.cli.output import say, show

if TYPE_CHECKING:
    from tank_agent.api.types import AskedPod
    from tank_agent.client.client import Client

HELP = "give pods, or containers of them, a fresh run"
EXAMPLES = (
    ("tank restart web", "all containers of web, the init containers first"),
    ("tank restart web/app", "only this container"),
    ("tank restart web --wait", "return once it is ready again"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME[/CONTAINER]")
    add_wait(parser, "the pods are ready")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)
    results, code = for_each(arguments, arguments.names, client.restart)
    show(arguments, results, lambda: say(*(one.message for one in results)))
    return max(code, wait_until_ready(client, results, arguments))


def wait_until_ready(client: Client, results: Sequence[AskedPod], arguments: argparse.Namespace) -> int:
    """Wait with --wait until pods are ready, but for jobs; print what keeps one from that, and return 1."""
    from tank_agent.api.types import READY

    if not arguments.wait:
        return 0
    deadline = time.monotonic() + arguments.timeout
    waited_for = [one.name for one in results if one.change in ("started", "restarted") and one.containers]
    _, code = for_each(
        arguments, waited_for, lambda name: client.wait(name, READY, max(0.0, deadline - time.monotonic()))
    )
    return code
