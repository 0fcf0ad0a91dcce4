"""Entry point of `tank`: the table of verbs, and how every verb ends."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

# Exit codes beside 0, 1 (failed) and 2 (usage, invalid spec): 128 + the signal, as a shell says it.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


class Verb(NamedTuple):
    """A row of the table; `usage_code` is the exit code for wrong arguments."""

    name: str
    help: str
    usage_code: int = 2

    @property
    def module(self) -> str:
        """Return the module that is imported when the verb is used."""
        return f"tank_agent.cli.{self.name}"


VERBS: tuple[Verb, ...] = (
    Verb("list", "the pods, one line each"),
    Verb("status", "how the pods are: phase, containers, restarts, last error, next try"),
    Verb("get", "a pod's spec, as TOML"),
    Verb("apply", "create or replace pods from a TOML file"),
    Verb("delete", "remove pods"),
    Verb("wait", "wait until a pod is in a phase"),
    Verb("exec", "run a command in a container"),
    Verb("attach", "take over the terminal of a container"),
    Verb("logs", "what a pod's containers printed, and with -f what they print"),
    Verb("events", "what happened, and with -f what happens"),
    Verb("history", "the past specs of a pod"),
    Verb("rollback", "give a pod an older spec, and pin it there"),
    Verb("suspend", "leave a pod, or all, as they are, whatever files and git say"),
    Verb("resume", "follow files and git again"),
    Verb("plan", "dry run: what would be done", usage_code=1),
    Verb("image", "the images on this machine: list, fetch, remove, prune them"),
    Verb("volume", "the volumes that the agent keeps: list and remove them"),
    Verb("sync", "look at files and git now, and make it so"),
    Verb("git", "make a repository to push to; how far git is"),
    Verb("validate", "check pod files, without an agent"),
    Verb("schema", "the JSON Schema of a pod file, for editors"),
    Verb("doctor", "is this machine ready, and what is missing"),
    Verb("version", "versions of this program and of the agent"),
    Verb("agent", "run the agent in the foreground; systemd runs this"),
)


class _Formatter(argparse.HelpFormatter):
    """As wide as the terminal, without importing shutil to find out."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        super().__init__(prog, width=(columns or 80) - 2)


class _VerbParser(argparse.ArgumentParser):
    """Imports its verb's module only when that verb was given: the others cost nothing."""

    verb: Verb | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.verb is None:
            return super().parse_known_args(args, namespace)
        module = importlib.import_module(self.verb.module)
        self.description = module.__doc__
        module.add_arguments(self)
        self.set_defaults(run=module.run)
        if getattr(module, "TAKES_COMMAND", False):
            # Cut off here, since argparse means different things by "--" in different versions.
            args = list(args)
            cut = args.index("--") if "--" in args else len(args)
            self.set_defaults(command=args[cut + 1 :])
            args = args[:cut]
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            # Here and not at the top, so that the verb's own usage and exit code are shown.
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.verb.usage_code if self.verb else 2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown escaped; it must not end the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(argv)
        # Here and not at exit, so that a reader that went away is noticed inside the try.
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Python flushes once more at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return code


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or of a command line that begins with the verb `only`."""
    top = _VerbParser(
        prog="tank", description="Runs containers on this machine from files.", allow_abbrev=False
    )
    top.add_argument("--version", action="store_true", help="print the version of this program")
    _add_common(top, None, default=True)
    verbs = top.add_subparsers(metavar="VERB", title="verbs")
    for verb in VERBS:
        if only not in (None, verb.name):
            continue
        sub = verbs.add_parser(verb.name, help=verb.help, allow_abbrev=False)
        sub.verb = verb
        _add_common(sub, argparse.SUPPRESS, default=False)
    return top


def _add_common(parser: argparse.ArgumentParser, unset: Any, *, default: bool) -> None:
    """Add what may stand before and after the verb; after it, what is not given must not undo what was."""
    parser.add_argument(
        "--socket",
        metavar="S",
        default=unset,
        help="the agent's socket (or TANK_SOCKET; /run/tank/tank.sock)",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        default=False if default else unset,
        help="show where in the program an error arose",
    )


def _run(argv: Sequence[str] | None) -> int:
    arguments_given = list(sys.argv[1:] if argv is None else argv)
    # To make all the others' parsers takes longer than most verbs themselves.
    first = arguments_given[0] if arguments_given else None
    top = parser(first if first in {verb.name for verb in VERBS} else None)
    try:
        arguments = top.parse_args(arguments_given)
    except SystemExit as end:
        return int(end.code or 0)
    if arguments.version:
        from tank_agent import __version__

        print(f"tank {__version__}")
        return 0
    if not hasattr(arguments, "run"):
        top.print_help(sys.stderr)
        return 2
    try:
        code: int = arguments.run(arguments)
        return code
    except Exception as error:
        # Not imported before there is one: `tank exec` starts without.
        from tank_agent.errors import TankError

        if not isinstance(error, TankError):
            raise
        if arguments.debug:
            import traceback

            traceback.print_exc()
        from tank_agent.cli.output import print_error

        print_error(error)
        return error.exit_code
