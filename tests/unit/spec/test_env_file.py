"""Env files: what they say, and how mistakes in them are said; an integration test asks compose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.spec.beside import BesideError
from tank_agent.spec.env_file import parse_env_file
from tank_agent.spec.parse import parse_pod_file

CONTAINER = '[[containers]]\nname = "app"\nimage = "nginx"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1\nB='x y'\nC=\"a\\nb\"\n", {"A": "1", "B": "x y", "C": "a\nb"}),
        ("A=1\nB=${A}${C:-${A}2}\n", {"A": "1", "B": "112"}),
        ("KEY='-----BEGIN\nabc\n-----END'\nA=1\n", {"KEY": "-----BEGIN\nabc\n-----END", "A": "1"}),
        ("", {}),
        ("# nothing", {}),
    ],
)
def test_what_a_file_says(text: str, expected: dict[str, str]) -> None:
    assert parse_env_file(text.encode(), "f", {}) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\n\nB C=1\n", "app.env:3: "),
        ("A='x\ny\n", "app.env:1: a value is not closed; end it with '"),
        ('A=1\nB="${A"\n', "app.env:2: a ${ is not closed"),
        ("A=${X?}\n", "app.env:1: X is needed here and has no value"),
        ("A=" + "${B:-" * 30 + "}" * 30, "app.env:1: references are nested too deep"),
        ("A=" + "x" * 99_999 + "\nB=" + "$A" * 9_999, "app.env:2: is longer than the 131071 bytes"),
        (
            "A=" + "x" * 99_999 + "".join(f"\nB{n}=$A" for n in range(99)),
            "app.env:11: all variables together",
        ),
        ("A=" + "x" * 140_000, "app.env:1: is longer than the 131071 bytes"),
    ],
)
def test_mistakes_name_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as found:
        parse_env_file(text.encode(), "app.env", {})
    assert str(found.value).startswith(message)


def test_with_a_word_for_what_has_no_value_it_is_blank_and_a_name_alone_is_known() -> None:
    unset: list[tuple[str, int]] = []
    text = b"A=$X\nB='y\n'\nC=${X}$Z${W-w}\nHOME\nNOT\nD=1"
    found = parse_env_file(
        text, "f", {"HOME": "/root", "Z": "z"}, lambda name, line: unset.append((name, line))
    )
    assert found == {"A": "", "B": "y\n", "C": "zw", "HOME": "/root", "D": "1"}
    assert unset == [("X", 1), ("X", 4)]


@given(st.text() | st.text("AB=${}:-?+'\"\\ #\n"))
def test_any_text_has_an_answer(text: str) -> None:
    try:
        found = parse_env_file(text.encode(errors="surrogatepass"), "f", {})
    except ValueError as error:
        assert str(error).startswith("f:")
    else:
        assert all(name and "=" not in name for name in found)


def test_env_wins_over_files_and_a_later_file_over_an_earlier_one() -> None:
    files = {"a.env": b"A=a\nB=a\nC=a\n", "b.env": b"B=b\nC=b\nD=$A\n"}
    text = f'{CONTAINER}env_file = ["a.env", "b.env"]\nenv = {{ C = "env" }}\n'
    (pod,) = parse_pod_file(text, "web.toml", beside=files.__getitem__).pods
    assert pod.pod.containers[0].env == {"A": "a", "B": "b", "C": "env", "D": "a"}
    (one,) = parse_pod_file(f'{CONTAINER}env_file = "a.env"', "web.toml", beside=files.__getitem__).pods
    assert one.pod.containers[0].env == {"A": "a", "B": "a", "C": "a"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"bad.env"', "bad.env:2: a value is not closed"),
        ('"gone.env"', '"gone.env" is not there'),
        ('["../x.env"]', '"../x.env" leads out of the pod file\'s directory'),
        ('["./app.env"]', 'write "app.env"'),
        ('[".env"]', "starts with a dot, which is never read; rename it"),
        ('[{ path = "./app.env" }]', 'write "app.env"'),
        ('[{ path = "app.env", required = false }]', 'write "app.env", which must be there'),
        ("1", "must be text or a list"),
    ],
)
def test_what_is_wrong_with_env_files(value: str, message: str) -> None:
    def beside(path: str) -> bytes:
        if path != "bad.env":
            raise BesideError("is not there")
        return b"A=1\nB='x\n"

    (problem,) = parse_pod_file(f"{CONTAINER}env_file = {value}\n", "web.toml", beside=beside).problems
    assert problem.line == 4
    assert problem.key.startswith("containers[0].env_file")
    assert message in problem.message
