"""The completions of tank(1) for bash, zsh and fish: tables of its verbs around a few functions by hand."""

from __future__ import annotations

from commands import ROOT, Command, Option, Value, common, groups

_TEMPLATES = ROOT / "packaging" / "templates"
# Names that come from the agent are asked for by these kinds; the others a shell knows by itself.
_OF_SHELL = ("files", "directories", "users", "hosts", "verbs")


def _filled(shell: str, **parts: str) -> str:
    text = (_TEMPLATES / shell).read_text()
    for name, part in parts.items():
        text = text.replace(f"@{name.upper()}@", part)
    return text


def _flags(command: Command) -> list[str]:
    """Return the options of a verb and those of all, as words."""
    options = (*command.options, *common().options)
    return [*dict.fromkeys(flag for option in options for flag in option.flags), "-h", "--help"]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- bash ---------------------------------------------------------------------------------------------------


def bash(found: list[Command]) -> str:
    """Return the completion for bash(1)."""
    every = common()
    takes = [
        f"    {'|'.join(f'{_bash_name(command)}:{flag}' for flag in option.flags)}) "
        f"kind={_quoted(_bash_kind(option.value))} ;;"
        for command in (*found, every)
        for option in command.options
        if option.value
    ]
    tables = [
        f"    '{command.name}') options='{' '.join(_flags(command))}' kinds=({_bash_kinds(command)}) ;;"
        for command in found
    ]
    # A verb with verbs of its own takes these, and nothing else.
    below = [_bash_group(name, _flags(every), subs) for name, subs in groups(found).items()]
    verbs = [command for command in found if not command.group]
    top = _bash_group("", [*_flags(every), "--version"], verbs)
    return _filled(
        "bash",
        takes="\n".join(takes),
        tables="\n".join([top, *below, *tables]),
        groups="|".join(f"'{name}'" for name in ("", *groups(found))),
    )


def _bash_group(name: str, options: list[str], below: list[Command]) -> str:
    words = " ".join(one.word for one in below)
    return f"    '{name}') options='{' '.join(options)}' kinds=('={words}') ;;"


def _bash_name(command: Command) -> str:
    return f"'{command.name}'" if command.name else "*"


def _bash_kind(value: Value) -> str:
    return f"={' '.join(value.choices)}" if value.choices else value.kind or "nothing"


def _bash_kinds(command: Command) -> str:
    """Return the kinds of the arguments in order; "*" ends one that several arguments may have."""
    kinds = [_bash_kind(value) + "*" * value.many for value in command.arguments]
    return " ".join(_quoted(kind) for kind in (*kinds, *(["command*"] if command.ends else [])))


# --- zsh ----------------------------------------------------------------------------------------------------


def zsh(found: list[Command]) -> str:
    """Return the completion for zsh(1)."""
    below = groups(found)
    cases = []
    for command in found:
        if command.group:
            continue
        if command.name not in below:
            cases.append(_zsh_case(command))
            continue
        inner = "\n".join(_zsh_case(one) for one in below[command.name])
        described = " ".join(_zsh_verb(one) for one in below[command.name])
        cases.append(
            f"      {command.name})\n"
            f"        _arguments -C $common '1: :->verb' '*:: :->arguments'\n"
            "        case $state in\n"
            f"        verb)\n          verbs=({described})\n          _describe verb verbs\n          ;;\n"
            f"        arguments)\n          case $words[1] in\n{inner}\n          esac\n          ;;\n"
            "        esac\n        ;;"
        )
    verbs = "\n".join(f"    {_zsh_verb(command)}" for command in found if not command.group)
    return _filled(
        "zsh",
        verbs=verbs.strip(),
        common=" ".join(word for option in common().options for word in _zsh_option(option)),
        cases="\n".join(cases).strip(),
        groups="\n".join(
            f"    {name}) verbs=({' '.join(_zsh_verb(one) for one in subs)}) ;;"
            for name, subs in below.items()
        ).strip(),
    )


def _zsh_verb(command: Command) -> str:
    return _quoted(f"{command.word}:{command.help}")


def _zsh_option(option: Option) -> list[str]:
    told = option.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    lines = []
    for flag in option.flags:
        # Its value may follow "=", or stand right behind a letter.
        takes = ("=" if flag.startswith("--") else "+") if option.value else ""
        lines.append(_quoted(f"{flag}{takes}[{told}]{_zsh_value(option.value) if option.value else ''}"))
    return lines


