"""Write a new pod file as a person would: short tables on one line, all others below headers of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import tomlkit
from msgspec import Struct

from tank_agent.convert.model import NewPodFile
from tank_agent.spec.file import PodTable
from tank_agent.spec.keys import keys_of
from tank_agent.spec.printable import escape_toml

_WIDTH = 100
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# Tables that have a header of their own, whatever their length.
_WITH_HEADER = ("network", "limits", "health", "security", "update")


def text_of(file: NewPodFile) -> str:
    """Return the text of a pod file, with its comments at the head."""
    head = [f"# {line}".rstrip() for comment in file.comments for line in comment.split("\n")]
    lines = [*head, *([""] if head else []), *_table(file.pod, PodTable, "")]
    return "\n".join(map(escape_toml, lines)) + "\n"


def _table(table: Mapping[str, object], kind: type[Struct] | None, where: str) -> Iterator[str]:
    """Yield the lines of a table: keys with values first, since those below a header belong to that."""
    kinds = {one.name: one.tables[0] if one.tables else None for one in keys_of(kind)} if kind else {}
    order = {name: at for at, name in enumerate(kinds)}
    # The declaration begins with containers, which come last in a file.
    names = sorted(table, key=lambda name: (name == "containers", order.get(name, len(order))))
    below = []
    for name in names:
        value = table[name]
        if _has_header(name, value):
            below.append(name)
        else:
            yield from _pair(name, value)
    for name in below:
        value, place = table[name], f"{where}.{_key(name)}" if where else _key(name)
        for one in value if isinstance(value, list) else [value]:
            assert isinstance(one, Mapping)
            # A table of tables alone needs no header of its own.
            if isinstance(value, list) or not one or not all(map(_has_header, one, one.values())):
                yield ""
                yield f"[[{place}]]" if isinstance(value, list) else f"[{place}]"
            yield from _table(one, kinds.get(name), place)


def _has_header(name: str, value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], Mapping)
    if not isinstance(value, Mapping):
        return False
    return name in _WITH_HEADER or len(f"{name} = {_inline(value)}") > _WIDTH


def _pair(name: str, value: object) -> Iterator[str]:
    line = f"{_key(name)} = {_inline(value)}"
    if isinstance(value, list) and len(line) > _WIDTH and len(value) > 1:
        yield f"{_key(name)} = ["
        yield from (f"  {_inline(one)}," for one in value)
        yield "]"
    elif isinstance(value, str) and "\n" in value:
        yield from f"{_key(name)} = {_long(value)}".split("\n")
    else:
        yield line


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_inline(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return str(tomlkit.item(value).as_string())


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else str(tomlkit.item(name).as_string())


def _long(value: str) -> str:
    """Return a text in three quotes; a line break right after the first three is no part of it."""
    body, last = (value[:-1], '\\"') if value.endswith('"') else (value, "")
    body = body.replace("\\", "\\\\").replace("\t", "\\t").replace('""', '"\\"')
    return '"""\n' + _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", body) + f'{last}"""'
