"""Merge what several compose files say, by compose's rules: deep, but for the keys of the tables here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tank_agent.convert.compose.rules import KeyRules
from tank_agent.convert.compose.scalars import dotted, text_of
from tank_agent.convert.compose.tree import KeyPath
from tank_agent.convert.model import InvalidSource, Plain, Value
from tank_agent.spec.findings import show

Merge = Callable[[Value, Value, KeyPath], Value]


def merge(base: Value, other: Value, path: KeyPath) -> Value:
    """Return what two values of one key are together; `other` is the later file's, and wins.

    Raises:
        InvalidSource: one is a mapping or list, and the other is not.
    """
    rules = _MERGES.below(path)
    return _merge(base, other, path, rules)


def unique(value: Value, path: KeyPath) -> Value:
    """Return a value whose lists have one entry of each kind: the last, where the first one stands."""
    return _unique(value, path, _KEYS.below(path))


def without(value: Value, paths: tuple[KeyPath, ...]) -> Value:
    """Return a value without the keys of these paths."""
    plain = value.plain
    if not paths or not isinstance(plain, dict):
        return value
    kept: dict[str, Value] = {}
    for key, item in plain.items():
        below = tuple(path[1:] for path in paths if path and path[0] == key)
        if () not in below:
            kept[key] = without(item, below)
    return Value(kept, value.place)


def _merge(base: Value, other: Value, path: KeyPath, rules: KeyRules[Merge] | None) -> Value:
    if base.plain is None:
        return other
    if rules is not None and rules.rule is not None:
        return rules.rule(base, other, path)
    if other.plain is None:
        return base
    if isinstance(base.plain, dict):
        return _mappings(base, other, path)
    if isinstance(base.plain, tuple):
        if not isinstance(other.plain, tuple):
            raise _differs(base, other, path)
        return Value((*base.plain, *other.plain), other.place)
    return other


def _mappings(base: Value, other: Value, path: KeyPath) -> Value:
    if not isinstance(base.plain, dict) or not isinstance(other.plain, dict):
        raise _differs(base, other, path)
    rules = _MERGES.below(path)
    merged = dict(base.plain)
    for key, item in other.plain.items():
        if key in merged and not key.startswith("x-"):
            below = rules.at(key) if rules is not None else None
            merged[key] = _merge(merged[key], item, (*path, key), below)
        else:
            merged[key] = item
    return Value(merged, base.place)


def _differs(base: Value, other: Value, path: KeyPath) -> InvalidSource:
    message = f"{dotted(path)} is {_kind(other.plain)} here and {_kind(base.plain)} at {base.place}"
    return InvalidSource(other.place, f"{message}; write both in the same form")


def _kind(plain: Plain) -> str:
    return "a mapping" if isinstance(plain, dict) else "a list" if isinstance(plain, tuple) else "one value"


def _replace(base: Value, other: Value, path: KeyPath) -> Value:
    return other


def _lists(base: Value, other: Value, path: KeyPath) -> Value:
    """Merge what may be a list, a mapping, or one text."""
    if isinstance(base.plain, dict) and isinstance(other.plain, dict):
        return Value({**base.plain, **other.plain}, base.place)
    return Value((*_as_list(base), *_as_list(other)), other.place)


def _as_list(value: Value) -> tuple[Value, ...]:
    plain = value.plain
    if isinstance(plain, tuple):
        return plain
    if isinstance(plain, dict):
        return tuple(entry for key, item in plain.items() for entry in _as_texts(key, item))
    return () if plain is None else (value,)


def _as_texts(key: str, value: Value) -> list[Value]:
    if value.plain is None:
        return [Value(key, value.place)]
    items = value.plain if isinstance(value.plain, tuple) else (value,)
    return [Value(f"{key}={_scalar_text(item)}", item.place) for item in items]


def _scalar_text(value: Value) -> str:
    if isinstance(value.plain, dict | tuple):
        raise InvalidSource(value.place, "must be one value")
    return text_of(value.plain)


def _hosts(base: Value, other: Value, path: KeyPath) -> Value:
    texts: dict[Plain, Value] = {}
    for item in (*_as_list(base), *_as_list(other)):
        if isinstance(item.plain, dict | tuple):
            raise InvalidSource(item.place, f"{dotted(path)}: an item must be a text such as host:address")
        texts.setdefault(item.plain, item)
    return Value(tuple(texts.values()), other.place)


def _named(base: Value, other: Value, path: KeyPath) -> Value:
    """Merge what is a mapping, or a list of names."""
    return _mappings(_as_mapping(base, path), _as_mapping(other, path), path)


def _as_mapping(value: Value, path: KeyPath) -> Value:
    if not isinstance(value.plain, tuple):
        return Value({}, value.place) if value.plain is None else value
    entries: dict[str, Value] = {}
    for item in value.plain:
        if not isinstance(item.plain, str):
            raise InvalidSource(item.place, f"{dotted(path)}: an item must be a name")
        started = {"condition": Value("service_started", item.place), "required": Value(True, item.place)}
        entries[item.plain] = Value(started if path[-1] == "depends_on" else None, item.place)
    return Value(entries, value.place)


def _build(base: Value, other: Value, path: KeyPath) -> Value:
    both = [
        Value({"context": value}, value.place) if isinstance(value.plain, str) else value
        for value in (base, other)
    ]
    return _mappings(both[0], both[1], path) if other.plain is not None else both[0]


def _logging(base: Value, other: Value, path: KeyPath) -> Value:
    drivers = [
        value.plain.get("driver") if isinstance(value.plain, dict) else None for value in (base, other)
    ]
    plains = {
        text_of(driver.plain) if not isinstance(driver.plain, dict | tuple) else ""
        for driver in drivers
        if driver
    }
    if other.plain is None:
        return base
    return _mappings(base, other, path) if len(plains) < 2 else other


_MERGES: Final[KeyRules[Merge]] = KeyRules(
    {
        "networks.*.labels": _lists,
        "volumes.*.labels": _lists,
        "services.*.annotations": _lists,
        "services.*.build": _build,
        "services.*.build.args": _lists,
        "services.*.build.additional_contexts": _lists,
        "services.*.build.extra_hosts": _hosts,
        "services.*.build.labels": _lists,
        "services.*.command": _replace,
        "services.*.depends_on": _named,
        "services.*.deploy.labels": _lists,
        "services.*.dns": _lists,
        "services.*.dns_opt": _lists,
        "services.*.dns_search": _lists,
        "services.*.entrypoint": _replace,
        "services.*.env_file": _lists,
        "services.*.environment": _lists,
        "services.*.extra_hosts": _hosts,
        "services.*.healthcheck.test": _replace,
        "services.*.labels": _lists,
        "services.*.logging": _logging,
        "services.*.networks": _named,
        "services.*.sysctls": _lists,
        "services.*.tmpfs": _lists,
        "services.*.ulimits.*": _replace,
    }
)


def _unique(value: Value, path: KeyPath, rules: KeyRules[Key] | None) -> Value:
    if rules is None:
        return value
    plain = value.plain
    if isinstance(plain, dict):
        entries = {key: _unique(item, (*path, key), rules.at(key)) for key, item in plain.items()}
        return Value(entries, value.place)
    if not isinstance(plain, tuple) or rules.rule is None:
        return value
    kept: dict[object, Value] = {}
    for item in plain:
        try:
            kept[rules.rule(item)] = item
        except ValueError as error:
            raise InvalidSource(item.place, f"{dotted(path)}: {error}") from None
    return Value(tuple(kept.values()), value.place)


Key = Callable[[Value], object]


def _text(value: Value) -> str:
    if isinstance(value.plain, dict | tuple):
        raise ValueError("an item must be one value, not a mapping or list")
    return text_of(value.plain)


def _before_equals(value: Value) -> object:
    return _text(value).partition("=")[0]


def _field(entries: Mapping[str, Value], key: str) -> str | None:
    found = entries.get(key)
    return None if found is None or found.plain is None else _text(found)


def _target(value: Value) -> object:
    """Return where a volume or device is in the container."""
    if isinstance(value.plain, dict):
        target = _field(value.plain, "target")
        if target is None:
            raise ValueError("a mapping needs target, the path in the container")
        return target.rstrip("/") or "/"
    parts = volume_parts(_text(value))
    return (parts[1] if len(parts) > 1 else parts[0]).rstrip("/") or "/"


def volume_parts(text: str) -> list[str]:
    """Return source, target and options of a volume's short form; ValueError if there are none.

    One letter and a colon are a drive of Windows, and no part of their own, as in compose.
    """
    parts: list[str] = []
    for part in text.split(":"):
        if parts and len(parts[-1]) == 1 and parts[-1].isalpha() and part[:1] in ("\\", "/"):
            parts[-1] += f":{part}"
        else:
            parts.append(part)
    if not all(parts) or len(parts) > 3:
        raise ValueError(f"{show(text)} is no volume; write source:target, or source:target:ro")
    return parts


def _mounted(directory: str) -> Key:
    def key(value: Value) -> object:
        if isinstance(value.plain, dict):
            target = _field(value.plain, "target")
            return target if target is not None else f"{directory}/{_field(value.plain, 'source')}"
        return f"{directory}/{_text(value)}"

    return key


def _port(value: Value) -> object:
    if not isinstance(value.plain, dict):
        address, published, target, protocol = port_parts(_text(value))
        return (address or "", published or "", target, protocol or "tcp")
    address, published, protocol = (_field(value.plain, key) for key in ("host_ip", "published", "protocol"))
    given = _field(value.plain, "target")
    if given is None:
        raise ValueError("a mapping needs target, the port in the container")
    return (address or "", published or "", given, protocol or "tcp")


def port_parts(text: str) -> tuple[str | None, str | None, str, str | None]:
    """Return address, published port, target and protocol of a port's short form."""
    ports, _, protocol = text.partition("/")
    rest, _, target = ports.rpartition(":")
    address, _, published = rest.rpartition(":")
    return address.strip("[]") or None, published or None, target, protocol or None


