"""The parser of the command line, with argparse."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tank_agent.cli.main import Verb


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
        from tank_agent.spec.printable import escape

        self.print_usage(sys.stderr)
        self.exit(self.verb.usage_code if self.verb else 2, escape(f"{self.prog}: {message}\n", keep="\n"))


def build(table: Sequence[Verb], only: str | None) -> argparse.ArgumentParser:
    """Return a parser for the verbs of a table, or for a command line that begins with the verb `only`."""
    top = _VerbParser(
        prog="tank", description="Runs containers on this machine from files.", allow_abbrev=False
    )
    top.add_argument("--version", action="store_true", help="print the version of this program")
    _add_common(top, None, default=True)
    verbs = top.add_subparsers(metavar="VERB", title="verbs")
    for verb in table:
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
