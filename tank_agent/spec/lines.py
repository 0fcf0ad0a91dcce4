"""Find the line of every key in a valid TOML text, to show problems with their lines."""

from __future__ import annotations

import contextlib
import re
import tomllib

from tank_agent.spec.findings import KeyPath

# What may stand between two tokens where line breaks don't matter.
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}", re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\n]*")


def find_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, from 1, where each key, table and list element of a valid TOML text is first named.

    A text that is not valid TOML gives the lines before the place where the scanner fails.
    """
    scanner = _Scanner(text)
    # A problem with a wrong line is better than none.
    with contextlib.suppress(IndexError, RecursionError):
        scanner.scan()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.lines: dict[KeyPath, int] = {(): 1}
        self._line = 1
        self._counted = 0
        self._last_element: dict[KeyPath, int] = {}

    def scan(self) -> None:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text[self.position] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self.text, self.position)
        if found:
            self.position = found.end()
        return self.position

    def _record(self, path: KeyPath) -> None:
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        self.lines.setdefault(path, self._line)

    def _header(self) -> KeyPath:
        is_element = self.text.startswith("[[", self.position)
        self.position += 2 if is_element else 1
        keys = self._key()
        path: KeyPath = ()
        for depth, key in enumerate(keys, 1):
            path += (key,)
            self._record(path)
            if depth < len(keys) and path in self._last_element:
                path += (self._last_element[path],)
        if is_element:
            index = self._last_element.get(path, -1) + 1
            self._last_element[path] = index
            path += (index,)
            self._record(path)
        self._skip(_SPACE)
        self.position += 2 if is_element else 1
        return path

    def _key(self) -> list[str]:
        keys = [self._key_part()]
        while self.text[self._skip(_SPACE)] == ".":
            self.position += 1
            keys.append(self._key_part())
        return keys

    def _key_part(self) -> str:
        start = self._skip(_SPACE)
        for pattern in (_BARE, _BASIC, _LITERAL):
            if self._skip(pattern) > start:
                break
        else:
            raise IndexError("no key here")
        part = self.text[start : self.position]
        if part[0] == '"' and "\\" in part:
            return str(tomllib.loads(f"key = {part}")["key"])
        return part[1:-1] if part[0] in "\"'" else part

    def _pair(self, table: KeyPath) -> None:
        path = table
        for key in self._key():
            path += (key,)
            self._record(path)
        if self.text[self.position] != "=":
            raise IndexError("no value here")
        self.position += 1
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        start = self.position
        first = self.text[start]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif first in "\"'":
            for pattern in (_LONG_BASIC, _LONG_LITERAL, _BASIC, _LITERAL):
                if self._skip(pattern) > start:
                    return
            raise IndexError("no end of the text")
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self.position += 1
        index = 0
        while self.text[self._skip(_BLANK)] != "]":
            if self.text[self.position] in ",}":
                raise IndexError("no value here")
            self._record((*path, index))
            self._value((*path, index))
            index += 1
            if self.text[self._skip(_BLANK)] == ",":
                self.position += 1
        self.position += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.position += 1
        while self.text[self._skip(_BLANK)] != "}":
            self._pair(path)
            if self.text[self._skip(_BLANK)] == ",":
                self.position += 1
        self.position += 1
