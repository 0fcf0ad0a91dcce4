"""References to variables; integration tests ask compose about those that it takes, too."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.spec.references import TooLong, substitute

KNOWN = {"A": "1", "E": "", "long": "x" * 1000}


def filled(text: str) -> tuple[str, list[str]]:
    unset: list[str] = []
    return substitute(text, KNOWN, unset.append, 10_000), unset


@pytest.mark.parametrize(
    ("text", "result", "unset"),
    [
        ("$A ${A} $$A $$$A", "1 1 $A $1", []),
        ("${U:-x} ${U-x} ${E:-x} ${E-x} ${A:+y} ${U:+y} ${E:+y} ${E+y}", "x x x  y   y", []),
        ("${U:-${V:-${A}}}", "1", []),
        ("${A:-$U}", "1", []),
        ("$U ${V}", " ", ["U", "V"]),
        ("$1 $", "$1 $", []),
        ("${A?no} ${U:-{}}", "1 {}", []),
    ],
)
def test_references(text: str, result: str, unset: list[str]) -> None:
    assert filled(text) == (result, unset)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${U?}", "U is needed here and has no value"),
        ("${E:?give ${A}}", 'E is needed here and has no value: "give 1"'),
        ("${A", "a ${ is not closed; write ${NAME}"),
        ("${}", '"${}" is no reference'),
        ("${A:=1}", '"${A:=1}" is no reference'),
        ("${A:-${U}", "a ${ is not closed"),
        ("${A:-${U:?}}", "U is needed here"),
        ("${B:-" * 30 + "}" * 30, "references are nested too deep"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        filled(text)


def test_what_references_make_of_a_text_is_bounded() -> None:
    with pytest.raises(TooLong, match="more than 10000 characters"):
        filled("$long" * 11)


@given(st.text("$A{}:-?+ \n\\"), st.text())
def test_any_text_has_an_answer(text: str, other: str) -> None:
    for each in (text, other):
        try:
            result, _ = filled(each)
        except ValueError as error:
            assert str(error)
        else:
            assert "$" in each or result == each
