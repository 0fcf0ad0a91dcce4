"""Make what the package says about the program from the program itself: man pages, completions, JSON Schemas.

python3 packaging/generate.py DIRECTORY     # in the root of the sources
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402  (after the line above: the sources beside this file, not what is installed)

from tank_agent import __version__  # noqa: E402
from tank_agent.cli.main import VERBS  # noqa: E402
from tank_agent.settings import SettingsTable  # noqa: E402
from tank_agent.spec.schema import json_schema  # noqa: E402

TEMPLATES = ROOT / "packaging" / "templates"
# What a verb's positional arguments name, for completion.
_PODS = frozenset(
    ("status", "get", "delete", "wait", "history", "exec", "attach", "logs"),
)
_FILES = frozenset(("apply", "validate", "plan"))
# Options that stand before and after every verb.
_COMMON = (
    ("--socket", "S", "the agent's socket"),
    ("--debug", "", "show where in the program an error arose"),
)


class Option(NamedTuple):
    """An option of a verb; `value` is the name of what it takes, empty for a switch."""

    flags: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...]


class Command(NamedTuple):
    """A verb with everything it takes."""

    name: str
    help: str
    text: str
    usage: str
    options: tuple[Option, ...]
    positionals: tuple[tuple[str, str], ...]


def main() -> None:
    """Write all files into the directory of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    out = parser.parse_args().directory
    out.mkdir(parents=True, exist_ok=True)
    commands = [_command(verb.name, verb.help, verb.module) for verb in VERBS]
    pods, settings = _schemas()
    files = {
        "tank.1": tank_page(commands),
        "tank-agent.8": _page("tank-agent", "8", "the agent that runs pods from files", agent_page()),
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


def _schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schemas of a pod file and of agent.toml; the latter may hold pods, too."""
    pods = json_schema()
    _, definitions = msgspec.json.schema_components([SettingsTable], ref_template="#/$defs/{name}")
    tables = {name: _without_null(node) for name, node in definitions.items()}
    settings = tables["SettingsTable"]
    settings["properties"]["pods"] = {
        "description": "Seeds: pods that are created once, if absent; as in a pod file, with a name.",
        "type": "array",
        "items": {"$ref": "#/$defs/NamedPodTable"},
    }
    return pods, {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "agent.toml of tank-agent",
        "$ref": "#/$defs/SettingsTable",
        "$defs": {**pods["$defs"], **tables},
    }


def _without_null(node: Any) -> Any:
    """Take out null, which TOML cannot write."""
    if isinstance(node, list):
        return [_without_null(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    kept = {key: _without_null(value) for key, value in node.items() if (key, value) != ("default", None)}
    alternatives = kept.get("anyOf", ())
    if len(alternatives) == 1:
        del kept["anyOf"]
        kept = {**alternatives[0], **kept}
    return kept


def _command(name: str, summary: str, module_name: str) -> Command:
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(prog=f"tank {name}", add_help=False)
    module.add_arguments(parser)
    options, positionals = [], []
    for action in parser._actions:
        text = action.help or ""
        if action.option_strings:
            value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
            choices = tuple(map(str, action.choices or ()))
            options.append(Option(tuple(action.option_strings), value, text, choices))
        else:
            positionals.append((str(action.metavar or action.dest), text))
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    return Command(name, summary, module.__doc__ or "", usage, tuple(options), tuple(positionals))


# --- man pages ----------------------------------------------------------------------------------------------


def roff(text: str) -> str:
    """Escape text for groff(7)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    lines = [f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.split("\n")]
    return "\n".join(lines)


def _page(name: str, section: str, summary: str, body: str) -> str:
    head = f'.TH "{roff(name.upper())}" "{section}" "" "tank\\-agent {__version__}" "tank\\-agent"\n'
    return f"{head}.SH NAME\n{roff(name)} \\- {roff(summary)}\n{body}"


def tank_page(commands: list[Command]) -> str:
    """Return tank(1)."""
    parts = [
        ".SH SYNOPSIS\n.B tank\n[\\-\\-socket \\fIS\\fR] [\\-\\-debug] \\fIVERB\\fR [\\fIARGUMENTS\\fR]\n",
        f".SH DESCRIPTION\n{_template('tank.description')}.SH VERBS\n",
    ]
    for command in commands:
        parts.append(f".SS {roff(command.usage)}\n{roff(_paragraphs(command.text))}\n")
        for name, text in command.positionals:
            parts.append(f".TP\n\\fI{roff(name)}\\fR\n{roff(text)}\n" if text else "")
        for option in command.options:
            flags = ", ".join(f"\\fB{roff(flag)}\\fR" for flag in option.flags)
            value = f" \\fI{roff(option.value)}\\fR" if option.value else ""
            parts.append(f".TP\n{flags}{value}\n{roff(option.help % {'prog': 'tank'})}\n")
    parts.append(_template("tank.end"))
    return _page("tank", "1", "talk to the container agent of this machine", "".join(parts))


def agent_page() -> str:
    """Return the body of tank-agent(8)."""
    return _template("agent")


def keys_page(schema: dict[str, Any], top: str, intro: str) -> str:
    """Return the body of a page about a TOML file: its tables, from the schema's definitions."""
    definitions = schema["$defs"]
    parts = [_template(intro)]
    seen: set[str] = set()
    waiting = [(top, "")]
    while waiting:
        name, path = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        table = definitions[name]
        parts.append(f".SH {roff(path.upper() or 'KEYS')}\n{roff(table.get('description', ''))}\n")
        for key, node in table.get("properties", {}).items():
            parts.append(_key(key, node))
            if key != "pods":
                waiting += [(found, f"{path}.{key}".strip(".")) for found in _references(node)]
    return "".join(parts) + ".SH SEE ALSO\n.BR tank (1),\n.BR tank\\-agent (8)\n"


def _key(key: str, node: dict[str, Any]) -> str:
    text = roff(node.get("description", ""))
    examples = [node[kind] for kind in ("default",) if node.get(kind) not in (None, [], {}, "")]
    if examples:
        text += f"\nDefault: {roff(json.dumps(examples[0]))}."
    elif node.get("examples"):
        text += f"\nExample: {roff(json.dumps(node['examples'][0]))}."
    return f".TP\n\\fB{roff(key)}\\fR\n{text}\n"


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"].rpartition("/")[2]] if "$ref" in node else []
        return found + [name for value in node.values() for name in _references(value)]
    if isinstance(node, list):
        return [name for value in node for name in _references(value)]
    return []


def _paragraphs(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _template(name: str) -> str:
    return (TEMPLATES / f"{name}.roff").read_text()


# --- completions --------------------------------------------------------------------------------------------


def _words(command: Command) -> str:
    flags = [flag for option in command.options for flag in option.flags]
    return " ".join((*flags, "--help", *(flag for flag, _, _ in _COMMON)))


def _kind(command: Command) -> str:
    return "pods" if command.name in _PODS else "files" if command.name in _FILES else "nothing"


def bash(commands: list[Command]) -> str:
    """Return the completion for bash(1)."""
    cases = []
    for command in commands:
        for option in command.options:
            if option.choices:
                flags = "|".join(f"{command.name}:{flag}" for flag in option.flags)
                cases.append(f"    {flags}) choices='{' '.join(option.choices)}' ;;")
    verbs = [
        f"    {command.name}) options='{_words(command)}' kind={_kind(command)} ;;" for command in commands
    ]
    return (
        (TEMPLATES / "bash")
        .read_text()
        .replace("@VERBS@", " ".join(command.name for command in commands))
        .replace("    @CHOICES@", "\n".join(cases))
        .replace("    @OPTIONS@", "\n".join(verbs))
    )


def zsh(commands: list[Command]) -> str:
    """Return the completion for zsh(1)."""
    verbs = "\n".join(f"    {_quoted(f'{command.name}:{command.help}')}" for command in commands)
    cases = []
    for command in commands:
        lines = []
        for option in command.options:
            for flag in option.flags:
                value = ""
                if option.value:
                    choice = f"({' '.join(option.choices)})" if option.choices else "_files"
                    value = f":{option.value.replace(':', '')}:{choice}"
                lines.append(_quoted(f"{flag}[{option.help.replace('[', '(').replace(']', ')')}]{value}"))
        rest = {"pods": "*:pod:_tank_pods", "files": "*:file:_files", "nothing": "*: :"}[_kind(command)]
        arguments = " \\\n        ".join((*lines, _quoted(rest)))
        cases.append(f"      {command.name})\n        _arguments $common {arguments}\n        ;;")
    return (
        (TEMPLATES / "zsh")
        .read_text()
        .replace("    @VERBS@", verbs)
        .replace("      @CASES@", "\n".join(cases))
    )


def fish(commands: list[Command]) -> str:
    """Return the completion for fish(1)."""
    lines = [(TEMPLATES / "fish").read_text()]
    for command in commands:
        text = _quoted(command.help)
        lines.append(f"complete -c tank -n __fish_use_subcommand -a {command.name} -d {text}\n")
        seen = f"-n '__fish_seen_subcommand_from {command.name}'"
        if _kind(command) == "pods":
            lines.append(f"complete -c tank {seen} -a '(__tank_pods)'\n")
        elif _kind(command) == "files":
            lines.append(f"complete -c tank {seen} -F\n")
        for option in command.options:
            flags = " ".join(
                f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
            )
            # -x: a value of its own kind, and never a file.
            takes = " -x" if option.choices else " -r" if option.value else ""
            choices = f" -a '{' '.join(option.choices)}'" if option.choices else ""
            lines.append(f"complete -c tank {seen} {flags}{takes}{choices} -d {_quoted(option.help)}\n")
    return "".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "'\\''") + "'"


if __name__ == "__main__":
    main()
