"""The wait that a registry asks for."""

from __future__ import annotations

import time
from email.utils import formatdate

from tank_agent.image.registry.client import retry_after


def test_retry_after_is_seconds_or_a_date_and_bounded() -> None:
    assert retry_after("7") == 7
    assert retry_after("99999999") == 86_400
    assert retry_after("nonsense") == retry_after("") == retry_after("-5") == 0
    assert 20 < retry_after(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert retry_after(formatdate(time.time() - 30, usegmt=True)) == 0
