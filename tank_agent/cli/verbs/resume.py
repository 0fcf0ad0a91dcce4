"""Follow files and git again: one pod that is suspended, pinned or quarantined, or without a name all.

A pod that is quarantined tries the update that failed once more.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import say, show

if TYPE_CHECKING:
    from tank_agent.client.client import Client

HELP = "follow files and git again"
EXAMPLES = (
    ("tank resume web", "web follows its file again"),
    ("tank resume", "all pods follow their files again"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one pod; without it, everything")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    client, name = client_of(arguments), arguments.name
    text = "files and git are followed again" if name is None else _of_one(client, name)
    sources = client.resume(name)
    return show(arguments, sources, lambda: say(text))


def _of_one(client: Client, name: str) -> str:
    """Return what a pod does once it is resumed."""
    status = client.status(name)
    if status.hold is None or status.hold.kind != "quarantined" or status.rollout is None:
        return f"{name} follows its file again"
    wanted, reason = status.rollout.wanted[:12] or "the same spec", status.rollout.reason
    why = f", which failed before: {reason}" if reason else ""
    return f"{name} tries the update to {wanted} again{why}"
