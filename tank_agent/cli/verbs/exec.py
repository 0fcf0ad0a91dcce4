"""Run a command in a running container, beside its main process, and end with the command's exit code.

With a terminal as stdin, the command gets one too; Ctrl-P Ctrl-Q leaves it running. Options stand before the
command; all behind its first word is the command's own.
"""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import duration
from tank_agent.cli.plain_exec import run
from tank_agent.client.fast import keys

__all__ = ["EXAMPLES", "HELP", "TAKES_COMMAND", "add_arguments", "run"]
HELP = "run a command in a container"
EXAMPLES = (
    ("tank exec web ls -l", "in the first container of web"),
    ("tank exec -it web/db sh", "a shell in another one"),
    ("tank exec db pg_dump shop > shop.sql", "its output in a file here"),
    ("tank exec -i db psql shop < shop.sql", "and back"),
)
TAKES_COMMAND = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [OPTIONS] NAME[/CONTAINER] [--] COMMAND..."
    parser.add_argument("name", metavar="NAME[/CONTAINER]", help="without /CONTAINER: the pod's first")
    text = "working directory (default: the container's)"
    parser.add_argument("--cwd", "-w", "--workdir", metavar="D", help=text)
    text = "over the container's own"
    parser.add_argument("--env", "-e", metavar="K=V", action="append", default=[], type=_variable, help=text)
    add_session(parser)


def add_session(parser: argparse.ArgumentParser) -> None:
    """Add the options of a session with a container: streams, keys, and how long it may take to start."""
    text = "stdin is passed on anyway; alone, it says that there is to be no terminal"
    parser.add_argument("-i", "--interactive", action="store_true", help=text)
    text = "a terminal, which stdin must be; the default if it is one"
    parser.add_argument("-t", "--tty", action="store_const", const=True, dest="tty", help=text)
    text = "no terminal: plain pipes, even if stdin is one"
    parser.add_argument("-T", "--no-tty", action="store_const", const=False, dest="tty", help=text)
    parser.add_argument("-c", "--container", metavar="CONTAINER", help="the same as NAME/CONTAINER")
    text = "how long a container that is about to start is waited for (default 30s)"
    parser.add_argument("--wait", metavar="T", type=duration, help=text)
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
