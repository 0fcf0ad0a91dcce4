"""The parser of the command line, which imports only the verb that was given."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys

from tank_agent.cli import verbs as package

# pathlib and typing would take as long to import as the rest of `tank --help`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, NoReturn

# The order of `tank --help`; other verbs come last.
_ORDER = (
    *("list", "status", "get", "apply", "delete", "wait", "exec", "attach", "logs", "events", "history"),
    *("rollback", "suspend", "resume", "plan", "image", "volume", "sync", "git", "validate", "schema"),
    *("doctor", "version", "agent"),
)

_VERBS = package.__path__[0]
_HELP = re.compile(r'^HELP = "(.*)"$', re.MULTILINE)


def verbs() -> tuple[str, ...]:
    """Return the names of all verbs, which are the modules of `tank_agent.cli.verbs`."""
    with os.scandir(_VERBS) as entries:
        files = [entry.name for entry in entries if entry.name.endswith(".py")]
    names = {file.removesuffix(".py") for file in files if not file.startswith("_")}
    return (*(name for name in _ORDER if name in names), *sorted(names.difference(_ORDER)))


def module_of(verb: str) -> ModuleType:
    """Return the module of a verb."""
    return importlib.import_module(f"tank_agent.cli.verbs.{verb}")


def help_of(verb: str) -> str:
    """Return a verb's HELP, read from its source, since importing every verb takes long."""
    with open(f"{_VERBS}/{verb}.py", encoding="utf-8") as source:
        found = _HELP.search(source.read())
    return found[1] if found else ""


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Return a formatter as wide as the terminal; argparse would import shutil to find that out."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return argparse.HelpFormatter(prog, width=(columns or 80) - 2)


class _VerbParser(argparse.ArgumentParser):
    """Imports its verb's module only when that verb was given."""

    verb = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_formatter, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if not self.verb:
            return super().parse_known_args(args, namespace)
        module = module_of(self.verb)
        self.description = module.__doc__
        module.add_arguments(self)
        self.set_defaults(run=getattr(module, "run", None))
        if getattr(module, "TAKES_COMMAND", False):
            # Versions of argparse differ in what they do with "--".
            args = list(args)
            cut = args.index("--") if "--" in args else len(args)
            self.set_defaults(command=args[cut + 1 :])
            args = args[:cut]
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            # Reported by this parser, so that the verb's usage is shown and its exit code returned.
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        from tank_agent.spec.printable import escape

        self.print_usage(sys.stderr)
        code = getattr(module_of(self.verb), "USAGE_CODE", 2) if self.verb else 2
        self.exit(code, escape(f"{self.prog}: {message}\n", keep="\n"))


def build(words: list[str]) -> argparse.ArgumentParser:
    """Return a parser for a command line; if that begins with a verb, the parser knows only this verb."""
    top = _VerbParser(
        prog="tank", description="Runs containers on this machine from files.", allow_abbrev=False
    )
    top.add_argument("--version", action="store_true", help="print the version of this program")
    add_common(top)
    parsers = top.add_subparsers(metavar="VERB", title="verbs")
    alone = bool(words) and words[0] in verbs()
    for verb in words[:1] if alone else verbs():
        sub = parsers.add_parser(verb, help="" if alone else help_of(verb), allow_abbrev=False)
        sub.verb = verb
        # An option that is absent after the verb must not undo the one before it.
        add_common(sub, default=argparse.SUPPRESS)
    return top


def add_common(parser: argparse.ArgumentParser, **default: Any) -> None:
    """Add the options that may stand before and after the verb."""
    text = "the agent's socket (or TANK_SOCKET; /run/tank/tank.sock)"
    parser.add_argument("--socket", metavar="S", help=text, **default)
    text = "show where in the program an error arose"
    parser.add_argument("--debug", action="store_true", help=text, **default)
