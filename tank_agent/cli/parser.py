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
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any, NoReturn

# The order of `tank --help`; other verbs come last.
_ORDER = (
    *("list", "status", "top", "why", "get", "apply", "delete", "restart", "stop", "start", "wait", "run"),
    *("exec", "attach", "logs", "cp", "events", "history", "rollback", "suspend", "resume", "plan", "image"),
    *("volume", "secret", "sync", "git", "import", "export", "validate", "schema", "metrics", "doctor"),
    *("version", "help", "agent"),
)

_VERBS = package.__path__[0]
_HELP = re.compile(r'^HELP = "(.*)"$', re.MULTILINE)
_EXAMPLES = "examples:\n"


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


class _Formatter(argparse.HelpFormatter):
    """As wide as the terminal; leaves the lines of examples as they are."""

    def __init__(self, prog: str) -> None:
        # argparse would import shutil to find the width out.
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        super().__init__(prog, width=(columns or 80) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(_EXAMPLES):
            return text
        return super()._fill_text(text, width, indent)


class _VerbParser(argparse.ArgumentParser):
    """Imports its verb's module only when that verb was given."""

    verb = ""
    # The command line; of a verb's parser, what stands behind the verb.
    words: list[str]

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.words = list(args)
        if not self.verb:
            return super().parse_known_args(args, namespace)
        module = module_of(self.verb)
        self.description = module.__doc__
        module.add_arguments(self)
        self.set_defaults(run=getattr(module, "run", None), verb=self.verb)
        for action in _verbs_of(self):
            for sub in action.choices.values():
                add_common(sub, default=argparse.SUPPRESS)
        _add_examples(self, module)
        if getattr(module, "TAKES_COMMAND", False):
            args, command = _before_command(self, self.words)
            self.set_defaults(command=command)
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            # Reported by this parser, so that the verb's usage is shown and its exit code returned.
            self._refuse_rest(rest)
        return found, rest

    def _refuse_rest(self, rest: list[str]) -> NoReturn:
        from tank_agent.cli.answers import for_rest

        parsers = [self, *(sub for action in _verbs_of(self) for sub in action.choices.values())]
        options = {option for parser in parsers for option in parser._option_string_actions}
        text, is_all = for_rest(self.verb, rest, options)
        if is_all:
            self.refuse(text)
        self.error(text)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if not isinstance(action, argparse._SubParsersAction) or value in action.choices:
            super()._check_value(action, value)
            return
        from tank_agent.cli.answers import for_sub_verb, for_verb

        at = self.words.index(value)
        if self.verb:
            self.refuse(for_sub_verb(self.verb, value, self.words[at + 1 :], list(action.choices)))
        unknown = [
            word
            for word in self.words[:at]
            if word.startswith("-") and word not in self._option_string_actions
        ]
        if unknown:
            self._refuse_rest(unknown)
        self.refuse(for_verb(self.words[at:], list(action.choices)))

    def refuse(self, message: str) -> NoReturn:
        """End with a sentence that says what to type, in place of the usage."""
        from tank_agent.spec.printable import escape

        code = getattr(module_of(self.verb), "USAGE_CODE", 2) if self.verb else 2
        self.exit(code, escape(f"{self.prog}: {message}\n", keep="\n"))

    def error(self, message: str) -> NoReturn:
        actions = _verbs_of(self)
        if actions and message.endswith(f"required: {actions[0].metavar}"):
            from tank_agent.cli.answers import enumeration

            message = f"say what to do: {enumeration(actions[0].choices)}"
        self.print_usage(sys.stderr)
        self.refuse(message)


def _verbs_of(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction[Any]]:
    """Return the action with the verbs of a verb, if it has some."""
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def _before_command(parser: argparse.ArgumentParser, words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words for a parser of options and one argument, and the command behind them.

    One "--" may stand before the command, so that it can begin with a dash, or before the argument.
    """
    options = parser._option_string_actions
    rest, named = iter(enumerate(words)), False
    for at, word in rest:
        if word == "--":
            behind = words[at + 1 :]
            return (words[:at], behind) if named else ([*words[:at], *behind[:1]], behind[1:])
        if word.startswith("-") and word != "-":
            # The last one of "-ite" takes the next word, unless its value follows at once.
            flags = [word] if word.startswith("--") else [f"-{letter}" for letter in word[1:]]
            known = [options.get(flag) for flag in flags]
            values = [number for number, one in enumerate(known) if one is not None and one.nargs is None]
            if values and values[0] == len(flags) - 1:
                next(rest, None)
        elif named:
            return words[:at], words[at:]
        else:
            named = True
    return words, []


def _add_examples(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    """Give a verb's parser, and those of its own verbs, the examples that begin with their name."""
    examples: Sequence[tuple[str, str]] = getattr(module, "EXAMPLES", ())
    parser.epilog = _examples_text(examples)
    for action in _verbs_of(parser):
        for name, sub in action.choices.items():
            begins = f"{parser.prog} {name} "
            own = [example for example in examples if f"{example[0]} ".startswith(begins)]
            sub.epilog = _examples_text(own)


def _examples_text(examples: Sequence[tuple[str, str]]) -> str | None:
    if not examples:
        return None
    width = max(len(command) for command, _ in examples)
    return _EXAMPLES + "\n".join(f"  {command:<{width}}  # {text}" for command, text in examples)


def build(words: list[str]) -> argparse.ArgumentParser:
    """Return a parser for a command line; if that begins with a verb, the parser knows only this verb."""
    top = _VerbParser(
        prog="tank",
        description="Runs containers on this machine from files.",
        epilog="`tank help VERB` tells more of one, with examples.",
        allow_abbrev=False,
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
    text = "another machine, as ssh://[USER@]HOST[:PORT] (or TANK_HOST)"
    parser.add_argument("--host", action="append", metavar="H", help=text, **default)
    text = "show where in the program an error arose"
    parser.add_argument("--debug", action="store_true", help=text, **default)
