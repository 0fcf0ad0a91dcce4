"""Make foreign text harmless: it must not steer a terminal, nor look like other text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

# Cc are control characters, Cf hold the bidirectional overrides, Cs and Co can't be shown at all.
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))
# They only join the letters of Persian and the parts of emoji.
_JOINERS = "\u200c\u200d"
_COLORS = re.compile(r"(\x1b\[[0-9;:]*m)")


def escape(text: str, keep: str = "") -> str:
    """Make control and formatting characters visible, except those in `keep`."""
    return _replaced(text, keep, _backslashed)


def escape_json(text: str) -> str:
    """Escape unsafe characters of a JSON text; its meaning stays."""
    return _replaced(text, "\n", _utf16_escape)


def escape_toml(text: str) -> str:
    """Escape unsafe characters inside a TOML basic string; its meaning stays."""

    def shown(char: str) -> str:
        return f"\\u{ord(char):04X}" if ord(char) < 0x10000 else f"\\U{ord(char):08X}"

    return _replaced(text, "", shown)


def escape_output(text: str) -> str:
    """Make a program's output harmless: control characters as terminals show keys, ^[; tabs and colours stay.

    Bytes that are no UTF-8 are expected as surrogates (the error handler "surrogateescape").
    """
    pieces = _COLORS.split(text)
    pieces[::2] = [_replaced(piece, "\t\n", _caret) for piece in pieces[::2]]
    return "".join(pieces)


def to_json(value: object) -> bytes:
    """Encode a value as JSON, with names of files that are no UTF-8 written as escapes."""
    import msgspec

    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_encodable(msgspec.to_builtins(value)))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list | tuple) else value


def _replaced(text: str, keep: str, shown: Callable[[str], str]) -> str:
    if text.isascii() and text.isprintable():
        return text
    harmless = keep + _JOINERS
    return "".join(
        shown(char) if unicodedata.category(char) in _UNSAFE and char not in harmless else char
        for char in text
    )


def _backslashed(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def _utf16_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


def _caret(char: str) -> str:
    code = ord(char)
    if code < 0x80:
        return f"^{chr(code ^ 0x40)}"
    # A byte that is no UTF-8: for some terminals, 0x9b begins an escape sequence.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else _backslashed(char)
