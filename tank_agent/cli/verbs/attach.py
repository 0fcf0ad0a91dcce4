"""Take over the terminal of a container's main process (tty = true); Ctrl-P Ctrl-Q leaves, and it goes on."""

from __future__ import annotations

import argparse

from tank_agent.cli.plain_exec import conclude
from tank_agent.cli.verbs.exec import add_detach_keys
from tank_agent.client.fast import http
from tank_agent.client.fast.start import attach

HELP = "take over the terminal of a container"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME[/CONTAINER]", help="without /CONTAINER: the pod's first with a terminal"
    )
    add_detach_keys(parser)


def run(arguments: argparse.Namespace) -> int:
    path = http.socket_path(arguments.socket)
    return conclude(lambda: attach(path, arguments.name, detach_keys=arguments.detach_keys))
