"""Ask for a session, and import the modules that carry its bytes while the agent starts the command."""

from __future__ import annotations

import os

from tank_agent.client.fast import http, keys
from tank_agent.client.fast.streams import Streams

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tank_agent.client.fast.results import Result
    from tank_agent.client.fast.streams import Stream

    JsonValue = str | int | None | list[str]

_ESCAPED = {chr(code): f"\\u{code:04x}" for code in (*range(32), ord('"'), ord("\\"))}
_SWITCHING_PROTOCOLS = 101
# Seconds for which the agent waits for a container that is about to start, and after which that is told.
_STARTS_WITHIN = 30.0
_PATIENCE = 1.0


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
    wait: float | None = None,
    slow: Callable[[http.Asked], object] | None = None,
) -> Result:
    """Run a command in a container, as `Client.exec` describes it; `slow` is called when it has to wait."""
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
    within = _STARTS_WITHIN if wait is None else wait
    asked = http.ask_for_session(path, _target(name, "exec", streams, wait), body, within)
    from tank_agent.client.fast.session import Session

    answered = _answered(asked, slow)
    session = Session(path, answered, streams, sequence if on_terminal else b"")
    return session.run(raw=on_terminal and streams.stdin_is_terminal(), interrupts=not on_terminal)


def attach(
    path: str,
    name: str,
    *,
    stdin: Stream | None = None,
    stdout: Stream | None = None,
    detach_keys: str = keys.DEFAULT,
    wait: float | None = None,
    slow: Callable[[http.Asked], object] | None = None,
) -> Result:
    """Take over a container's terminal, as `Client.attach` describes it; `slow` as for a command."""
    streams = Streams(stdin, stdout, None)
    sequence = keys.parse(detach_keys)
    within = _STARTS_WITHIN if wait is None else wait
    asked = http.ask_for_session(path, _target(name, "attach", streams, wait), within=within)
    from tank_agent.client.fast.session import Session

    session = Session(path, _answered(asked, slow), streams, sequence)
    session.resize()
    return session.run(raw=streams.stdin_is_terminal(), interrupts=False)


def _answered(asked: http.Asked, slow: Callable[[http.Asked], object] | None) -> http.Answered:
    """Return the head of the answer; `slow` is called once it takes longer than a second."""
    if slow is not None and not asked.comes(_PATIENCE):
        slow(asked)
    return asked.answer(expected=_SWITCHING_PROTOCOLS)


def _target(name: str, verb: str, streams: Streams, wait: float | None) -> str:
    """Return the target of the request; a user who types gets no confirmations, so that a detach is quick."""
    query = {} if streams.stdin_is_terminal() else {"confirm": "1"}
    return http.target_path(name, verb, query if wait is None else {**query, "wait": f"{wait:g}"})


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
