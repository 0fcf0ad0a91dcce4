"""Run a command in a running container, beside its main process, and end with the command's exit code.

With a terminal as stdin, the command gets one too; Ctrl-P Ctrl-Q leaves it running. Put -- before it.
"""

from __future__ import annotations

import argparse

from tank_agent.cli.plain_exec import run
from tank_agent.client.fast import keys

__all__ = ["HELP", "TAKES_COMMAND", "add_arguments", "run"]
HELP = "run a command in a container"
TAKES_COMMAND = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s NAME[/CONTAINER] [OPTIONS] -- COMMAND..."
    parser.add_argument("name", metavar="NAME[/CONTAINER]", help="without /CONTAINER: the pod's first")
    parser.add_argument("--cwd", metavar="D", help="working directory (default: the container's)")
    parser.add_argument(
        "--env", metavar="K=V", action="append", default=[], type=_variable, help="over the container's own"
    )
    parser.add_argument(
        "-T", "--no-tty", action="store_true", help="no terminal: plain pipes, even if stdin is one"
    )
    add_detach_keys(parser)


def add_detach_keys(parser: argparse.ArgumentParser) -> None:
    """Add the keys that leave the session."""
    text = f'keys that leave it running, such as "ctrl-x,x", or "none" (default {keys.DEFAULT})'
    parser.add_argument("--detach-keys", metavar="K", type=_detach_keys, default=keys.DEFAULT, help=text)


def _variable(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not a variable, such as DEBUG=1")
    return text


def _detach_keys(text: str) -> str:
    try:
        keys.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
