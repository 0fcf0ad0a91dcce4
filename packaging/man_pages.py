"""The manual pages of `tank`: tank(1), and tank-VERB(1) for each verb, from its parser and its examples."""

from __future__ import annotations

from commands import Command, Option, Value, common, groups
from key_pages import roff, template

from tank_agent import __version__

# What tank(1) shows first.
EXAMPLES = (
    ("tank apply web.toml", "run the pod of a file"),
    ("tank status", "what runs, and since when"),
    ("tank logs -f web", "what it prints"),
    ("tank exec -it web sh", "a shell in it"),
    ("tank plan", "what a change of the files in pods.d would do"),
    ("tank why web", "why it is as it is"),
    ("tank rollback web", "its last good spec"),
    ("tank import compose compose.yaml -o /etc/tank/pods.d", "pod files of a compose project"),
)
# Verbs whose exit status is another than that of tank(1).
_EXIT = {
    **dict.fromkeys(("exec", "attach"), "That of the command; 128+n if signal n ended it."),
    "plan": "0 if nothing would be done, 2 if something would, 1 for any error.",
}
_ALONE = "0 if it was done, 1 if it failed, 2 for wrong usage or an invalid pod file."


def page(name: str, section: str, summary: str, body: str) -> str:
    """Return a manual page, whose text begins behind NAME."""
    head = f'.TH "{roff(name.upper())}" "{section}" "" "tank\\-agent {__version__}" "tank\\-agent"\n'
    return f"{head}.SH NAME\n{roff(name)} \\- {roff(summary)}\n{body}"


def tank_pages(found: list[Command]) -> dict[str, str]:
    """Return tank(1) and a page for each verb, by the names of their files."""
    below = groups(found)
    verbs = [command for command in found if not command.group]
    pages = {
        f"tank-{verb.name}.1": _verb_page(verb, below.get(verb.name, []))
        for verb in verbs
        # That of the agent is tank-agent(8).
        if verb.name != "agent"
    }
    return {"tank.1": _tank_page(verbs, below), **pages}


def _tank_page(verbs: list[Command], below: dict[str, list[Command]]) -> str:
    parts = [
        ".SH SYNOPSIS\n.B tank\n[\\fIOPTIONS\\fR] \\fIVERB\\fR [\\fIARGUMENTS\\fR]\n",
        f".SH DESCRIPTION\n{template('tank.description')}",
        ".SH VERBS\nEach has a page, such as\n.BR tank\\-exec (1),\nwhich\n.B tank help\n"
        "\\fIVERB\\fR says in short.\n",
    ]
    for verb in verbs:
        own = ", ".join(f"\\fB{roff(one.word)}\\fR" for one in below.get(verb.name, []))
        more = f".\n.br\nIts verbs: {own}." if own else ""
        parts.append(f".TP\n\\fB{roff(verb.name)}\\fR\n{_text(verb.help)}{more}\n")
    parts += [".SH OPTIONS\n", *map(_option, common().options), _examples(EXAMPLES)]
    parts += [template("tank.exit"), _end()]
    return page("tank", "1", "talk to the container agent of this machine", "".join(parts))


def _verb_page(verb: Command, below: list[Command]) -> str:
    shown = below or [verb]
    synopsis = "\n.br\n".join(_usage(one) for one in shown)
    parts = [f".SH SYNOPSIS\n{synopsis}\n.SH DESCRIPTION\n{_paragraphs(verb.text or verb.help)}\n"]
    if below:
        parts.append(".SH VERBS\n")
        for one in below:
            parts.append(f".SS {roff(one.word)}\n{_text(one.text)}\n")
            parts += [*_arguments(one), *map(_option, one.options)]
    every = ", ".join(_flags(option) for option in common().options)
    parts += [".SH OPTIONS\n", *([] if below else [*_arguments(verb), *map(_option, verb.options)])]
    parts.append(f".PP\n{every} and \\fB\\-\\-help\\fR are told in\n.BR tank (1).\n")
    parts.append(_examples(verb.examples))
    parts.append(f'.SH "EXIT STATUS"\n{_text(_EXIT.get(verb.name, _ALONE))}\n')
    return page(f"tank-{verb.name}", "1", verb.help, "".join(parts) + _end(".BR tank (1),\n"))


def agent_page(found: list[Command]) -> str:
    """Return tank-agent(8), with the options of `tank agent`."""
    (agent,) = (command for command in found if command.name == "agent")
    body = template("agent").replace("@OPTIONS@\n", "".join(map(_option, agent.options)))
    return page("tank-agent", "8", "the agent that runs pods from files", body)


def _end(see: str = "") -> str:
    return template("tank.end").replace("@SEE@\n", see)


def _usage(command: Command) -> str:
    """Return a line of usage, with the name in bold."""
    name = f"tank {command.name}"
    rest = command.usage.removeprefix(name).strip()
    return f"\\fB{roff(name)}\\fR {roff(rest)}".rstrip()


def _arguments(command: Command) -> list[str]:
    return [f".TP\n\\fI{roff(one.name)}\\fR\n{_text(one.help)}\n" for one in command.arguments if one.help]


def _option(option: Option) -> str:
    return f".TP\n{_flags(option)}\n{_text(option.help) or _choices(option.value)}\n"


def _flags(option: Option) -> str:
    flags = ", ".join(f"\\fB{roff(flag)}\\fR" for flag in option.flags)
    return flags + (f" \\fI{roff(option.value.name)}\\fR" if option.value else "")


def _choices(value: Value | None) -> str:
    return _text(", ".join(value.choices)) if value else ""


def _text(text: str) -> str:
    return roff(" ".join(text.split()))


def _paragraphs(text: str) -> str:
    return "\n.PP\n".join(_text(part) for part in text.strip().split("\n\n"))


def _examples(examples: tuple[tuple[str, str], ...]) -> str:
    if not examples:
        return ""
    return ".SH EXAMPLES\n" + "".join(
        f".TP\n\\fB{roff(command)}\\fR\n{_text(text)}\n" for command, text in examples
    )
