"""The declaration of a setting: like a key of a pod file, but times and sizes are numbers in memory."""

from __future__ import annotations

import functools
import ipaddress
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from tank_agent.spec.findings import Finding, KeyPath, show
from tank_agent.spec.keys import ABSOLUTE_PATTERN, Duration, FileStruct, Memory, checked, declare, keys_of
from tank_agent.spec.paths import absolute
from tank_agent.spec.quantities import format_duration, format_memory, parse_duration, parse_size


def seconds(description: str, example: str, low: float, high: float, **declared: Any) -> Meta:
    """Declare a length of time between `low` and `high` seconds."""
    return declare(
        description,
        example,
        check=lambda value: parse_duration(value, low=low, high=high),
        form=Duration,
        written=format_duration,
        **declared,
    )


def size(description: str, example: str, low: int, high: int) -> Meta:
    """Declare a number of bytes between `low` and `high`."""
    return declare(
        description,
        example,
        check=lambda value: parse_size(value, low=low, high=high),
        form=Memory,
        written=format_memory,
    )


def count(description: str, example: int, low: int, high: int, **declared: Any) -> Meta:
    """Declare a whole number from `low` to `high`."""

    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return declare(description, example, check=check, **declared)


def file_path(description: str, example: str) -> Meta:
    """Declare an absolute path of the host."""
    return declare(description, example, pattern=ABSOLUTE_PATTERN, check=absolute)


def listen_address(description: str, example: str) -> Meta:
    """Declare an address of this machine with a port, to listen on."""

    def check(value: str) -> str:
        try:
            parse_listen(value)
        except ValueError:
            message = f"{show(value)} is no address with a port; write one such as {show(example)}"
            raise ValueError(message) from None
        return value

    return declare(description, example, check=check)


def parse_listen(text: str) -> tuple[str, int]:
    """Return the address and the port of a setting such as "127.0.0.1:9470" or "[::]:9470".

    Raises:
        ValueError: it is not an address with a port.
    """
    host, _, port = text.rpartition(":")
    address = str(ipaddress.ip_address(host[1:-1] if host.startswith("[") else host))
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        raise ValueError("not a port")
    return address, int(port)


@functools.cache
def table_of(kind: type[Struct]) -> type[FileStruct]:
    """Return the struct of a table of agent.toml: the declared keys, each with its type in the file."""
    fields: list[Any] = []
    defaults = {field.name: field for field in msgspec.structs.fields(kind)}
    for declared in keys_of(kind):
        field, form = defaults[declared.name], declared.key.form
        meta = declared.type.__metadata__[-1]
        default: Any = field.default
        if field.default_factory is not NODEFAULT:
            default = None if declared.tables or field.default_factory is dict else field.default_factory()
        elif declared.tables:
            default = None
        elif form is not None and default not in (None, NODEFAULT):
            default = _written(declared.key, meta, default)
        base = _form(declared.type.__origin__) if form is None else form
        base = base | None if default is None else base
        fields.append((declared.name, Annotated[base, meta], *(() if default is NODEFAULT else (default,))))
    name = f"{kind.__name__.removesuffix('Settings') or 'Settings'}Table"
    namespace = {"__doc__": (kind.__doc__ or "").splitlines()[0]}
    made = msgspec.defstruct(
        name, fields, bases=(FileStruct,), kw_only=True, forbid_unknown_fields=True, namespace=namespace
    )
    return typing.cast("type[FileStruct]", made)


def _written(declared: Any, meta: Meta, default: Any) -> Any:
    """Return a default as text; as the example has it, if that means the same."""
    example = meta.examples[0] if meta.examples else None
    return example if declared.check(example) == default else declared.written(default)


def _form(kind: Any) -> Any:
    """Return a type in which tables of the file replace structs of settings."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return table_of(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType or origin is typing.Union:
        return functools.reduce(lambda left, right: left | right, map(_form, arguments))
    return origin[tuple(map(_form, arguments))] if origin is dict else kind


def settings_of(kind: type[Struct], table: Struct, path: KeyPath, findings: list[Finding]) -> Any:
    """Return the settings of a table of the file, and add its errors to `findings`."""
    before = len(findings)
    values = checked(table, path, findings)
    wrong = {finding.path[len(path)] for finding in findings[before:]}
    for declared in keys_of(kind):
        if declared.key.form is not None and declared.name in wrong:
            del values[declared.name]
        value, where = values.get(declared.name), (*path, declared.name)
        if isinstance(value, Struct):
            values[declared.name] = settings_of(declared.tables[0], value, where, findings)
        elif isinstance(value, dict) and declared.tables:
            inner = declared.tables[0]
            values[declared.name] = {
                name: settings_of(inner, one, (*where, name), findings) for name, one in value.items()
            }
    return kind(**values)


def for_restart(kind: type[Struct], *, live: bool = False, path: str = "") -> Iterator[str]:
    """Yield the keys that a reload does not apply; only the name of a table in which none is live."""
    for declared in keys_of(kind):
        name = f"{path}{declared.name}"
        is_live = live if declared.key.live is None else declared.key.live
        if not is_live and not any(key.key.live for table in declared.tables for key in keys_of(table)):
            yield name
            continue
        for table in declared.tables:
            yield from for_restart(table, live=is_live, path=f"{name}.")
