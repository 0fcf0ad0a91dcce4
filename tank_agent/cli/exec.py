"""Run a command in a running container, beside its main process, and end with the command's exit code.

With a terminal as stdin, the command gets one too; Ctrl-P Ctrl-Q leaves it running. Put -- before it.
"""

from __future__ import annotations

import argparse

from tank_agent.client import keys

TAKES_COMMAND = True
_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
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
    parser.add_argument(
        "--detach-keys",
        metavar="K",
        type=_detach_keys,
        default=keys.DEFAULT,
        help=f'keys that leave it running, such as "ctrl-x,x", or "none" (default {keys.DEFAULT})',
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    import sys

    from tank_agent.client import light
    from tank_agent.client.session import exec_command

    if not arguments.command:
        print("tank exec: no command; write it after --, as in: tank exec web -- ls -l", file=sys.stderr)
        return _USAGE
    try:
        "\0".join(arguments.command).encode()
    except UnicodeEncodeError:
        print("tank exec: the command is not valid UTF-8, which a container takes only", file=sys.stderr)
        return _USAGE
    result = exec_command(
        light.socket_path(arguments.socket),
        arguments.name,
        arguments.command,
        cwd=arguments.cwd,
        env=arguments.env,
        tty=False if arguments.no_tty else None,
        detach_keys=arguments.detach_keys,
    )
    return conclude(result)


def conclude(result: object) -> int:
    """Say that the user left, and return the exit code."""
    from tank_agent.client.results import Detached, Exited, Signaled

    if isinstance(result, Detached):
        print("detached")
    assert isinstance(result, Exited | Signaled | Detached)
    return result.status


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
