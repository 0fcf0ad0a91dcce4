"""YAML with the place of each value, and what is refused; an integration test asks compose, too."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.convert.compose.tree import read_documents
from tank_agent.convert.model import InvalidSource, Plain, Value
from tank_agent.errors import TankError

pytest.importorskip("yaml")


def plain(value: Value) -> object:
    if isinstance(value.plain, dict):
        return {key: plain(item) for key, item in value.plain.items()}
    return [plain(item) for item in value.plain] if isinstance(value.plain, tuple) else value.plain


def read(text: str) -> Value:
    (document,) = read_documents(text.encode(), "f")
    return document.value


def refused(content: bytes) -> str:
    with pytest.raises(InvalidSource) as found:
        read_documents(content, "f")
    assert found.value.exit_code == 2
    return str(found.value)


def test_a_value_stands_at_its_key_and_an_item_at_its_own_line() -> None:
    top = read("a:\n  b:\n    - x\n    -\n      y\n  c: >\n    text\n").plain
    assert isinstance(top, dict)
    a = top["a"]
    assert isinstance(a.plain, dict)
    assert (a.place.line, a.plain["b"].place.line, a.plain["c"].place.line) == (1, 2, 6)
    items = a.plain["b"].plain
    assert isinstance(items, tuple)
    assert [(item.plain, item.place.line) for item in items] == [("x", 3), ("y", 5)]
    assert str(a.place) == "f:1"


def test_what_is_merged_in_stands_where_it_is_written_and_the_own_key_wins() -> None:
    top = read("a: &a\n  x: 1\n  y: 1\nb:\n  <<: *a\n  y: 2\n").plain
    assert isinstance(top, dict)
    b = top["b"].plain
    assert isinstance(b, dict)
    assert {key: (item.plain, item.place.line) for key, item in b.items()} == {"x": (1, 2), "y": (2, 6)}


def test_what_is_reset_is_not_there_and_its_path_is_told() -> None:
    (document,) = read_documents(b"a: {b: !reset 1, c: !override [2]}\nd: !reset\n", "f")
    assert plain(document.value) == {"a": {"c": [2]}}
    assert document.replaced == (("a", "b"), ("a", "c"), ("d",))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("yes", "yes"),
        ("22:22", "22:22"),
        ("0644", 420),
        ("0o644", 420),
        ("08", 8.0),
        ("1_0", 10),
        ("true", True),
        ("~", None),
        ("", None),
        ("2024-02-30", "2024-02-30"),
        ("2024-02-03", "2024-02-03 00:00:00 +0000 UTC"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("'1'", "1"),
        ("9" * 200, "9" * 200),
        ("1e999", "1e999"),
    ],
)
def test_words(word: str, value: Plain) -> None:
    top = read(f"a: {word}\n").plain
    assert isinstance(top, dict)
    found = top["a"].plain
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 1\na: 2\n", 'f:3: "a" is there twice; leave one of them away'),
        ("a:\n  1: x\n", 'f:2: "1" is no name of a key; write "1": in quotes'),
        (
            "a: !!python/object:os.system x\n",
            'f:1: the tag "tag:yaml.org,2002:python/object:os.system" means nothing',
        ),
        ("a: !vault x\n", 'f:1: the tag "!vault" means nothing in a compose file; leave it away'),
        ("a: !!int x\n", 'f:1: "x" is no !!int; leave the tag away'),
        ("!reset a: 1\n", "f:1: !reset stands before a value"),
        ("a:\n\tb: 1\n", "f:2: is no YAML: "),
        ("a:\n\tb: 1\n", "\n  indent with spaces: YAML takes no tabs there"),
        ("a: b: c\n", "put a text that has a colon in quotes"),
        ("a: 1\n  b: 2\n", "f:2: is no YAML: "),
        ("a: [1\n", "\n  close what a bracket opens above"),
        ('a: "1\n', "\n  close what a quote or bracket opens above"),
        ("a: @x\n", "put a text that begins with such a character in quotes"),
        ("a: *b\n", "f:1: *b has no &b that ends before it"),
        ("a: &a {b: *a}\n", "f:1: *a has no &a that ends before it"),
        ("{{a: b}: c}\n", "f:1: a list or mapping is no name of a key"),
        ("<<: [1]\n", "f:1: <<: takes a mapping, or a list of mappings; write <<: *NAME"),
        ("[" * 100, "f:1: is nested deeper than 60; no compose file needs that"),
        ("a: \x07\n", "f:1: is not text that YAML allows (control characters are not allowed)"),
    ],
)
def test_what_is_refused_has_its_line_and_what_would_be_right(text: str, message: str) -> None:
    assert message in refused(text.encode())


def test_what_is_no_utf_8_has_its_line() -> None:
    assert refused(b"a: 1\nb: \xff\n").startswith("f:2: is not text that YAML allows")


@pytest.mark.parametrize("item", ["[{0}, {0}]", "{{a: {0}, b: {0}}}"])
def test_aliases_of_aliases_are_counted_as_often_as_they_repeat(item: str) -> None:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} " + item.format(f"*a{n - 1}") for n in range(1, 40)]
    assert "has more than 200000 values, with all that aliases repeat" in refused("\n".join(lines).encode())


def test_depth_is_counted_through_aliases() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 80))]
    assert "is nested deeper than 60" in refused("\n".join(lines).encode())


@given(st.binary() | st.text("ab:-[]{}&*<!'\"|>#,?%\n \t0").map(str.encode))
def test_any_bytes_have_an_answer(content: bytes) -> None:
    try:
        documents = read_documents(content, "f")
    except InvalidSource as error:
        assert str(error).startswith("f")
    else:
        assert all(document.value.place.file == "f" for document in documents)


def test_without_the_library_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(TankError) as found:
        read_documents(b"a: 1", "f")
    assert str(found.value) == (
        "reading compose files needs python3-yaml, which is not installed\n"
        "  run `apt install python3-yaml`, or `pip install PyYAML`"
    )
