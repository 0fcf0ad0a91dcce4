"""Read any text as TOML: its table, or the one problem that stops the reading."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from tank_agent.errors import Problem
from tank_agent.spec.findings import printable, show
from tank_agent.spec.other_tools.values import RESTART_POLICIES

TEXT_MAX = 1024**2
TOO_DEEP = "lists or tables are nested too deep; a few levels are enough for any pod"
# tomllib takes quadratic time over the parts of one key; no key of a pod has more than a handful.
_KEY_PARTS_MAX = 500
_PART = r"(?:[A-Za-z0-9_-]++|\"[^\"\n]*+\"|'[^'\n]*+')"
_LONG_KEY = re.compile(
    rf"(?:^|[\[{{,])[ \t]*+{_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_KEY_PARTS_MAX}}}", re.MULTILINE
)
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")

# The beginnings of tomllib's messages, and the sentences that users get for them.
_SENTENCES = (
    ("Expected '=' after a key", 'expected "=" after the key; the form is key = value'),
    ("Expected ']' at the end of a table", 'expected "]" at the end of the table\'s header'),
    ("Expected ']]' at the end of an array", 'expected "]]" at the end of the table\'s header'),
    ("Expected newline or end", "there is something after the end of the value; start a new line"),
    ("Unclosed array", 'a list is not closed; its elements need "," between them and "]" at the end'),
    (
        "Unclosed inline table",
        'an inline table is not closed; it needs "," between its keys and "}" on the same line',
    ),
    ("Expected \"'''", "a text in three quotes is not closed; end it with three quotes"),
    ("Unterminated string", "a text is not closed; end it with the quotes that it starts with"),
    ("Illegal character '\\n'", "a text is not closed on its line; for several lines use three quotes"),
    ("Unescaped '\\' in a string", "a backslash in a text must be doubled, or the text put in single quotes"),
    ("Invalid hex value", "a \\u in a text needs hexadecimal digits, or put the text in single quotes"),
    ("Escaped character is not a Unicode", "a \\u in a text must name a character; this one does not"),
    ("Cannot overwrite a value", "a key is given twice; keep one of them"),
    ("Duplicate inline table key", "a key is given twice in an inline table; keep one of them"),
    ("Cannot mutate immutable", "a table in braces can't be extended; write all its keys in one place"),
    ("Cannot redefine namespace", "a table is defined twice in different ways; write it in one place"),
    ("Invalid initial character for a key", "a key must be letters, digits, _ and -, or be in quotes"),
    ("Invalid value", "this is not a value; text needs quotes, a list [ ] and a table { }"),
    ("Invalid date or datetime", "this is not a date or time; put text in quotes"),
    ("Invalid statement", "this is neither a key = value nor a [table]"),
)
_WORDS = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
_ASSIGNMENT = re.compile(r"\s*([^=#]+?)\s*=\s*([^#]*?)\s*(?:#.*)?")
_WRONG_VALUE = ("Invalid value", "Expected newline or end of document", "Invalid date")
_LARGE_FILE_POINTER = "version https://git-lfs.github.com/spec/"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BARE_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_COLON = re.compile(r"\s*-?\s*\"?([A-Za-z0-9_-]+)\"?\s*:(?:\s*(\S.*?))?,?\s*")
# What is a value in TOML as it is in YAML.
_TOML_TOO = re.compile(r"[0-9]+(\.[0-9]+)?|true|false|[\[{\"'].*")
# First keys of other tools' files, each with what to do with the file.
_OTHER_FILES = {
    "apiVersion": "this is a manifest of Kubernetes; write its containers as [[containers]] of a pod file",
    "kind": "this is a manifest of Kubernetes; write its containers as [[containers]] of a pod file",
    "services": "this is a compose file; `tank import compose FILE` makes pod files of it",
    "version": "this is a compose file; `tank import compose FILE` makes pod files of it",
}
_QUOTED = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*=\s*'([^'\"\\]*'[^\"\\]*)'\s*")
_COMMENT = re.compile(r"\s*(//|/\*|--|;)\s*(.*?)(\*/)?\s*")


def read_toml(text: str, file: str) -> tuple[dict[str, Any] | None, Problem | None]:
    """Return the table of a TOML text, or the problem with it; no text raises an exception."""
    wrong = _unreadable(text)
    if wrong is None:
        try:
            return tomllib.loads(without_mark(text)), None
        except tomllib.TOMLDecodeError as error:
            wrong = _syntax_error(without_mark(text), str(error))
        except RecursionError:
            wrong = 0, TOO_DEEP
        except ValueError:
            # tomllib fails so only at a number with thousands of digits (CVE-2020-10735).
            long = re.search("[0-9_]{4000,}", text)
            wrong = _line_at(text, long.start()) if long else 0, "a number has too many digits"
    line, message = wrong
    # It may repeat a part of the line, whatever that has in it.
    return None, Problem(file, line, "", printable(message))


def without_mark(text: str) -> str:
    """Return the text without the byte order mark that some editors put first."""
    return text.removeprefix("\ufeff")


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _unreadable(text: str) -> tuple[int, str] | None:
    """Return the line and the words of what keeps a text from the parser, or None."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return _line_at(text, error.start), "the text is not UTF-8; save the file as UTF-8"
    # Half of the bytes of UTF-16 are zero where the text is English, and three of four of UTF-32.
    if text.count("\0") * 3 > len(text):
        return 0, "the text is UTF-16 or UTF-32; save the file as UTF-8"
    if text.startswith(_LARGE_FILE_POINTER):
        return 0, "this is a Git LFS pointer, and LFS is not fetched; take the file out of .gitattributes"
    if size > TEXT_MAX:
        return 0, f"the file has {size} bytes; at most {TEXT_MAX} are read"
    long_key = _LONG_KEY.search(text) if text.count(".") >= _KEY_PARTS_MAX else None
    if long_key:
        return _line_at(text, long_key.start() + 1), f"a key has over {_KEY_PARTS_MAX} parts"
    return None


