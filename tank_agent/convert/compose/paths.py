"""Make the relative paths of a compose file absolute, from the directory that they start in."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Final

from tank_agent.convert.compose.merge import volume_parts
from tank_agent.convert.compose.rules import ITEM, KeyRules
from tank_agent.convert.model import InvalidSource, Plain, Value

# Makes the value of a key absolute, from a directory and the home of `~`.
Resolve = Callable[[Value, "Roots"], Value]


class Roots:
    """The directory of relative paths, and of those that begin with `~`."""

    __slots__ = ("directory", "home")

    def __init__(self, directory: str, home: str | None) -> None:
        self.directory = directory
        self.home = home

    def absolute(self, path: str) -> str:
        """Return a path from the root; one that is of Windows, or of another machine, stays as it is."""
        if path.startswith("~") and self.home:
            return posixpath.normpath(posixpath.join(self.home, path[1:].lstrip("/")))
        if path.startswith("/") or _is_elsewhere(path):
            return path
        return posixpath.normpath(posixpath.join(self.directory, path))


def is_path(source: str) -> bool:
    """Say whether the source of a volume's short form is a path of the host, and no volume's name."""
    return source.startswith((".", "/", "~", "\\\\")) or _is_drive(source)


def absolute_paths(value: Value, roots: Roots) -> Value:
    """Return the entries of a project with absolute paths.

    Raises:
        InvalidSource: a volume has no valid form.
    """
    return _resolved(value, roots, _RULES)


def _resolved(value: Value, roots: Roots, rules: KeyRules[Resolve] | None) -> Value:
    if rules is None:
        return value
    if rules.rule is not None and isinstance(value.plain, str):
        return rules.rule(value, roots)
    plain = value.plain
    if isinstance(plain, dict):
        if (rules is _VOLUME_ITEMS and not _is_bind(plain)) or (rules is _OPTIONS and not _binds(plain)):
            return value
        entries = {key: _resolved(item, roots, rules.at(key)) for key, item in plain.items()}
        return Value(entries, value.place)
    if isinstance(plain, tuple):
        return Value(tuple(_resolved(item, roots, rules.at(ITEM)) for item in plain), value.place)
    return value


def _is_bind(entries: dict[str, Value]) -> bool:
    kind = entries.get("type")
    return kind is not None and kind.plain == "bind"


def _binds(options: dict[str, Value]) -> bool:
    """Say whether the options of a volume mount a directory of the host."""
    found = options.get("o")
    return found is not None and isinstance(found.plain, str) and "bind" in found.plain.split(",")


def _path(value: Value, roots: Roots) -> Value:
    return Value(roots.absolute(str(value.plain)), value.place) if value.plain else value


def _volume(value: Value, roots: Roots) -> Value:
    try:
        source, *rest = volume_parts(str(value.plain))
    except ValueError as error:
        raise InvalidSource(value.place, str(error)) from None
    if not rest or not is_path(source) or roots.absolute(source) == source:
        return value
    path = roots.absolute(source)
    if ":" not in path:
        return Value(":".join([path, *rest]), value.place)
    target, options = rest[0], rest[1].split(",") if rest[1:] else []
    fields: dict[str, Plain] = {
        "type": "bind",
        "source": path,
        "target": target,
        "read_only": "ro" in options,
    }
    return Value({key: Value(plain, value.place) for key, plain in fields.items()}, value.place)


def _context(value: Value, roots: Roots) -> Value:
    return value if "://" in str(value.plain) or str(value.plain).startswith("git@") else _path(value, roots)


def _is_drive(path: str) -> bool:
    return path[:1].isalpha() and path[1:2] == ":"


def _is_elsewhere(path: str) -> bool:
    return path.startswith("\\\\") or _is_drive(path)


_RULES: Final[KeyRules[Resolve]] = KeyRules(
    {
        "services.*.build": _context,
        "services.*.build.context": _context,
        "services.*.build.additional_contexts.*": _context,
        "services.*.env_file": _path,
        "services.*.env_file.[]": _path,
        "services.*.env_file.[].path": _path,
        "services.*.extends.file": _path,
        "services.*.volumes.[]": _volume,
        "services.*.volumes.[].source": _path,
        "volumes.*.driver_opts.device": _path,
        "configs.*.file": _path,
        "secrets.*.file": _path,
    }
)
_VOLUME_ITEMS: Final = _RULES.below(("services", "*", "volumes", ITEM))
_OPTIONS: Final = _RULES.below(("volumes", "*", "driver_opts"))
