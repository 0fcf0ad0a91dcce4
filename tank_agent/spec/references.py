"""References to variables in a text, by compose's rules: $A, ${A}, ${A:-x}, ${A-x}, ${A:?x}, ${A:+x}, $$."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tank_agent.spec.findings import show

_REFERENCE = re.compile(r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|(\{))")
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:?)([-+?])(.*))?", re.DOTALL)
_NESTED_MAX = 20
_RIGHT = "write ${NAME} or ${NAME:-default}, and $$ for a $ of the text"


class TooLong(ValueError):
    """References make too much of a text."""


def substitute(
    text: str, known: Mapping[str, str], unset: Callable[[str], None], most: int, depth: int = 0
) -> str:
    """Return a text with what its references stand for; one without a value is blank once `unset` is told.

    Raises:
        TooLong: they make more than `most` characters.
        ValueError: a reference is damaged, or needs a value that is not there.
    """
    if depth > _NESTED_MAX:
        raise ValueError("references are nested too deep; write the value out")
    parts: list[str] = []
    at = size = 0
    while (found := _REFERENCE.search(text, at)) is not None:
        parts.append(text[at : found.start()])
        at = found.end()
        if found[1]:
            parts.append("$")
        elif found[2]:
            parts.append(_of(found[2], known, unset))
        else:
            end = _closing(text, at)
            parts.append(_braced(text[at:end], known, unset, most, depth))
            at = end + 1
        size += len(parts[-1])
        if size > most:
            raise TooLong(f"references make more than {most} characters of it")
    return "".join([*parts, text[at:]])


def _braced(text: str, known: Mapping[str, str], unset: Callable[[str], None], most: int, depth: int) -> str:
    found = _BRACED.fullmatch(text)
    if found is None:
        raise ValueError(f"{show('${' + text + '}')} is no reference; {_RIGHT}")
    name, colon, kind, word = found.groups()
    if kind is None:
        return _of(name, known, unset)
    value = known.get(name)
    given = value is not None and not (colon and value == "")
    is_used = given == (kind == "+")
    # Compose refuses a damaged word where it isn't used, too.
    other = substitute(word, known, unset if is_used else _ignore, most, depth + 1)
    if not is_used:
        return "" if kind == "+" else value or ""
    if kind == "?":
        said = f": {show(other)}" if other else ""
        raise ValueError(f"{name} is needed here and has no value{said}")
    return other


def _ignore(name: str) -> None:
    """Take a reference without a value, since its text is not used."""


def _of(name: str, known: Mapping[str, str], unset: Callable[[str], None]) -> str:
    value = known.get(name)
    if value is None:
        unset(name)
    return value or ""


def _closing(text: str, at: int) -> int:
    """Return where the brace before `at` is closed: braces within come in pairs, all in one line.

    If they don't, it is the last of the line. As in compose, what follows an opening brace isn't looked at.
    """
    end = text.find("\n", at)
    last = text.rfind("}", at, end if end >= 0 else len(text))
    depth, place = 1, at
    while place <= last:
        if text[place] == "}":
            depth -= 1
            if depth == 0:
                return place
        elif text[place] == "{":
            depth += 1
            place += 1
        place += 1
    if last < 0:
        raise ValueError(f"a ${{ is not closed; {_RIGHT}")
    return last
