"""The YAML that is written reads back as it was."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.convert.yaml_text import yaml_text

_TEXT = st.text(max_size=30)
_LEAF = _TEXT | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    _LEAF, lambda items: st.lists(items, max_size=4) | st.dictionaries(_TEXT, items, max_size=4)
)


@given(st.dictionaries(_TEXT, _VALUES, min_size=1, max_size=4))
def test_any_value_reads_back(value: dict[str, object]) -> None:
    assert yaml.safe_load(yaml_text(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "yes", "no", "null", "~", "1", "1.5", "0x1f", "1e3", "12:30:45", "2026-11-29", "=", "- a", "a: b",
        "a #b", "*a", "&a", "!a", "", " a", "a ", "a\nb\n", "a\n\nb", "\na", "a\n ", "key:", "[a", "{a", "%a",
        "@a", "`a", "<<", "on", "Off", ".inf", "a\tb", "ä", "\u2028", "\x85",
    ],
)  # fmt: skip
def test_texts_stay_texts(text: str) -> None:
    assert yaml.safe_load(yaml_text({"key": text, text or "x": [text, {"a": text}]}))["key"] == text


def test_lines_are_written_as_lines() -> None:
    assert yaml_text({"a": "one\n  two\n\nthree\n"}) == "a: |\n  one\n    two\n\n  three\n"
