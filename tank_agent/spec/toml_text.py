"""Writes TOML, in time proportional to the text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tank_agent.spec.printable import escape_toml

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SPECIAL = re.compile(r'["\\\x00-\x1f]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


class Inline(dict[str, Any]):
    """A table that is written in braces, on the line of its key."""


def write_toml(document: Mapping[str, Any]) -> str:
    """Return a document of mappings, lists, texts, numbers and truth values as TOML; None is left out."""
    return "\n".join(_table(document, "")).removeprefix("\n") + "\n"


def _table(table: Mapping[str, Any], path: str) -> Iterator[str]:
    # Tables come last: in TOML, keys after a table's header belong to that table.
    below = []
    for key, value in table.items():
        if _has_header(value):
            below.append((f"{path}.{_key(key)}" if path else _key(key), value))
        elif value is not None:
            yield f"{_key(key)} = {_value(value)}"
    for name, value in below:
        several = isinstance(value, list)
        for one in value if several else (value,):
            yield f"\n[[{name}]]" if several else f"\n[{name}]"
            yield from _table(one, name)


def _has_header(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and _has_header(value[0])
    return isinstance(value, Mapping) and not isinstance(value, Inline)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _value(key)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{escape_toml(_SPECIAL.sub(_escaped, value))}"'
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case Mapping():
            pairs = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items())
            return f"{{{pairs}}}"
        case _:
            return repr(value)


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return _SHORT.get(char) or f"\\u{ord(char):04X}"
