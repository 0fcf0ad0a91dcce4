"""The line map knows every key of a TOML text, however it is written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from tank_agent.spec.findings import KeyPath, key_text, line_of
from tank_agent.spec.lines import find_lines

TRICKY = '''\
# [not] = "a table"
title = "a # b" # c
a.b."c.d" = 1
'x"y' = [ 1, [ 2,
  "]", # ]
  { z = "}", y = [
     3 ] } ], ]
long = """
[fake]
fake = "\\""" # still text
"""
raw = \'\'\'
[[fake]]
\'\'\' # end
quotes = """"two"" quotes"""""
"\\u0061a" = { b = { c = 1 }, d.e = 2 }
[t] # header
k = 1
[ t . "u v" ]
k = 2979-05-27T07:32:00Z
[[list]]
n = 1
[list.sub]
n = 2
[[list.inner]]
n = 3
[[list.inner]]
n = 4
[[list]]
[[list.inner]]
n = 5
[deep.er.still]
'''
EXPECTED: dict[KeyPath, int] = {
    (): 1,
    ("title",): 2,
    ("a",): 3,
    ("a", "b"): 3,
    ("a", "b", "c.d"): 3,
    ('x"y',): 4,
    ('x"y', 0): 4,
    ('x"y', 1): 4,
    ('x"y', 1, 0): 4,
    ('x"y', 1, 1): 5,
    ('x"y', 1, 2): 6,
    ('x"y', 1, 2, "z"): 6,
    ('x"y', 1, 2, "y"): 6,
    ('x"y', 1, 2, "y", 0): 7,
    ("long",): 8,
    ("raw",): 12,
    ("quotes",): 15,
    ("aa",): 16,
    ("aa", "b"): 16,
    ("aa", "b", "c"): 16,
    ("aa", "d"): 16,
    ("aa", "d", "e"): 16,
    ("t",): 17,
    ("t", "k"): 18,
    ("t", "u v"): 19,
    ("t", "u v", "k"): 20,
    ("list",): 21,
    ("list", 0): 21,
    ("list", 0, "n"): 22,
    ("list", 0, "sub"): 23,
    ("list", 0, "sub", "n"): 24,
    ("list", 0, "inner"): 25,
    ("list", 0, "inner", 0): 25,
    ("list", 0, "inner", 0, "n"): 26,
    ("list", 0, "inner", 1): 27,
    ("list", 0, "inner", 1, "n"): 28,
    ("list", 1): 29,
    ("list", 1, "inner"): 30,
    ("list", 1, "inner", 0): 30,
    ("list", 1, "inner", 0, "n"): 31,
    ("deep",): 32,
    ("deep", "er"): 32,
    ("deep", "er", "still"): 32,
}


def paths_in(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    """Return the path of every key and list element of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path}.union(*(paths_in(item, (*path, key)) for key, item in items))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_way_to_write_a_key(newline: str) -> None:
    text = TRICKY.replace("\n", newline)
    assert paths_in(tomllib.loads(text)) == EXPECTED.keys()
    assert find_lines(text) == EXPECTED


VALUES = st.recursive(
    st.one_of(st.integers(0, 9), st.booleans(), st.text("a\"'\\\n#[]{}=, ", max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("ab.\"' ", max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=2), VALUES, max_size=4))
def test_no_key_of_any_document_is_missed(document: dict[str, Any]) -> None:
    text = tomlkit.dumps(document)
    lines = find_lines(text)
    assert paths_in(tomllib.loads(text)) == lines.keys()
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@pytest.mark.parametrize(
    "text", ["a", "a =", "a = [", "a = {b", "[", "[[a", "=", "a = [,,]", "a = [}", 'a = "x', "]"]
)
def test_text_that_is_not_toml_ends_the_search(text: str) -> None:
    assert find_lines("first = 1\n" + text)[("first",)] == 1


def test_the_nearest_table_stands_in_for_a_missing_key() -> None:
    lines = find_lines("[[containers]]\nname = 'a'\n[containers.limits]\n")
    assert line_of(("containers", 0, "limits", "memory"), lines) == 3
    assert line_of(("containers", 0, "image"), lines) == 1
    assert line_of(("volumes", 3), lines) == 1
    assert line_of(("volumes",), {}) == 0


def test_keys_are_shown_as_a_user_writes_them() -> None:
    assert key_text(("containers", 0, "limits", "memory")) == "containers[0].limits.memory"
    assert key_text(("env", "a b", 'c"\n')) == 'env."a b"."c\\"\\n"'
    assert key_text(("pods", 10)) == "pods[10]"
    assert len(key_text(("x" * 5000,))) == 60
    assert key_text(()) == ""
