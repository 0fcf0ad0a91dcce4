"""Take over the terminal of a container's main process (tty = true); Ctrl-P Ctrl-Q leaves, and it goes on."""

from __future__ import annotations

import argparse
from functools import partial

from tank_agent.cli.plain_exec import conclude, target, tell
from tank_agent.cli.verbs.exec import add_session
from tank_agent.client.fast import http
from tank_agent.client.fast.start import attach

HELP = "take over the terminal of a container"
EXAMPLES = (
    ("tank attach console", "Ctrl-P Ctrl-Q leaves it running"),
    ("tank attach console --detach-keys ctrl-x", "with other keys to leave"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME[/CONTAINER]", help="without /CONTAINER: the pod's first with a terminal"
    )
    add_session(parser)


def run(arguments: argparse.Namespace) -> int:
    path, name = http.socket_path(arguments.socket), target(arguments, "attach")
    if isinstance(name, int):
        return name
    keys, wait, slow = arguments.detach_keys, arguments.wait, partial(tell, path, name)
    return conclude(lambda: attach(path, name, detach_keys=keys, wait=wait, slow=slow))
