"""Try whether notifications reach those in [notify] of agent.toml. Exit code 1: one was not reached."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_action, client_of
from tank_agent.cli.output import GREEN, RED, colored, show
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.api.reports import TestedReceiver

HELP = "notifications: try whether they arrive"
EXAMPLES = (("tank notify test", "send one to everybody now"),)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_action(actions, "test", _test, "send a test notification to each receiver, and print what each said")


def _test(arguments: argparse.Namespace) -> int:
    found = client_of(arguments).test_notifications()
    show(arguments, found, lambda: _print(found))
    return 1 if any(one.error for one in found) else 0


def _print(found: Sequence[TestedReceiver]) -> None:
    width = max(len(one.name) for one in found)
    for one in found:
        said = colored(f"failed: {escape(one.error)}", RED) if one.error else colored("sent", GREEN)
        print(f"{escape(one.name):<{width}}  {said}")
