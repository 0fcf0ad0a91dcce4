"""Read the HEALTHCHECK of an image, whatever its media type says.

It is Docker's: OCI's specification has none, but BuildKit writes it into images of OCI's types, too. Nothing
in it makes an image unusable: what makes no sense counts as not given.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tank_agent.image.config import ImageHealthcheck
from tank_agent.spec.health_values import DAY, HOUR, RETRIES_MAX

_DEFAULT_SHELL = ("/bin/sh", "-c")
_NANOSECONDS = 1e9
# Docker takes no shorter times; what is shorter than a pod file may say is as short as it may say.
_SHORTEST = 0.001
# The kernel takes no longer argument (MAX_ARG_STRLEN); a health check of this length is a mistake anyway.
_COMMAND_SIZE = 128 << 10


def read_healthcheck(healthcheck: msgspec.Raw, shell: msgspec.Raw) -> ImageHealthcheck | None:
    """Return the health check of the keys Healthcheck and Shell; None if there is none that can be run."""
    found = _decoded(healthcheck)
    if not isinstance(found, dict):
        return None
    command = _command(found.get("Test"), _decoded(shell))
    if command is None:
        return None
    retries = found.get("Retries")
    return ImageHealthcheck(
        command=command,
        interval=_seconds(found.get("Interval"), 1.0, DAY),
        timeout=_seconds(found.get("Timeout"), 0.1, HOUR),
        start_period=_seconds(found.get("StartPeriod"), 0.0, HOUR),
        start_interval=_seconds(found.get("StartInterval"), 0.5, DAY),
        retries=retries if type(retries) is int and 0 < retries <= RETRIES_MAX else None,
    )


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _command(test: Any, shell: Any) -> tuple[str, ...] | None:
    """Return the command of ["CMD", …] or ["CMD-SHELL", …], as Docker reads them."""
    kind, *words = _words(test) or ("NONE",)
    if kind == "CMD-SHELL" and words:
        words = [*(_words(shell) or _DEFAULT_SHELL), *words]
    elif kind != "CMD":
        return None
    return tuple(words) if words and words[0] else None


def _words(value: Any) -> list[str] | None:
    """Return a list of words if that is what the value is, and if it can be arguments of a program."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return None
    text = "".join(value)
    return value if "\0" not in text and len(text) + len(value) <= _COMMAND_SIZE else None


def _seconds(nanoseconds: Any, low: float, high: float) -> float | None:
    least, most = _SHORTEST * _NANOSECONDS, high * _NANOSECONDS
    if type(nanoseconds) not in (int, float) or not least <= nanoseconds <= most:
        return None
    return max(low, float(nanoseconds / _NANOSECONDS))