def _zsh_value(value: Value) -> str:
    name = value.name.replace("\\", "\\\\").replace(":", "\\:")
    if value.choices:
        return f":{name}:({' '.join(value.choices)})"
    actions = {"files": "_files", "directories": "_files -/", "users": "_users", "hosts": "_hosts"}
    kinds = value.kind.split("+")
    if kinds == [""]:
        return f":{name}: "
    if len(kinds) > 1:
        return f":{name}:_tank_either {' '.join(kinds)}"
    return f":{name}:{actions.get(kinds[0]) or f'_tank_names {kinds[0]}'}"


def _zsh_case(command: Command) -> str:
    arguments = [word for option in command.options for word in _zsh_option(option)]
    arguments += [
        _quoted(("*" if value.many else str(at)) + _zsh_value(value))
        for at, value in enumerate(command.arguments, start=1)
    ]
    if command.ends:
        arguments.append("'*:command: '")
    # No options of ours behind the first argument, where a command follows it.
    alone = "-A '-*' " if command.ends else ""
    text = " \\\n        ".join(("$common", *arguments))
    return f"      {command.word})\n        _arguments {alone}{text}\n        ;;"


# --- fish ---------------------------------------------------------------------------------------------------


def fish(found: list[Command]) -> str:
    """Return the completion for fish(1)."""
    every = common()
    takes = [
        f"{command.name}:{flag}"
        for command in (*found, every)
        for option in command.options
        if option.value
        for flag in option.flags
    ]
    below = groups(found)
    everywhere = f"-n '__tank_ours {' '.join(one.name for one in found if one.ends)}'"
    lines = [line for option in every.options for line in _fish_option(option, everywhere)]
    for command in found:
        word = f"-a {command.word} -d {_fish_quoted(command.help)}"
        lines.append(f"complete -c tank -n '__tank_at \"{command.group}\"' {word}")
        limit = " 0" if command.ends else ""
        if command.name not in below:
            when = f"-n '__tank_at \"{command.name}\"{limit}'"
            lines += [line for option in command.options for line in _fish_option(option, when)]
        for at, value in enumerate(command.arguments):
            last = "" if value.many else f" {at}"
            when = f"-n '__tank_argument \"{command.name}\" {at}{last}'"
            lines += [f"complete -c tank {when} {what}" for what in _fish_value(value)]
    return _filled(
        "fish",
        takes=" ".join(_fish_quoted(flag) for flag in takes),
        groups=" ".join(f"'{name}'" for name in ("", *below)),
        verbs="\n".join(
            f"        case {name or _fish_quoted('')}\n"
            "            printf '%s\\t%s\\n' "
            + " ".join(f"{one.word} {_fish_quoted(one.help)}" for one in subs)
            for name, subs in {"": [one for one in found if not one.group], **below}.items()
        ).strip(),
        completions="\n".join([*lines, f"complete -c tank {everywhere} -s h -l help -d help"]),
    )


def _fish_value(value: Value) -> list[str]:
    if value.choices:
        return [f"-a '{' '.join(value.choices)}'"]
    actions = {
        "files": "-F",
        "directories": "-a '(__fish_complete_directories (commandline -ct))'",
        "users": "-a '(__fish_complete_users)'",
        "hosts": "-a '(__fish_print_hostnames)'",
        "verbs": "-a '(__tank_verbs)'",
    }
    kinds = [kind for kind in value.kind.split("+") if kind]
    return [actions.get(kind) or f"-k -a '(__tank_names {kind})'" for kind in kinds]


def _fish_option(option: Option, when: str) -> list[str]:
    flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
    begin = f"complete -c tank {when} {flags} -d {_fish_quoted(option.help)}".replace("  ", " ")
    if option.value is None:
        return [begin]
    # -r alone lets files in, -x does not.
    values = _fish_value(option.value) or [""]
    return [f"{begin} {'-r' if what == '-F' else '-x'} {what}".rstrip() for what in values]


def _fish_quoted(text: str) -> str:
    # In fish, a backslash counts between single quotes, too.
    return _quoted(text.replace("\\", "\\\\"))
