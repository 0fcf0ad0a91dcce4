"""Create or replace the pods of a TOML file (`-`: standard input). All of it is stored, or nothing."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, client_of, duration
from tank_agent.cli.output import say, show

if TYPE_CHECKING:
    from tank_agent.client.client import Client

HELP = "create or replace pods from a TOML file"

# The longest that one request waits for a pod to run, in seconds.
_LOOK = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE|-")
    parser.add_argument("--wait", action="store_true", help="until every pod runs, or has completed")
    parser.add_argument("--timeout", type=duration, default=60.0, metavar="T", help="of --wait (default 60s)")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.client.client import pod_file_name, read_pod_file

    client = client_of(arguments)
    path = Path(arguments.file)
    applied = client.apply(read_pod_file(path), file=pod_file_name(path))
    show(arguments, applied, lambda: say(*(f"{pod.name} {pod.change}" for pod in applied)))
    if arguments.wait:
        deadline = time.monotonic() + arguments.timeout
        for pod in applied:
            _wait_until_up(client, pod.name, deadline, arguments.timeout)
    return 0


def _wait_until_up(client: Client, name: str, deadline: float, timeout: float) -> None:
    """Wait until a pod runs or has completed; one that failed for good is not waited for.

    Raises:
        NotReached: with what it is instead.
    """
    from tank_agent.client.client import NotReached

    while True:
        left = max(0.0, deadline - time.monotonic())
        found = client.look(name, "running", min(_LOOK, left))
        if found.phase in ("running", "completed"):
            return
        if found.phase == "failed" or left == 0:
            raise NotReached(found, "running", timeout if left == 0 else None)
