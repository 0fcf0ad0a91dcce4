"""Create or replace the pods of a TOML file (`-`: standard input). All of it is stored, or nothing.

The files that it names beside it are sent along.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, add_wait, client_of
from tank_agent.cli.output import say, show

if TYPE_CHECKING:
    from tank_agent.api.types import AppliedPod
    from tank_agent.client.client import Client

HELP = "create or replace pods from a TOML file"
EXAMPLES = (
    ("tank apply web.toml", "create or replace the pods of a file"),
    ("tank apply web.toml --wait", "and wait until they run"),
    ("cat web.toml | tank apply -", "from standard input"),
)

# The longest that one request waits for a pod to run, in seconds.
_LOOK = 0.3
# The states of an update that failed: an older revision runs, or will.
_UNDONE = ("rolling-back", "rolled-back", "quarantined")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("file", nargs="?", metavar="FILE|-")
    given.add_argument("-f", "--filename", metavar="FILE|-", help="the same, as kubectl has it")
    add_wait(parser, "every pod runs, or has completed")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.client.pod_files import pod_file_name

    client = client_of(arguments)
    path = Path(arguments.filename or arguments.file)
    applied = client.apply(path, file=pod_file_name(path))
    show(arguments, applied, lambda: say(*map(_told, applied)))
    if arguments.wait:
        deadline = time.monotonic() + arguments.timeout
        # One that a person stopped runs when a person starts it.
        for pod in (pod for pod in applied if not pod.stopped):
            _wait_until_up(client, pod.name, deadline, arguments.timeout)
    return 0


def _told(pod: AppliedPod) -> str:
    waits = f"; it is stopped until `tank start {pod.name}`" if pod.stopped else ""
    return f"{pod.name} {pod.change}{waits}"


def _wait_until_up(client: Client, name: str, deadline: float, timeout: float) -> None:
    """Wait until a pod runs or has completed; one that failed for good, or was undone, is not waited for.

    Raises:
        NotReached: with what it is instead.
    """
    from tank_agent.client.not_reached import NotReached

    while True:
        left = max(0.0, deadline - time.monotonic())
        found = client.look(name, "running", min(_LOOK, left))
        if found.phase in ("running", "completed", "scheduled"):
            return
        undone = found.rollout is not None and found.rollout.state in _UNDONE
        if found.phase == "failed" or undone or left == 0:
            raise NotReached(found, "running", timeout if left == 0 else None)
