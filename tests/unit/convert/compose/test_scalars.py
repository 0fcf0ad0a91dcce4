"""Texts of numbers, and numbers of texts; an integration test asks compose about them, too."""

from __future__ import annotations

import math

import pytest

from tank_agent.convert.compose.scalars import text_of, to_boolean, to_integer, to_mode, to_number
from tank_agent.convert.model import Plain


@pytest.mark.parametrize(
    ("plain", "text"),
    [
        (None, ""),
        (True, "true"),
        (1.5, "1.5"),
        (3.0, "3"),
        (1e6, "1e+06"),
        (123456.5, "123456.5"),
        (1234567.0, "1.234567e+06"),
        (1e-5, "1e-05"),
        (0.0001, "0.0001"),
        (0.0, "0"),
        (-0.0, "-0"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
        (511, "511"),
        ("x", "x"),
    ],
)
def test_text_of(plain: Plain, text: str) -> None:
    assert text_of(plain) == text


def test_numbers_of_texts() -> None:
    assert (to_integer("-12"), to_number("0.5"), to_boolean("On"), to_mode("0440")) == (-12, 0.5, True, 0o440)
    for convert, text in ((to_integer, "0x1"), (to_number, "half"), (to_boolean, ""), (to_mode, "8")):
        with pytest.raises(ValueError, match="write"):
            convert(text)
