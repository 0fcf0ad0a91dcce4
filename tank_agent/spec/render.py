"""Write a pod as a pod file that reads back as an equal pod, by the declaration of each key.

tomlkit compares each thing that is appended to a list, or to a table that it did not parse, with all that is
there. To take time proportional to the text, each is made of all its parts at once, or passed off as parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomlkit
from msgspec import Struct
from tomlkit.container import Container
from tomlkit.items import AoT, Array, InlineTable, Item, String, StringType, Table, Trivia, Whitespace

from tank_agent.spec.file import PodTable
from tank_agent.spec.keys import DeclaredKey, keys_of
from tank_agent.spec.model import Pod, defaults_of
from tank_agent.spec.printable import escape_toml
from tank_agent.spec.written import LongText

# In a text in three quotes; what else needs an escape gets one with all other lines.
_LONG = str.maketrans({"\\": "\\\\", "\t": "\\t"})


class _Inline(dict[str, Any]):
    """A table that is written in braces, on the line of its key."""


def render_pod(pod: Pod) -> str:
    """Return the TOML text of a pod, as `tank get` prints it; what is at its default is left out."""
    table = _table(PodTable, pod)
    containers = table.pop("containers")
    text = _container({**table, "containers": containers}).as_string()
    return "\n".join(map(escape_toml, text.split("\n")))


def _table(kind: type[Struct], given: Struct) -> dict[str, Any]:
    defaults = dict(defaults_of(type(given)))
    table = {}
    for declared in keys_of(kind):
        name, key = declared.name, declared.key
        is_field = hasattr(given, name)
        # A key that is no field of the pod, such as `hosts`, is no part of what runs.
        if key.written is None and not is_field:
            continue
        if is_field and getattr(given, name) == defaults[name] and not key.always:
            continue
        value = getattr(given, name) if key.written is None else key.written(given)
        table[name] = _value(declared, value)
    return table


def _value(declared: DeclaredKey, value: Any) -> Any:
    if isinstance(value, Struct):
        return _table(declared.tables[0], value)
    if isinstance(value, tuple):
        return [_value(declared, item) for item in value]
    return _Inline(value) if isinstance(value, Mapping) else value


def _container(table: Mapping[str, Any]) -> Container:
    # Tables come last: in TOML, keys after a table's header belong to that table.
    found = Container()
    below = {key: value for key, value in table.items() if _has_header(value)}
    for key, value in table.items():
        if key not in below and value is not None:
            found.append(key, _item(value), validate=False)
    for key, value in below.items():
        several = isinstance(value, list)
        tables = [Table(_container(one), Trivia(), several) for one in (value if several else [value])]
        found.append(key, AoT(tables) if several else tables[0], validate=False)
    return found


def _has_header(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and _has_header(value[0])
    return isinstance(value, Mapping) and not isinstance(value, _Inline)


def _item(value: object) -> Item:
    if isinstance(value, list):
        parts = [part for one in value for part in (Whitespace(", "), _item(one))]
        return Array(parts[1:], Trivia())
    if isinstance(value, Mapping):
        pairs = Container(parsed=True)
        for key, item in value.items():
            pairs.append(key, _item(item), validate=False)
        return InlineTable(pairs, Trivia(), new=True)
    if isinstance(value, LongText) and "\n" in value:
        return String(StringType.MLB, value, _on_lines(value), Trivia())
    return tomlkit.item(value)


def _on_lines(value: str) -> str:
    """Return a text as it is in three quotes; a line break right after them is no part of it."""
    body, last = (value[:-1], '\\"') if value.endswith('"') else (value, "")
    escaped = body.translate(_LONG).replace('""', '"\\"')
    return f"\n{escaped}{last}"
