"""Moments as people and programs read them."""

from __future__ import annotations

import pytest

from tank_agent.linux.clock import rfc3339


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (None, None),
        (0.0, "1970-01-01T00:00:00Z"),
        (1795327233.0, "2026-11-22T06:00:33Z"),
        (1795327233.999, "2026-11-22T06:00:33.999Z"),
        (1795327233.05, "2026-11-22T06:00:33.050Z"),
        (1795327233.9996, "2026-11-22T06:00:34Z"),
        (999999999999.0, "9999-12-31T23:59:59Z"),
        (-1e15, "1970-01-01T00:00:00Z"),
        (1e300, "9999-12-31T23:59:59Z"),
    ],
)
def test_moments_have_one_form(moment: float | None, text: str | None) -> None:
    assert rfc3339(moment) == text
