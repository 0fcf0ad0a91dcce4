"""Reading the text of a unit."""

from __future__ import annotations

import pytest

from tank_agent.convert.model import SourcePlace
from tank_agent.convert.quadlet.unit import Entry, Unit, parse_unit, unquoted, words_of


def unit(text: str) -> Unit:
    entries, wrong = parse_unit(text, "web.container")
    assert not wrong
    return Unit(name="web", kind="container", file="web.container", directory="/", entries=tuple(entries))


def test_a_key_has_its_section_and_its_line() -> None:
    found = unit("# a comment\n\n[Container]\nImage = app \n")
    place = SourcePlace("web.container", 4)
    assert found.entries == (Entry(section="Container", key="Image", text="app", place=place),)
    assert found.entries[0].path == "Container.Image"


def test_lines_are_continued_past_comments() -> None:
    found = unit("[Container]\nExec=a \\\n# no part of it\n  b \\\n; nor this\n  c\nImage=x\n")
    assert [entry.text.split() for entry in found.entries] == [["a", "b", "c"], ["x"]]
    assert [entry.place.line for entry in found.entries] == [2, 7]


def test_an_empty_assignment_takes_back_those_before_it() -> None:
    found = unit("[Container]\nVolume=/a:/a\nVolume=\nVolume=/b:/b\nVolume=/c:/c\n")
    assert [entry.text for entry in found.all("Container", "Volume")] == ["/b:/b", "/c:/c"]
    last = found.last("Container", "Volume")
    assert last is not None and last.text == "/c:/c"
    assert unit("[Container]\nUser=a\nUser=\n").last("Container", "User") is None


@pytest.mark.parametrize("line", ["no equals", "two words=x", "=x"])
def test_what_is_no_assignment_has_its_line(line: str) -> None:
    _, wrong = parse_unit(f"[Container]\n{line}\n", "x")
    assert [place.line for place, _ in wrong] == [2]


def test_a_key_before_the_first_section_is_said() -> None:
    assert parse_unit("Image=x\n", "x")[1] == [(SourcePlace("x", 1), "stands before the first [Section]")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("\"a b\" 'c d'", ["a b", "c d"]),
        ("a\"b c\"d ''", ["ab cd", ""]),
        (r"a\x20b \u00e4 \101 \t", ["a b", "ä", "A", "\t"]),
        (r'"a\"b" \s \q', ['a"b', " ", r"\q"]),
        (r"\x2", [r"\x2"]),
        ("", []),
    ],
)
def test_words_are_split_as_by_systemd(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_a_quote_that_is_not_closed_is_said() -> None:
    with pytest.raises(ValueError, match="not closed"):
        words_of("a 'b")


@pytest.mark.parametrize(("text", "bare"), [('"a b"', "a b"), ("'a'", "a"), ('"a', '"a'), ('"', '"')])
def test_one_pair_of_quotes_goes(text: str, bare: str) -> None:
    assert unquoted(text) == bare
