"""Read the text of a unit: sections, keys with their lines, continued lines, quoted words.

Syntax: systemd.syntax(7). Where podman's generator (5.4, pkg/systemd/parser) reads it in its own way, as with
comments and empty assignments, this reads what podman does.
"""

from __future__ import annotations

import re

from msgspec import Struct, field

from tank_agent.convert.model import SourcePlace

_SPACE = " \t\n\r"
_HEAD = re.compile(r"\[([^][]+)\]\s*")
_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " ",
    "\\": "\\", '"': '"', "'": "'",
}  # fmt: skip
# The digits of an escape by its first letter, and their base.
_NUMBERS = {"x": (2, 16), "u": (4, 16), "U": (8, 16)}


class Entry(Struct, frozen=True, kw_only=True):
    """One assignment of a unit: what was written, with its lines joined."""

    section: str
    key: str
    text: str
    place: SourcePlace

    @property
    def path(self) -> str:
        """Return the name of the key in messages, such as `Container.Image`."""
        return f"{self.section}.{self.key}"


class Unit(Struct, frozen=True, kw_only=True):
    """A unit with its drop-ins: `name` is that of its file, without the type, such as "web" of web.container.

    `file` is its path as it was given, `directory` the absolute directory that relative paths start from.
    `instance` is what stands between @ and the dot. `unread` are lines that are no unit's syntax.
    """

    name: str
    kind: str
    file: str
    directory: str
    entries: tuple[Entry, ...] = ()
    instance: str = ""
    unread: tuple[tuple[SourcePlace, str], ...] = field(default_factory=tuple)

    @property
    def place(self) -> SourcePlace:
        """Return the unit as a place of its own."""
        return SourcePlace(self.file)

    def all(self, section: str, key: str) -> list[Entry]:
        """Return the assignments of a key that count: an empty one takes back all before it."""
        found: list[Entry] = []
        for entry in self.entries:
            if (entry.section, entry.key) == (section, key):
                found = [*found, entry] if entry.text else []
        return found

    def last(self, section: str, key: str) -> Entry | None:
        """Return the last assignment of a key, which is the only one that counts for some."""
        found = self.all(section, key)
        return found[-1] if found else None

    def text(self, section: str, key: str) -> str:
        """Return the last value without quotes around it; "" where there is none."""
        found = self.last(section, key)
        return unquoted(found.text) if found else ""


def parse_unit(text: str, file: str) -> tuple[list[Entry], list[tuple[SourcePlace, str]]]:
    """Return the assignments of a text in its order, and the lines that are none, with what is wrong."""
    entries: list[Entry] = []
    wrong: list[tuple[SourcePlace, str]] = []
    section = ""
    for number, line in _whole_lines(text.removeprefix("\ufeff")):
        place = SourcePlace(file, number)
        head = _HEAD.fullmatch(line)
        key, equals, value = line.partition("=")
        if head:
            section = head[1]
        elif not equals or not key.strip() or any(character in key.strip() for character in _SPACE):
            wrong.append((place, "is neither a section nor KEY=VALUE"))
        elif not section:
            wrong.append((place, "stands before the first [Section]"))
        else:
            entries.append(Entry(section=section, key=key.strip(), text=value.strip(_SPACE), place=place))
    return entries, wrong


def _whole_lines(text: str) -> list[tuple[int, str]]:
    """Return lines that say something, each with its number; continued lines are one, comments are none."""
    found: list[tuple[int, str]] = []
    parts: list[str] = []
    start = 0
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.rstrip("\r")
        if bare.lstrip().startswith(("#", ";")) or (not parts and not bare.strip()):
            continue
        start = start if parts else number
        goes_on = bare.endswith("\\")
        parts.append(bare[:-1] if goes_on else bare)
        if not goes_on:
            found.append((start, " ".join(parts).strip(_SPACE)))
            parts = []
    if parts:
        found.append((start, " ".join(parts).strip(_SPACE)))
    return found


def unquoted(text: str) -> str:
    """Return a value without one pair of quotes around it."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def words_of(text: str) -> list[str]:
    """Split a value into words as systemd does: quotes anywhere, C's escapes.

    Raises:
        ValueError: a quote is not closed.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    at = 0
    while at < len(text):
        character = text[at]
        if character == "\\" and at + 1 < len(text):
            escaped, at = _escaped(text, at + 1)
            word = (word or "") + escaped
            continue
        if quote:
            word, quote = ((word or ""), "") if character == quote else ((word or "") + character, quote)
        elif character in "\"'":
            quote, word = character, word or ""
        elif character in _SPACE:
            words += [word] if word is not None else []
            word = None
        else:
            word = (word or "") + character
        at += 1
    if quote:
        raise ValueError(f"the quote {quote} is not closed")
    return words + ([word] if word is not None else [])


def _escaped(text: str, at: int) -> tuple[str, int]:
    """Return what a backslash before `at` means, and where the text goes on; an unknown one stays."""
    letter = text[at]
    if letter in _ESCAPES:
        return _ESCAPES[letter], at + 1
    length, base = _NUMBERS.get(letter, (3, 8))
    start = at + 1 if letter in _NUMBERS else at
    digits = text[start : start + length]
    try:
        return (chr(int(digits, base)), start + length) if len(digits) == length else (f"\\{letter}", at + 1)
    except (ValueError, OverflowError):
        return f"\\{letter}", at + 1
