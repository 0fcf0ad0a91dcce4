"""Words of a compose file as go-yaml takes them, which compose reads it with, and texts made numbers."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Final

from tank_agent.convert.model import Plain
from tank_agent.spec.findings import printable

_NUMBER_MAX = 100
_PATH_SHOWN = 200
_WORDS: Final[dict[str, Plain]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
# YAML 1.2, and 1.1's octals; no numbers to the base of 60, so that the port mapping 22:22 stays a text.
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_BASES = (16, 2, 8, 10)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
    r"(?:(?:[Tt]([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(\.[0-9]{1,9})?(Z|[-+][0-9]{2}:[0-9]{2}))"
    r"|(?: ([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(\.[0-9]{1,9})?))?"
)
_OCTAL = re.compile("[0-7]{1,6}")
_DECIMAL = re.compile("[-+]?[0-9]+")
_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = frozenset({"!", f"{_TAG}str", f"{_TAG}binary"})
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    f"{_TAG}int": (int,),
    f"{_TAG}float": (int, float),
    f"{_TAG}bool": (bool,),
    f"{_TAG}null": (type(None),),
    f"{_TAG}timestamp": (str,),
}
KNOWN_TAGS = _TEXT_TAGS | _KINDS.keys() | {f"{_TAG}map", f"{_TAG}seq", f"{_TAG}merge"}
_TRUE, _FALSE = ("true", "y", "yes", "on"), ("false", "n", "no", "off")


def resolved(text: str) -> Plain:
    """Return what a word without quotes stands for."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789" or len(text) > _NUMBER_MAX:
        return text
    time = _TIME.fullmatch(text)
    if time is not None:
        return _time_text(time) or text
    number = text.replace("_", "")
    whole = _INTEGER.fullmatch(number)
    if whole is not None and text[0] != ".":
        digits, base = next(
            (part, base) for part, base in zip(whole.groups()[1:], _BASES, strict=True) if part
        )
        integer = int(f"{whole[1]}{digits}", base)
        if -(1 << 63) <= integer < 1 << 64:
            return integer
    return float(number) if _FLOAT.fullmatch(number) and not math.isinf(float(number)) else text


def _time_text(found: re.Match[str]) -> str | None:
    """Return the text that a date or time without quotes becomes in compose, None if it is no time."""
    date, with_zone, zone, plain = (
        found.group(1, 2, 3),
        found.group(4, 5, 6, 7),
        found[8],
        found.group(9, 10, 11, 12),
    )
    *clock, fraction = with_zone if zone else plain
    year, month, day, hour, minute, second = (int(part or 0) for part in (*date, *clock))
    try:
        at = datetime.datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    offset = "+0000 UTC" if zone in (None, "Z") else f"{zone.replace(':', '')} {zone.replace(':', '')}"
    return f"{at:%Y-%m-%d %H:%M:%S}{(fraction or '').rstrip('0').rstrip('.')} {offset}"


def tagged(text: str, tag: str) -> Plain:
    """Return what a word with a tag of YAML stands for; ValueError if it is nothing of that kind."""
    if tag in _TEXT_TAGS:
        return text
    found = resolved(text)
    kinds = _KINDS.get(tag, ())
    if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
        raise ValueError(f"is no {tag.replace(_TAG, '!!')}; leave the tag away")
    return float(found) if float in kinds and isinstance(found, int) else found


def text_of(plain: Plain) -> str:
    """Return the text that compose makes of a word where it needs one, as in `environment` and `labels`."""
    if plain is None:
        return ""
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, float):
        return _float_text(plain)
    return str(plain)


def _float_text(number: float) -> str:
    if math.isnan(number) or math.isinf(number):
        return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
    shortest = Decimal(repr(number)).normalize()
    if number == 0 or 1e-4 <= abs(number) < 1e6:
        return f"{shortest:f}"
    # Go writes no other numbers without an exponent, and two digits of it at least.
    mantissa, _, exponent = f"{shortest:e}".partition("e")
    return f"{mantissa}e{int(exponent):+03d}"


def dotted(path: Iterable[str]) -> str:
    """Return a key path as it is shown."""
    text = ".".join(path)
    return printable(text if len(text) <= _PATH_SHOWN else f"{text[:_PATH_SHOWN]}…")


def to_integer(text: str) -> int:
    """Return a decimal number; ValueError else."""
    if not _DECIMAL.fullmatch(text) or len(text) > _NUMBER_MAX:
        raise ValueError("is no whole number; write digits only")
    return int(text)


def to_mode(text: str) -> int:
    """Return the permissions that octal digits stand for; ValueError else.

    Compose before 2.30 took them for decimal digits, which nobody means.
    """
    if not _OCTAL.fullmatch(text):
        raise ValueError("are no permissions; write octal digits such as 0440")
    return int(text, 8)


def to_number(text: str) -> float:
    """Return a number; ValueError else."""
    if not _FLOAT.fullmatch(text) or len(text) > _NUMBER_MAX:
        raise ValueError("is no number; write one such as 0.5")
    return float(text)


def to_boolean(text: str) -> bool:
    """Return what YAML 1.1 calls true or false; ValueError else."""
    word = text.lower()
    if word not in (*_TRUE, *_FALSE):
        raise ValueError("is neither true nor false; write one of them")
    return word in _TRUE


Cast = Callable[[str], Plain]
