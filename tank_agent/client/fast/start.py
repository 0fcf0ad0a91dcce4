"""Ask for a session, and import the modules that carry its bytes while the agent starts the command."""

from __future__ import annotations

import os

from tank_agent.client.fast import http, keys
from tank_agent.client.fast.streams import Streams

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tank_agent.client.fast.results import Result
    from tank_agent.client.fast.streams import Stream

    JsonValue = str | int | None | list[str]

_ESCAPED = {chr(code): f"\\u{code:04x}" for code in (*range(32), ord('"'), ord("\\"))}
_SWITCHING_PROTOCOLS = 101


def exec_command(
    path: str,
    name: str,
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Sequence[str] = (),
    tty: bool | None = None,
    stdin: Stream | None = None,
    stdout: Stream | None = None,
    stderr: Stream | None = None,
    detach_keys: str = keys.DEFAULT,
) -> Result:
    """Run a command in a container, as `Client.exec` describes it."""
    streams = Streams(stdin, stdout, stderr)
    on_terminal = streams.stdin_is_terminal() if tty is None else tty
    sequence = keys.parse(detach_keys)
    wanted: dict[str, JsonValue] = {"argv": list(argv), "cwd": cwd, "env": list(env), "terminal": on_terminal}
    if on_terminal:
        rows, columns = streams.size()
        term = os.environ.get("TERM", "")
        # All names of terminals are ASCII, and JSON can't carry other bytes.
        wanted |= {"rows": rows, "columns": columns, "term": term if term.isascii() else ""}
    body = _json(wanted).encode()
    asked = http.ask_for_session(path, _target(name, "exec", streams), body)
    from tank_agent.client.fast.session import Session

    answered = asked.answer(expected=_SWITCHING_PROTOCOLS)
    session = Session(path, answered, streams, sequence if on_terminal else b"")
    return session.run(raw=on_terminal and streams.stdin_is_terminal(), interrupts=not on_terminal)


def attach(
    path: str,
    name: str,
    *,
    stdin: Stream | None = None,
    stdout: Stream | None = None,
    detach_keys: str = keys.DEFAULT,
) -> Result:
    """Take over a container's terminal, as `Client.attach` describes it."""
    streams = Streams(stdin, stdout, None)
    sequence = keys.parse(detach_keys)
    asked = http.ask_for_session(path, _target(name, "attach", streams))
    from tank_agent.client.fast.session import Session

    session = Session(path, asked.answer(expected=_SWITCHING_PROTOCOLS), streams, sequence)
    session.resize()
    return session.run(raw=streams.stdin_is_terminal(), interrupts=False)


def _target(name: str, verb: str, streams: Streams) -> str:
    """Return the target of the request; a user who types gets no confirmations, so that a detach is quick."""
    return http.target_path(name, verb, {} if streams.stdin_is_terminal() else {"confirm": "1"})


def _json(fields: Mapping[str, JsonValue]) -> str:
    """Write an object as JSON; the json module would take longer to import."""
    return "{" + ",".join(f"{_json_text(key)}:{_json_value(value)}" for key, value in fields.items()) + "}"


def _json_value(value: JsonValue) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(_json_text, value)) + "]"
    if isinstance(value, str):
        return _json_text(value)
    if value is None:
        return "null"
    return str(value).lower()


def _json_text(text: str) -> str:
    return '"' + "".join(_ESCAPED.get(char, char) for char in text) + '"'
