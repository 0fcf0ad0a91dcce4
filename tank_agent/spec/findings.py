"""Findings: a message for a key that is wrong, before the line of the key is known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from tank_agent.errors import Problem

KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 60


class Finding(Struct, frozen=True):
    """One thing that is wrong at one key, as a path of keys and list positions from the pod's table."""

    path: KeyPath
    message: str


class Noting:
    """Adds the ValueError of a check to `findings`, and goes on; a generator takes four times as long."""

    def __init__(self, path: KeyPath, findings: list[Finding]) -> None:
        self._path, self._findings = path, findings

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, ValueError):
            self._findings.append(Finding(self._path, str(error)))
        return isinstance(error, ValueError)


def key_text(path: KeyPath) -> str:
    """Return a key path as a user reads it: `containers[0].limits.memory`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (_cut(part) if _BARE_KEY.fullmatch(part) else show(part))
    return text


def show(value: object) -> str:
    """Return a value in quotes for a message: printable on any terminal, and cut when it is long."""
    if not isinstance(value, str):
        return _cut(repr(value))
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_cut(printable(escaped[: _SHOWN * 2]))}"'


def exact(text: str) -> str:
    """Return a text in quotes for a message, whole, to be typed as it is; the caller bounds its length."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{printable(escaped)}"'


def printable(text: str) -> str:
    """Return a text with an escape for each character that a terminal might not show as one."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…"


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` was probably meant to be, or None."""
    lower = word.lower().replace("-", "_")
    candidates = {name.lower().replace("-", "_"): name for name in known}
    # A word of three letters with two swapped is less similar.
    cutoff = 0.6 if len(lower) <= 4 else 0.7
    found = difflib.get_close_matches(lower[:_SHOWN], list(candidates), n=1, cutoff=cutoff)
    return candidates[found[0]] if found else None


def line_of(path: KeyPath, lines: Mapping[KeyPath, int]) -> int:
    """Return the line of a key, or of the nearest table around it that has one; 0 when nothing is known."""
    return next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), 0)


def to_problems(
    findings: Iterable[Finding],
    *,
    file: str,
    lines: Mapping[KeyPath, int],
    prefix: KeyPath = (),
    pod: str | None = None,
) -> list[Problem]:
    """Turn findings into problems: put `prefix` before each path, and look up its line."""
    found = [(prefix + finding.path, finding.message) for finding in findings]
    return [Problem(file, line_of(path, lines), key_text(path), message, pod) for path, message in found]
