"""Generate the man pages, completions and JSON Schemas of the package from the program itself.

python3 packaging/generate.py DIRECTORY     # in the root of the sources
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from key_pages import TEMPLATES, keys_page, roff, schemas, template  # noqa: E402

# After the line above: the sources beside this file, not what is installed.
from tank_agent import __version__  # noqa: E402
from tank_agent.cli.parser import add_common, module_of, verbs  # noqa: E402

# The kind of value that an argument of this name takes, for completion.
_KINDS = {
    **dict.fromkeys(("NAME", "NAME[/CONTAINER]"), "pods"),
    **dict.fromkeys(("PATH", "FILE|-", "F", "D", "DIR", "S"), "files"),
}


class Option(NamedTuple):
    """An option of a verb; `value` is the name of its value, empty for a switch."""

    flags: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Return the kind of its value: pods, files or nothing."""
        return _KINDS.get(self.value, "nothing")


class Command(NamedTuple):
    """A verb, or a verb of a verb such as "image ls", with its options and arguments."""

    name: str
    help: str
    text: str
    usage: str
    options: tuple[Option, ...]
    positionals: tuple[tuple[str, str], ...]

    @property
    def group(self) -> str:
        """Return the verb that it belongs to, such as "image", or nothing."""
        return self.name.rpartition(" ")[0]

    @property
    def kind(self) -> str:
        """Return the kind of its positional arguments: pods, files or nothing."""
        return next((_KINDS[name] for name, _ in self.positionals if name in _KINDS), "nothing")


