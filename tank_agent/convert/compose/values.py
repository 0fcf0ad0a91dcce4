"""Read values of a compose file in the forms that its specification has for them.

Each function raises ValueError, with the end of a sentence about the key, for a value that has none of them.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable

from tank_agent.convert.compose import scalars
from tank_agent.convert.model import Value
from tank_agent.spec.findings import show
from tank_agent.spec.quantities import format_duration, format_memory

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(h|ms|m|s|us|µs|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def text(value: Value) -> str:
    """Return a scalar as compose writes it into a text."""
    plain = value.plain
    if plain is None:
        return ""
    if isinstance(plain, tuple | dict):
        raise ValueError("is a list or a mapping where compose has a text")
    return scalars.text_of(plain)


def items(value: Value) -> list[Value]:
    """Return the elements of a list; a scalar is a list of one, null is an empty one."""
    if isinstance(value.plain, dict):
        raise ValueError("is a mapping where compose has a list")
    if isinstance(value.plain, tuple):
        return list(value.plain)
    return [] if value.plain is None else [value]


def texts(value: Value) -> list[str]:
    """Return the elements of a list of texts, or the one text."""
    return [text(one) for one in items(value)]


def mapping(value: Value) -> dict[str, Value]:
    """Return a mapping; null is an empty one."""
    if value.plain is None:
        return {}
    if not isinstance(value.plain, dict):
        raise ValueError("is not a mapping")
    return value.plain


def pairs(value: Value, separators: str = "=") -> list[tuple[str, Value]]:
    """Return names with values, of a mapping or of a list of "NAME=VALUE"; without a value it is null."""
    if isinstance(value.plain, dict):
        return list(value.plain.items())
    found = []
    for one in items(value):
        word = text(one)
        at = min((cut for mark in separators if (cut := word.find(mark)) >= 0), default=-1)
        plain = None if at < 0 else word[at + 1 :]
        found.append((word if at < 0 else word[:at], Value(plain, one.place)))
    return found


def boolean(value: Value) -> bool:
    """Return a truth value, also one that is written as a text."""
    if isinstance(value.plain, bool):
        return value.plain
    word = text(value).lower()
    if word in ("true", "yes", "on", "y", "1"):
        return True
    if word in ("false", "no", "off", "n", "0", ""):
        return False
    raise ValueError(f"{show(word)} is neither true nor false")


def number(value: Value) -> float:
    """Return a number, also one that is written as a text."""
    try:
        found = float(text(value))
    except ValueError:
        raise ValueError(f"{show(text(value))} is not a number") from None
    if not abs(found) <= 1e18:
        raise ValueError(f"{show(text(value))} is not a number that can be used")
    return found


def whole(value: Value) -> int:
    """Return a whole number."""
    found = number(value)
    if found != int(found):
        raise ValueError(f"{show(text(value))} is not a whole number")
    return int(found)


def size(value: Value) -> int:
    """Return bytes of "512m", "1.5gb" or 1024; -1 is no limit."""
    word = text(value).strip()
    if word == "-1":
        return -1
    found = _SIZE.fullmatch(word)
    if found is None or len(word) > 30:
        raise ValueError(f"{show(word)} is not a number of bytes")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def size_text(count: int) -> str:
    """Return bytes as pod files have them."""
    return format_memory(count)


def seconds(value: Value) -> float:
    """Return the seconds of "1m30s", as Go reads it, or of a number of seconds."""
    word = text(value).strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", word):
        return float(word)
    found = list(_TIME.finditer(word))
    if not found or "".join(one[0] for one in found) != word or len(word) > 60:
        raise ValueError(f"{show(word)} is not a length of time")
    return sum(float(one[1]) * _SECONDS[one[2]] for one in found)


def time_text(length: float) -> str:
    """Return seconds as pod files have them, to the millisecond."""
    rounded = round(length, 3)
    whole_text = format_duration(rounded)
    return whole_text if whole_text[-1].isalpha() else f"{round(rounded * 1000)}ms"


def words(value: Value) -> list[str]:
    """Return the arguments of a command: a list, or a text that is split as a shell does it."""
    if isinstance(value.plain, tuple):
        return texts(value)
    given = text(value)
    try:
        return shlex.split(given)
    except ValueError:
        raise ValueError(f"{show(given)} has a quote that is not closed") from None


def path_from(directory: str, home: str, given: str) -> str:
    """Return a path of the host, absolute and in its shortest form."""
    if given == "~" or given.startswith("~/"):
        given = home + given[1:]
    found = posixpath.normpath(posixpath.join(directory, given))
    return found[1:] if found.startswith("//") else found


def in_path(given: str) -> str:
    """Return a path of the container in its shortest form."""
    found = posixpath.normpath(given)
    return found[1:] if found.startswith("//") else found


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence."""
    return ", ".join(names)
