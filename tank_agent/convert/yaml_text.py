"""Write YAML that readers of YAML 1.1 and 1.2 read alike: block style, quotes where a word is no text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@=+-]*(?::[A-Za-z0-9_./@=+-]+)*")
# Words that a reader takes for something else than text.
_WORDS = {"y", "n", "yes", "no", "true", "false", "on", "off", "null", "none", "nan", "inf"}


def yaml_text(value: Mapping[str, object]) -> str:
    """Return the YAML of a mapping of texts, numbers, lists and mappings."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: object) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [line for key, item in value.items() for line in _entry(f"{_scalar(str(key))}:", item)]
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        found = []
        for item in value:
            lines = _lines(item)
            found += [f"- {lines[0]}", *(f"  {line}" for line in lines[1:])]
        return found
    return [_scalar(value)]


def _entry(key: str, item: object) -> list[str]:
    if isinstance(item, str) and "\n" in item and _fits_block(item):
        style = "|" if item.endswith("\n") else "|-"
        return [f"{key} {style}", *(f"  {line}" if line else "" for line in item.rstrip("\n").split("\n"))]
    lines = _lines(item)
    if isinstance(item, (Mapping, Sequence)) and not isinstance(item, str) and item:
        return [key, *(f"  {line}" for line in lines)]
    return [f"{key} {lines[0]}"]


def _fits_block(text: str) -> bool:
    """Return whether a text is the same in block style, which takes spaces and line ends in its own way."""
    lines = text.removesuffix("\n").split("\n")
    return (
        bool(lines[0].strip())
        and not lines[0].startswith(" ")
        and bool(lines[-1].strip())
        and all(line.isprintable() and line == line.rstrip() for line in lines)
    )


def _scalar(value: object) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS and not value.startswith("=")
        return value if plain else _quoted(value)
    if isinstance(value, Sequence):
        return "[]"
    text = json.dumps(value)
    # Without a point, YAML 1.1 takes it for a text.
    return text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text


def _quoted(text: str) -> str:
    """Return a text in double quotes; what is no printable character has an escape of YAML's."""
    return "".join(
        character if character.isprintable() or character == "\\" else _escape(character)
        for character in json.dumps(text, ensure_ascii=False)
    )


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"
