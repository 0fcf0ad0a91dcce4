"""Sizes, times and truth as podman and systemd write them, in the form of a pod file."""

from __future__ import annotations

import re

from tank_agent.spec.quantities import format_duration, format_memory

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([a-zA-Zµ]*) *")
_SECONDS = {
    **dict.fromkeys(("us", "µs", "usec"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604_800.0),
}


def size(text: str) -> str:
    """Return a number of bytes such as "128mb".

    Raises:
        ValueError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text} is no size")
    return format_memory(int(float(found[1]) * 1024 ** _POWERS[found[2].lower()]))


def seconds(text: str) -> float:
    """Return a length of time such as "1m30s", "5min 20s" or "90".

    Raises:
        ValueError: it is none.
    """
    total, at = 0.0, 0
    text = text.strip()
    while at < len(text):
        found = _PART.match(text, at)
        if found is None or found[2] not in _SECONDS:
            raise ValueError(f"{text} is no length of time")
        total += float(found[1]) * _SECONDS[found[2]]
        at = found.end()
    if not text:
        raise ValueError("is no length of time")
    return total


def duration(text: str) -> str:
    """Return a length of time in the form of a pod file.

    Raises:
        ValueError: it is none.
    """
    return format_duration(seconds(text))


def truth(text: str) -> bool:
    """Return what systemd takes for true."""
    return text.strip().lower() in ("1", "yes", "y", "true", "t", "on")