def _env_file(value: Value) -> object:
    if isinstance(value.plain, dict):
        path = _field(value.plain, "path")
        if path is None:
            raise ValueError("a mapping needs path")
        return path
    return _text(value)


_KEYS: Final[KeyRules[Key]] = KeyRules(
    {
        **dict.fromkeys(
            (
                "networks.*.labels",
                "networks.*.ipam.options",
                "services.*.annotations",
                "services.*.build.args",
                "services.*.build.additional_contexts",
                "services.*.build.platform",
                "services.*.build.tags",
                "services.*.build.labels",
                "services.*.cap_add",
                "services.*.cap_drop",
                "services.*.deploy.labels",
                "services.*.dns",
                "services.*.dns_opt",
                "services.*.dns_search",
                "services.*.environment",
                "services.*.labels",
                "services.*.links",
                "services.*.networks.*.aliases",
                "services.*.networks.*.link_local_ips",
                "services.*.profiles",
                "services.*.sysctls",
                "services.*.tmpfs",
            ),
            _before_equals,
        ),
        "services.*.configs": _mounted(""),
        "services.*.devices": _target,
        "services.*.env_file": _env_file,
        "services.*.expose": _text,
        "services.*.ports": _port,
        "services.*.secrets": _mounted("/run/secrets"),
        "services.*.volumes": _target,
    }
)
