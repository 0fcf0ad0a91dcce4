"""Variables in the values of compose files."""

from __future__ import annotations

import pytest

from tank_agent.convert.compose.interpolate import Filling
from tank_agent.convert.model import InvalidSource, Remark, SourcePlace, Value


def test_what_variables_make_of_a_project_is_bounded() -> None:
    place = SourcePlace("f", 3)
    values = {str(number): Value("$long" * 8000, place) for number in range(3)}
    with pytest.raises(InvalidSource, match=r"f:3: services\.1: variables make too much of this project"):
        Filling({"long": "x" * 1000}, []).document({"services": Value(values, place)})


def test_a_variable_that_is_not_set_is_said_once_for_its_line() -> None:
    remarks: list[Remark] = []
    place = SourcePlace("f", 3)
    values = (Value("$U$U", place), Value("$U", place))
    Filling({}, remarks).document({"services": Value(values, place), "x-own": Value("$V${", place)})
    (remark,) = remarks
    assert str(remark) == (
        "f:3: services.0: U is not set, so it is blank, as compose has it; set it in .env or --env-file"
    )
    assert remark.kind == "note"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("user", "${A?}", "f:3: services.web.user: A is needed here and has no value"),
        ("tty", "maybe", 'f:3: services.web.tty: "maybe" is neither true nor false; write one of them'),
        ("scale", "$A", 'f:3: services.web.scale: "" is no whole number; write digits only'),
    ],
)
def test_mistakes_have_their_key_and_line(key: str, text: str, message: str) -> None:
    place = SourcePlace("f", 3)
    web = Value({"web": Value({key: Value(text, place)}, place)}, place)
    with pytest.raises(InvalidSource) as found:
        Filling({}, []).document({"services": web})
    assert str(found.value) == message
