"""Run a command in a running container, beside its main process, and end with the command's exit code.

With a terminal as stdin, the command gets one too; Ctrl-P Ctrl-Q leaves it running. Put -- before it.
"""

from __future__ import annotations

from tank_agent.client import keys

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from tank_agent.client.results import Result

TAKES_COMMAND = True
_USAGE = 2
_FLAGS = {"-T": "no_tty", "--no-tty": "no_tty", "--debug": "debug"}
_VALUES = {"--cwd": "cwd", "--socket": "socket", "--detach-keys": "detach_keys"}


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


def read_plain(words: list[str]) -> argparse.Namespace | None:
    """Return what argparse would make of the words, if there is nothing to complain about; else None."""
    from types import SimpleNamespace

    if "--" not in words:
        return None
    cut = words.index("--")
    found = SimpleNamespace(name="", cwd=None, socket=None, env=[], no_tty=False, debug=False)
    found.version, found.detach_keys, found.run, found.command = False, keys.DEFAULT, run, words[cut + 1 :]
    rest = iter(words[:cut])
    for word in rest:
        if word in _FLAGS:
            setattr(found, _FLAGS[word], True)
        elif word in _VALUES or word == "--env":
            value = next(rest, "-")
            if value.startswith("-") or (word == "--env" and value.find("=") < 1):
                return None
            if word == "--env":
                found.env.append(value)
            else:
                setattr(found, _VALUES[word], value)
        elif word.startswith("-") or found.name:
            return None
        else:
            found.name = word
    try:
        keys.parse(found.detach_keys)
    except ValueError:
        return None
    return found if found.name else None  # type: ignore[return-value]


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    import sys

    from tank_agent.client import light
    from tank_agent.client.start import exec_command

    if not arguments.command:
        print("tank exec: no command; write it after --, as in: tank exec web -- ls -l", file=sys.stderr)
        return _USAGE
    for what, texts in (
        ("the command", arguments.command),
        ("--env", arguments.env),
        ("--cwd", [arguments.cwd or ""]),
    ):
        try:
            "\0".join(texts).encode()
        except UnicodeEncodeError:
            print(f"tank exec: {what} is not valid UTF-8, which a container takes only", file=sys.stderr)
            return _USAGE
    return conclude(
        lambda: exec_command(
            light.socket_path(arguments.socket),
            arguments.name,
            arguments.command,
            cwd=arguments.cwd,
            env=arguments.env,
            tty=False if arguments.no_tty else None,
            detach_keys=arguments.detach_keys,
        )
    )


def conclude(session: Callable[[], Result]) -> int:
    """Have a session, say that the user left or that output was lost, and return the exit code."""
    from tank_agent.client.results import Detached, OutputLost

    try:
        result = session()
    except OutputLost as lost:
        from tank_agent.cli.output import cannot_write, print_error

        print_error(cannot_write(lost))
        # A command that went well and whose output is lost is no success.
        return lost.result.status or 1
    if isinstance(result, Detached):
        print("detached")
    return result.status


def _variable(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not name or not equals:
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is not a variable, such as DEBUG=1")
    return text


def _detach_keys(text: str) -> str:
    try:
        keys.parse(text)
    except ValueError as error:
        import argparse

        raise argparse.ArgumentTypeError(str(error)) from None
    return text
