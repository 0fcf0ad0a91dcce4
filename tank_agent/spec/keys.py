"""The declaration of a key of a file: its type, default, words, examples, check, and effect of a change."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct

from tank_agent.spec.findings import Finding, KeyPath

_FINDINGS_MAX = 1000
ABSOLUTE_PATTERN = "^/"
MEMORY_PATTERN = "^[0-9]+[KkMmGgTt]?$"
_NUMBER = "[0-9]+(\\.[0-9]+)?"
DURATION_PATTERN = "^" + "".join(f"({_NUMBER}{unit})?" for unit in ("d", "h", "m", "s", "ms")) + "$"

Duration = Annotated[str, Meta(extra_json_schema={"pattern": DURATION_PATTERN})] | int | float
Memory = Annotated[str, Meta(extra_json_schema={"pattern": MEMORY_PATTERN})] | int


class FileStruct(Struct, kw_only=True, forbid_unknown_fields=True):
    """The base of everything that is written in a file: strict about its keys."""


class Effect(enum.StrEnum):
    """The effect of a change on running containers, from least to most, in the words of the reference."""

    NOTHING = "nothing"
    LIVE = "live"
    MOUNTING = "the containers that mount it restart"
    CONTAINER = "this container restarts"
    POD = "the whole pod restarts"


class Key(NamedTuple):
    """The parts of a declaration beside its type, default, description and examples.

    check: return the value in its one form, or raise ValueError with a sentence for the user.
    each: the same for each element of a list, or for each (name, value) of a table of texts.
    effect, note: the effect of a change on running containers; None: that of the key above it.
    live: whether a reload of agent.toml applies a change; None: as for the table around it.
    written: return the value that `tank get` writes, given the struct that has the key; for a key whose form
        in the file differs. None leaves the key out. `always`: written even at its default.
    form: its type in the file, if that is not its type in memory.
    advice: return a sentence on a wrong value that other tools have there, or None; for the elements of a
        list, it is declared with their type.
    """

    check: Callable[[Any], Any] | None = None
    each: Callable[[Any], Any] | None = None
    effect: Effect | None = None
    note: str = ""
    live: bool | None = None
    written: Callable[[Any], Any] | None = None
    always: bool = False
    form: Any = None
    advice: Callable[[Any], str | None] | None = None


class DeclaredKey(NamedTuple):
    """A key with its name, its type in the file, its first example, and the tables that its type has."""

    name: str
    type: Any
    key: Key
    example: Any
    tables: tuple[type[Struct], ...]


def declare(description: str, *examples: object, pattern: str | None = None, **declared: Any) -> Meta:
    """Declare a key: words, examples (messages show the first), a pattern for editors, and the `Key`."""
    return Meta(
        description=description,
        examples=list(examples) or None,
        extra_json_schema={"pattern": pattern} if pattern else {},
        extra={"key": Key(**declared)},
    )


@functools.cache
def keys_of(kind: type[Struct]) -> tuple[DeclaredKey, ...]:
    """Return the declared keys of a table, in their order."""
    found = []
    for field in msgspec.structs.fields(kind):
        metas = [meta for meta in getattr(field.type, "__metadata__", ()) if isinstance(meta, Meta)]
        if metas and metas[-1].extra:
            tables = tuple(tables_in(field.type))
            example = next(iter(metas[-1].examples or ()), None)
            found.append(DeclaredKey(field.encode_name, field.type, metas[-1].extra["key"], example, tables))
    return tuple(found)


def tables_in(kind: Any) -> Iterator[type[Struct]]:
    """Yield the structs that are a part of a type."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        yield kind
    for argument in getattr(kind, "__args__", ()):
        yield from tables_in(argument)


def checked(table: Struct, path: KeyPath, findings: list[Finding]) -> dict[str, Any]:
    """Return the keys that a table gives, each value in its one form; what is wrong goes to `findings`."""
    values = {}
    for declared in keys_of(type(table)):
        value, where = getattr(table, declared.name), (*path, declared.name)
        if value is None:
            continue
        each, check = declared.key.each, declared.key.check
        if each is not None and isinstance(value, Mapping):
            for item in value.items():
                _attempt(each, item, (*where, item[0]), findings)
        elif each is not None:
            value = tuple(_attempt(each, one, (*where, at), findings) for at, one in enumerate(value))
        if check is not None and not isinstance(value, Struct):
            value = _attempt(check, value, where, findings)
        values[declared.name] = value
    return values


def _attempt(check: Callable[[Any], Any], value: Any, path: KeyPath, findings: list[Finding]) -> Any:
    # Nobody reads more of them, and each may guess what was meant, which takes time.
    if len(findings) > _FINDINGS_MAX:
        return value
    try:
        return check(value)
    except ValueError as error:
        findings.append(Finding(path, str(error)))
        return value
