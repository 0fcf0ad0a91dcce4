"""Ask for a session; while the agent starts what is wanted, the modules are imported that carry the bytes.

For the same reason this one imports next to nothing: a short command takes less time than Python's start.
"""

from __future__ import annotations

import os

from tank_agent.client import keys, light
from tank_agent.linux import standard_streams

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

    from tank_agent.client.results import Result

    JsonValue = str | int | None | list[str]
    Stream = int | IO[bytes] | IO[str]

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
        # No terminal is called otherwise, and JSON could not carry any bytes.
        wanted |= {"rows": rows, "columns": columns, "term": term if term.isascii() else ""}
    body = _json(wanted).encode()
    asked = light.ask_for_session(path, _target(name, "exec", streams), body)
    from tank_agent.client.session import Session

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
    asked = light.ask_for_session(path, _target(name, "attach", streams))
    from tank_agent.client.session import Session

    session = Session(path, asked.answer(expected=_SWITCHING_PROTOCOLS), streams, sequence)
    session.resize()
    return session.run(raw=streams.stdin_is_terminal(), interrupts=False)


def _target(name: str, verb: str, streams: Streams) -> str:
    """Return what to ask for. Who types is not held up, so that the keys that leave are seen at once."""
    return light.target_path(name, verb, {} if streams.stdin_is_terminal() else {"confirm": "1"})


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


class Streams:
    """The descriptors of this side; those of the process where none is given."""

    def __init__(self, stdin: Stream | None, stdout: Stream | None, stderr: Stream | None) -> None:
        # Before there is a connection, which would get the number of one that is closed.
        standard_streams.reserve()
        self.stdin = _descriptor(stdin, 0)
        self.stdout = _descriptor(stdout, 1)
        self.stderr = _descriptor(stderr, 2)

    def stdin_is_terminal(self) -> bool:
        """Return whether a user types there."""
        return os.isatty(self.stdin)

    def size(self) -> tuple[int, int]:
        """Return rows and columns of the terminal; zeros if there is none, or none knows."""
        for descriptor in (self.stdout, self.stdin):
            try:
                columns, rows = os.get_terminal_size(descriptor)
            except OSError:
                continue
            if rows and columns:
                return rows, columns
        return 0, 0


def _descriptor(stream: Stream | None, default: int) -> int:
    if stream is None:
        return default
    return stream if isinstance(stream, int) else stream.fileno()
