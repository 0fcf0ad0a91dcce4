"""Make a repository to push to, and see how far the machine follows the one in agent.toml."""

from __future__ import annotations

import argparse
from pathlib import Path

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import say, show

HELP = "make a repository to push to; how far git is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    init = verbs.add_parser("init", help="make a bare repository on this machine to push to")
    init.add_argument("path", metavar="PATH", help="a new or empty directory")
    init.add_argument("--owner", metavar="USER", help="who pushes, over ssh; default you")
    init.add_argument("--branch", default="main", metavar="B", help="what HEAD names (default main)")
    init.set_defaults(run=_init)
    add_output(init)
    status = verbs.add_parser("status", help="how far git is, step by step")
    status.set_defaults(run=_status)
    add_output(status)


def _init(arguments: argparse.Namespace) -> int:
    from tank_agent.control.offline import init_repository

    path = Path(arguments.path).absolute()
    made = init_repository(path, arguments.branch, arguments.owner)
    ready = f"{path} {'is ready for pushes' if made else 'is a repository already'}"
    follow = f'follow it: [git] url = "{path}" in agent.toml, and restart the agent'
    return show(arguments, {"path": str(path), "created": made}, lambda: say(ready, follow))


def _status(arguments: argparse.Namespace) -> int:
    from tank_agent.cli.sources import print_git

    git = client_of(arguments).sources().git
    show(arguments, git, lambda: print_git(git))
    return 1 if git is not None and git.state in ("error", "held") else 0
