"""Moments as people and programs read them."""

from __future__ import annotations

import pytest

from tank_agent.linux.clock import rfc3339


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (None, None),
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1795327233.999, "2026-11-22T06:00:33.999Z"),
        (999999999999.0, "9999-12-31T23:59:59.000Z"),
        (-1e15, "1970-01-01T00:00:00.000Z"),
        (1e300, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_moments_have_one_form(moment: float | None, text: str | None) -> None:
    assert rfc3339(moment) == text
