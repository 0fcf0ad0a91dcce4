"""Write TOML with tomlkit, in time proportional to the text.

tomlkit looks at all that is there with each thing that is appended to a list, or to a table that it did not
parse. So each is made of all its parts at once, or passed off as parsed; no key of a mapping is there twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomlkit
from tomlkit.container import Container
from tomlkit.items import AoT, Array, InlineTable, Item, Table, Trivia, Whitespace

from tank_agent.spec.printable import escape_toml


class Inline(dict[str, Any]):
    """A table that is written in braces, on the line of its key."""


def write_toml(document: Mapping[str, Any]) -> str:
    """Return a document of mappings, lists, texts, numbers and truth values as TOML; None is left out."""
    return "\n".join(map(escape_toml, _container(document).as_string().split("\n")))


def _container(table: Mapping[str, Any]) -> Container:
    # Tables come last: in TOML, keys after a table's header belong to that table.
    found = Container()
    below = {key: value for key, value in table.items() if _has_header(value)}
    for key, value in table.items():
        if key not in below and value is not None:
            found.append(key, _value(value), validate=False)
    for key, value in below.items():
        made = AoT([_table(one, several=True) for one in value]) if isinstance(value, list) else _table(value)
        found.append(key, made, validate=False)
    return found


def _has_header(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and _has_header(value[0])
    return isinstance(value, Mapping) and not isinstance(value, Inline)


def _table(table: Mapping[str, Any], *, several: bool = False) -> Table:
    return Table(_container(table), Trivia(), several)


def _value(value: object) -> Item:
    if isinstance(value, list):
        parts = [part for one in value for part in (Whitespace(", "), _value(one))]
        return Array(parts[1:], Trivia())
    if isinstance(value, Mapping):
        pairs = Container(parsed=True)
        for key, item in value.items():
            pairs.append(key, _value(item), validate=False)
        return InlineTable(pairs, Trivia(), new=True)
    return tomlkit.item(value)
