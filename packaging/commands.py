"""Every verb of `tank` with its arguments and options, from its parser, for completions and man pages."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# After the line above: the sources beside this file, not what is installed.
from tank_agent.cli.parser import add_common, module_of, verbs  # noqa: E402

# The kind of value that an argument of this name takes: one of `tank_agent.cli.complete`, or one that shells
# know by themselves. "+" joins two; what is not here, such as a number, nobody can complete.
_KINDS = {
    "NAME": "pods",
    "JOB": "jobs",
    "NAME[/CONTAINER]": "targets",
    "CONTAINER": "containers",
    "NAME|PATH": "pods+files",
    **dict.fromkeys(("PATH", "FILE", "FILE|-", "F", "S", "OUT"), "files"),
    "DIR": "directories",
    "IMAGE": "images",
    "POD/NAME": "volumes",
    "SNAPSHOT": "snapshots",
    "REV": "revisions",
    "USER": "users",
    "H": "hosts",
    "VERB": "verbs",
    **dict.fromkeys(("SRC", "SOURCE", "FROM", "DST", "DEST", "TO", "TARGET"), "copies+files"),
}


class Value(NamedTuple):
    """What an argument or an option takes, by the name that help gives it; `many` if several may follow."""

    name: str
    help: str = ""
    choices: tuple[str, ...] = ()
    many: bool = False

    @property
    def kind(self) -> str:
        """Return the kind of value, for completion: empty if nobody can complete it."""
        if self.choices:
            return ""
        return "copies+files" if self.name.endswith(":PATH") else _KINDS.get(self.name, "")


class Option(NamedTuple):
    """An option of a verb; `value` is None for a switch."""

    flags: tuple[str, ...]
    help: str
    value: Value | None


class Command(NamedTuple):
    """A verb, or a verb of a verb such as "image ls", with its options and arguments.

    `ends`: what follows its first argument is a command, with options of its own.
    """

    name: str
    help: str
    text: str
    usage: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]
    examples: tuple[tuple[str, str], ...] = ()
    ends: bool = False

    @property
    def group(self) -> str:
        """Return the verb that it belongs to, such as "image", or nothing."""
        return self.name.rpartition(" ")[0]

    @property
    def word(self) -> str:
        """Return its last word, such as "ls"."""
        return self.name.rpartition(" ")[2]


def commands() -> list[Command]:
    """Return every verb, each followed by its own verbs, in the order of `tank --help`."""
    return [command for verb in verbs() for command in _of_verb(verb)]


def common() -> Command:
    """Return the options that may stand before and after every verb."""
    parser = argparse.ArgumentParser(add_help=False)
    add_common(parser)
    return _walk("", "", "", parser)[0]


def groups(found: list[Command]) -> dict[str, list[Command]]:
    """Return the verbs that have verbs of their own, with these."""
    names = dict.fromkeys(command.group for command in found if command.group)
    return {name: [command for command in found if command.group == name] for name in names}


def _of_verb(verb: str) -> list[Command]:
    module = module_of(verb)
    parser = argparse.ArgumentParser(prog=f"tank {verb}", add_help=False)
    module.add_arguments(parser)
    ends = bool(getattr(module, "TAKES_COMMAND", False))
    examples = tuple(getattr(module, "EXAMPLES", ()))
    return [
        command._replace(ends=ends, examples=examples if command.name == verb else ())
        for command in _walk(verb, module.HELP, module.__doc__ or "", parser)
    ]


def _walk(name: str, summary: str, text: str, parser: argparse.ArgumentParser) -> list[Command]:
    options, arguments, below = [], [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for word, sub in action.choices.items():
                below += _walk(f"{name} {word}", helps[word], f"{helps[word]}.", sub)
        elif not action.option_strings:
            arguments.append(_value(action))
        elif "--help" not in action.option_strings and action.help != argparse.SUPPRESS:
            value = None if action.nargs == 0 else _value(action)
            options.append(Option(tuple(action.option_strings), _help(action), value))
    usage = parser.format_usage().removeprefix("usage: ").replace("[-h] ", "").strip()
    return [Command(name, summary, text, re.sub(r"\s+", " ", usage), (*options,), (*arguments,)), *below]


def _value(action: argparse.Action) -> Value:
    choices = tuple(map(str, action.choices or ()))
    name = action.metavar or ("|".join(choices) if choices else action.dest.upper())
    return Value(str(name), _help(action), choices, many=action.nargs in ("*", "+"))


def _help(action: argparse.Action) -> str:
    return (action.help or "") % {"prog": "tank", "default": action.default}
