"""Read an env file as compose v2 does, which docs/configuration.md describes, with all differences.

Its values are taken from the file alone: no variable of whoever applies the pod, or of the agent, gets in.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Mapping

from tank_agent.spec.findings import show
from tank_agent.spec.references import TooLong, substitute
from tank_agent.spec.values import variable

_EXPORT = re.compile(r"export[ \t\f\r]+")
_NAME = re.compile(r"[^=:\n]*")
_ESCAPE = re.compile(r'\\([abfnrtv$"\\]|0[0-9]{0,3})')
_OCTAL = re.compile("0[0-3][0-7]{2}")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "$": "$$"}
# References could make gigabytes of a small file. No variable may be longer, and no program takes more.
_VALUE_MAX, _ALL_MAX = 131_072, 1 << 20


def parse_env_file(
    content: bytes, file: str, known: Mapping[str, str], unset: Callable[[str, int], None] | None = None
) -> dict[str, str]:
    """Return the variables of an env file; `known` are those of the container's earlier files.

    As in compose, a reference to a name that both have means the earlier file's. If `unset` is given, it is
    told the name and line of each reference that has no value, which is blank then, and a name alone has the
    value that is known of it, if any.

    Raises:
        ValueError: with the file, the line, and what is wrong there.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file}:{line}: is not UTF-8; save the file as that") from None
    reader = _Reader(text, known, unset)
    try:
        while reader.statement():
            pass
    except ValueError as error:
        line = text.count("\n", 0, reader.start) + 1
        raise ValueError(f"{file}:{line}: {error}") from None
    return reader.found


class _Reader:
    """Reads one statement after the other; `start` is where the present one begins."""

    def __init__(
        self, text: str, known: Mapping[str, str], unset: Callable[[str, int], None] | None = None
    ) -> None:
        self._unset = unset
        self._text = text
        self._earlier = known
        self._at = 0
        self.start = 0
        self._line, self._line_start = 1, 0
        self._left = _ALL_MAX - sum(map(len, known.values()))
        self.found: dict[str, str] = {}
        self._known = ChainMap(dict(known), self.found)

    def statement(self) -> bool:
        """Read the next one; False at the end of the file."""
        self._skip_between()
        self.start = self._at
        if self._at == len(self._text):
            return False
        name = self._name()
        if self._text[self._at - 1 : self._at] not in ("=", ":"):
            if name in self._earlier:
                self.found[name] = self._earlier[name]
            return True
        self._skip_spaces()
        quote = self._text[self._at : self._at + 1]
        value = self._quoted(quote) if quote in ("'", '"') and quote else self._plain()
        variable((name, value))
        self._left -= len(value)
        if self._left < 0:
            raise ValueError("all variables together are too much for any program; write less")
        self.found[name] = value
        return True

    def _skip_between(self) -> None:
        """Go on to what is neither space nor comment."""
        while self._at < len(self._text):
            if self._text[self._at].isspace():
                self._at += 1
            elif self._text[self._at] == "#":
                self._at = self._end_of_line()
            else:
                break

    def _skip_spaces(self) -> None:
        while self._text[self._at : self._at + 1].isspace() and self._text[self._at] != "\n":
            self._at += 1

    def _end_of_line(self) -> int:
        end = self._text.find("\n", self._at)
        return len(self._text) if end < 0 else end

    def _name(self) -> str:
        export = _EXPORT.match(self._text, self._at)
        if export is not None:
            self._at = export.end()
        found = _NAME.match(self._text, self._at)
        name = found[0].rstrip() if found else ""
        self._at += len(found[0]) if found else 0
        is_alone = self._text[self._at : self._at + 1] not in ("=", ":")
        if is_alone and self._unset is None:
            right = f"write {name}=" if name.isidentifier() else "write NAME=value"
            raise ValueError(f"{show(name)} has no value, and none is taken from elsewhere; {right}")
        wrong = next((char for char in name if not (char.isalnum() or char in "_.-[]")), None)
        if wrong is not None or not name:
            raise ValueError(f"{show(name)} is no name of a variable; write letters, digits and _")
        self._at += not is_alone
        return name

    def _plain(self) -> str:
        end = self._end_of_line()
        value = self._text[self._at : end].partition(" #")[0].rstrip()
        self._at = end
        return self._expanded(value)

    def _quoted(self, quote: str) -> str:
        parts, last = [], self._at + 1
        for at in range(last, len(self._text)):
            if at < last:
                continue
            char = self._text[at]
            if char == "\\":
                escaped = self._text[at + 1 : at + 2]
                # The quote loses its backslash; what else has one is looked at below.
                parts.append(escaped if escaped == quote else char + escaped)
                last = at + 2
            elif char == quote:
                self._at = at + 1
                self._nothing_more(quote)
                value = "".join(parts)
                return value if quote == "'" else self._expanded(_ESCAPE.sub(_unescaped, value))
            else:
                parts.append(char)
        raise ValueError(f"a value is not closed; end it with {quote}, the quote that it begins with")

    def _nothing_more(self, quote: str) -> None:
        rest = self._text[self._at : self._end_of_line()].strip()
        if rest and not rest.startswith("#"):
            raise ValueError(f"there is something after the value; put all of it between two {quote}")

    def _expanded(self, value: str) -> str:
        """Return a value with what its references stand for."""
        try:
            return substitute(value, self._known, self._no_value, _VALUE_MAX)
        except TooLong:
            raise ValueError(f"is longer than the {_VALUE_MAX - 1} bytes that the kernel takes") from None

    def _no_value(self, name: str) -> None:
        if self._unset is None:
            right = f"write it above, or ${{{name}:-}}; a $ of the text is written $$, or the value in '…'"
            raise ValueError(f"{name} has no value in this file; {right}")
        # Counted on from the statement before: a file may have very many of them.
        self._line += self._text.count("\n", self._line_start, self.start)
        self._line_start = self.start
        self._unset(name, self._line)


def _unescaped(found: re.Match[str]) -> str:
    char = found[1]
    if char.startswith("0"):
        if not _OCTAL.fullmatch(char):
            raise ValueError(
                f"\\{char} is no character; write \\0 and three octal digits, or \\\\ for a backslash"
            )
        return chr(int(char, 8))
    return _ESCAPED.get(char, char)