def main() -> None:
    """Write all files into the directory of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    out = parser.parse_args().directory
    out.mkdir(parents=True, exist_ok=True)
    commands = [command for verb in verbs() for command in commands_of(verb)]
    pods, settings = schemas()
    files = {
        "tank.1": tank_page(commands),
        "tank-agent.8": _page("tank-agent", "8", "the agent that runs pods from files", template("agent")),
        "tank-pod.5": _page(
            "tank-pod", "5", "pod files of tank-agent", keys_page(pods, "PodTable", "pod.intro")
        ),
        "tank-agent.toml.5": _page(
            "tank-agent.toml",
            "5",
            "configuration of tank-agent",
            keys_page(settings, "SettingsTable", "agent.toml.intro"),
        ),
        "tank": bash(commands),
        "_tank": zsh(commands),
        "tank.fish": fish(commands),
        "pod.schema.json": json.dumps(pods, indent=2) + "\n",
        "agent.schema.json": json.dumps(settings, indent=2) + "\n",
    }
    for name, text in files.items():
        (out / name).write_text(text)


def commands_of(verb: str) -> list[Command]:
    """Return a verb, followed by its own verbs, from its parser."""
    module = module_of(verb)
    parser = argparse.ArgumentParser(prog=f"tank {verb}", add_help=False)
    module.add_arguments(parser)
    return _commands(verb, module.HELP, module.__doc__ or "", parser)


def _commands(name: str, summary: str, text: str, parser: argparse.ArgumentParser) -> list[Command]:
    options, positionals, below = [], [], []
    for action in parser._actions:
        described = action.help or ""
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for word, sub in action.choices.items():
                below += _commands(f"{name} {word}", helps[word], f"{helps[word]}.", sub)
        elif action.option_strings:
            if "--help" in action.option_strings:
                continue
            value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
            choices = tuple(map(str, action.choices or ()))
            options.append(Option(tuple(action.option_strings), value, described, choices))
        else:
            positionals.append((str(action.metavar or action.dest), described))
    usage = " ".join(parser.format_usage().removeprefix("usage: ").replace("[-h] ", "").split())
    return [Command(name, summary, text, usage, tuple(options), tuple(positionals)), *below]


# --- man pages ----------------------------------------------------------------------------------------------


def _page(name: str, section: str, summary: str, body: str) -> str:
    head = f'.TH "{roff(name.upper())}" "{section}" "" "tank\\-agent {__version__}" "tank\\-agent"\n'
    return f"{head}.SH NAME\n{roff(name)} \\- {roff(summary)}\n{body}"


def tank_page(commands: list[Command]) -> str:
    """Return tank(1)."""
    parts = [
        ".SH SYNOPSIS\n.B tank\n[\\-\\-socket \\fIS\\fR] [\\-\\-debug] \\fIVERB\\fR [\\fIARGUMENTS\\fR]\n",
        f".SH DESCRIPTION\n{template('tank.description')}.SH VERBS\n",
    ]
    for command in commands:
        parts.append(f".SS {roff(command.usage)}\n{roff(_paragraphs(command.text))}\n")
        for name, text in command.positionals:
            parts.append(f".TP\n\\fI{roff(name)}\\fR\n{roff(text)}\n" if text else "")
        for option in command.options:
            flags = ", ".join(f"\\fB{roff(flag)}\\fR" for flag in option.flags)
            value = f" \\fI{roff(option.value)}\\fR" if option.value else ""
            parts.append(f".TP\n{flags}{value}\n{roff(option.help % {'prog': 'tank'})}\n")
    parts.append(template("tank.end"))
    return _page("tank", "1", "talk to the container agent of this machine", "".join(parts))


def _paragraphs(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


# --- completions --------------------------------------------------------------------------------------------


def _common() -> Command:
    """Return the options that may stand before and after every verb."""
    parser = argparse.ArgumentParser(add_help=False)
    add_common(parser)
    return _commands("", "", "", parser)[0]


def _words(*commands: Command) -> str:
    flags = [flag for command in commands for option in command.options for flag in option.flags]
    return " ".join((*flags, "--help"))


def _groups(commands: list[Command]) -> dict[str, list[Command]]:
    """Return the verbs that have verbs of their own."""
    names = dict.fromkeys(command.group for command in commands if command.group)
    return {name: [command for command in commands if command.group == name] for name in names}


def bash(commands: list[Command]) -> str:
    """Return the completion for bash(1)."""
    cases = []
    common = _common()
    for command in (*commands, common):
        for option in command.options:
            name = f"'{command.name}'" if command.name else "*"
            flags = "|".join(f"{name}:{flag}" for flag in option.flags)
            if option.choices:
                cases.append(f"    {flags}) choices='{' '.join(option.choices)}' ;;")
            elif option.kind != "nothing":
                cases.append(f"    {flags}) kind={option.kind} ;;")
    groups = _groups(commands)
    for name, below in groups.items():
        words = " ".join(command.name.rpartition(" ")[2] for command in below)
        cases.append(f"    '{name}:'*) choices='{words}' ;;")
    verbs = [
        f"    '{command.name}') options='{_words(command, common)}' kind={command.kind} ;;"
        for command in commands
    ]
    return (
        (TEMPLATES / "bash")
        .read_text()
        .replace("@VERBS@", " ".join(command.name for command in commands if not command.group))
        .replace("@GROUPS@", " ".join(groups))
        .replace("@COMMON@", _words(common))
        .replace("    @CHOICES@", "\n".join(cases))
        .replace("    @OPTIONS@", "\n".join(verbs))
    )


def zsh(commands: list[Command]) -> str:
    """Return the completion for zsh(1)."""
    groups = _groups(commands)
    cases = []
    for command in commands:
        if command.group:
            continue
        if command.name not in groups:
            cases.append(_zsh_case(command, command.name))
            continue
        below = groups[command.name]
        inner = "\n".join(_zsh_case(one, one.name.rpartition(" ")[2]) for one in below)
        described = " ".join(_quoted(f"{one.name.rpartition(' ')[2]}:{one.help}") for one in below)
        cases.append(
            f"      {command.name})\n        if ((CURRENT == 2)); then\n"
            f"          verbs=({described})\n          _describe verb verbs\n          return\n        fi\n"
            "        shift words\n        ((CURRENT--))\n"
            f"        case $words[1] in\n{inner}\n        esac\n        ;;"
        )
    top = [command for command in commands if not command.group]
    verbs = "\n".join(f"    {_quoted(f'{command.name}:{command.help}')}" for command in top)
    return (
        (TEMPLATES / "zsh")
        .read_text()
        .replace("    @VERBS@", verbs)
        .replace("@COMMON@", " ".join(_zsh_options(_common())))
        .replace("      @CASES@", "\n".join(cases))
    )


def _zsh_options(command: Command) -> list[str]:
    completes = {"pods": "_tank_pods", "files": "_files", "nothing": " "}
    lines = []
    for option in command.options:
        for flag in option.flags:
            value = ""
            if option.value:
                choice = f"({' '.join(option.choices)})" if option.choices else completes[option.kind]
                value = f":{option.value.replace(':', '')}:{choice}"
            lines.append(_quoted(f"{flag}[{option.help.replace('[', '(').replace(']', ')')}]{value}"))
    return lines


def _zsh_case(command: Command, word: str) -> str:
    rest = {"pods": "*:pod:_tank_pods", "files": "*:file:_files", "nothing": "*: :"}[command.kind]
    arguments = " \\\n        ".join((*_zsh_options(command), _quoted(rest)))
    return f"      {word})\n        _arguments $common {arguments}\n        ;;"


def fish(commands: list[Command]) -> str:
    """Return the completion for fish(1)."""
    lines = [(TEMPLATES / "fish").read_text(), *_fish_arguments(_common(), "")]
    groups = _groups(commands)
    for command in commands:
        word = command.name.rpartition(" ")[2]
        seen = f"__fish_seen_subcommand_from {word}"
        when = "__fish_use_subcommand"
        if command.group:
            others = " ".join(one.name.rpartition(" ")[2] for one in groups[command.group])
            when = (
                f"__fish_seen_subcommand_from {command.group}; and not __fish_seen_subcommand_from {others}"
            )
            seen = f"__fish_seen_subcommand_from {command.group}; and {seen}"
        lines.append(f"complete -c tank -n '{when}' -a {word} -d {_quoted(command.help)}\n")
        lines += _fish_arguments(command, f"-n '{seen}'")
    return "".join(lines)


def _fish_arguments(command: Command, seen: str) -> list[str]:
    values = {"pods": " -a '(__tank_pods)'", "files": " -F", "nothing": ""}
    lines = []
    if command.kind != "nothing":
        lines.append(f"complete -c tank {seen}{values[command.kind]}\n")
    for option in command.options:
        flags = " ".join(
            f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
        )
        # -x: a value of its own kind, and never a file.
        takes = " -x" if option.choices else " -r" if option.value else ""
        choices = f" -a '{' '.join(option.choices)}'" if option.choices else values[option.kind]
        lines.append(f"complete -c tank {seen} {flags}{takes}{choices} -d {_quoted(option.help)}\n")
    return lines


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "'\\''") + "'"


if __name__ == "__main__":
    main()