def _syntax_error(text: str, message: str) -> tuple[int, str]:
    """Return the line of a syntax error, and a sentence for tomllib's message."""
    place = _POSITION.search(message)
    reason = message[: place.start()] if place else message
    line = int(place[1]) if place and place[1] else _line_at(text, len(text.rstrip()))
    lines = text.split("\n")
    content = lines[line - 1].rstrip("\r") if line <= len(lines) else ""
    usual = next((sentence for start, sentence in _SENTENCES if reason.startswith(start)), None)
    return line, _special_sentence(reason, content) or usual or f"this is not TOML: {reason[:100]}"


def _special_sentence(reason: str, content: str) -> str | None:
    """Return the sentence for the mistakes where the line itself shows what was meant."""
    if _CONTROL.search(content) or reason.startswith("Found invalid character"):
        return "there is a control character in the text; write it as an escape such as \\t or \\u0000"
    twice = re.match(r"Cannot declare \((.*?),?\) twice", reason)
    if twice:
        name = ".".join(part.strip().strip("'\"") for part in twice[1].split(","))[:60]
        return (
            f"[{name}] is defined twice; put its keys in one table, or write [[{name}]] for a list of tables"
        )
    other = _other_language(reason, content)
    if other:
        return other
    assignment = _ASSIGNMENT.fullmatch(content)
    if assignment and reason.startswith("Cannot overwrite a value"):
        return f"{assignment[1][:60]} is given twice in this table; keep one of them"
    is_bare = assignment is not None and not assignment[2].startswith(("'", '"', "[", "{"))
    if assignment and (reason.startswith(_WRONG_VALUE[:1]) or (is_bare and reason.startswith(_WRONG_VALUE))):
        return _value_sentence(assignment[1][:60], assignment[2])
    return None


def _other_language(reason: str, content: str) -> str | None:
    """Return the sentence for a line of YAML, JSON or another language."""
    if reason.startswith("Expected newline or end"):
        quoted = _QUOTED.fullmatch(content)
        if quoted:
            return f"a text with ' in it goes into double quotes; write {quoted[1][:60]} = {show(quoted[2])}"
        is_end = re.search(r"[\"'\]}] *[,;] *$", content)
        return f"nothing follows a value; write {content.strip()[:-1].strip()[:60]}" if is_end else None
    if not reason.startswith(("Expected '='", "Invalid statement")):
        return None
    colon, comment = _COLON.fullmatch(content), _COMMENT.fullmatch(content)
    if colon:
        return _OTHER_FILES.get(colon[1]) or _colon_sentence(colon[1][:60], (colon[2] or "")[:60])
    return f'a comment begins with "#"; write # {comment[2][:60]}'.rstrip() if comment else None


def _colon_sentence(key: str, value: str) -> str:
    right = value if _TOML_TOO.fullmatch(value) else show(value)
    # What begins so in YAML goes on elsewhere.
    right = "…" if not value or value[0] in "|>&*!" else right
    return f'TOML has "=" where YAML has ":"; write {key} = {right}'


def _value_sentence(key: str, value: str) -> str:
    if not value:
        return f'{key} has no value; write {key} = "…", or remove the line'
    policy = RESTART_POLICIES.get(value.lower()) if key.rpartition(".")[2] == "restart" else None
    if policy:
        return f'{value} is not a value; write {key} = "{policy}"'
    word = _WORDS.get(value.lower())
    if word and word != value:
        return f"{value} is not a value; write {key} = {word}"
    if re.search("[\"'\\[{]", value) or not _BARE_KEY.fullmatch(key):
        return "this is not a value; text needs quotes, a list [ ] and a table { }"
    return f"text needs quotes; write {key} = {show(value.rstrip(';,'))}"
