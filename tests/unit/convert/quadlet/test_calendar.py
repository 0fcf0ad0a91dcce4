"""Times of systemd in cron's five fields."""

from __future__ import annotations

import pytest

from tank_agent.convert.quadlet.calendar import cron
from tank_agent.spec.schedule import parse_cron


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("daily", "0 0 * * *"),
        ("weekly", "0 0 * * 1"),
        ("03:30", "30 3 * * *"),
        ("*-*-* 03:30:00", "30 3 * * *"),
        ("*-*-01 00:00:00", "0 0 1 * *"),
        ("Mon..Fri 08:00", "0 8 * * 1-5"),
        ("Sat,Sun 10:05", "5 10 * * 6,0"),
        ("Fri..Mon 10:05", "5 10 * * 5,6,0,1"),
        ("Sun *-*-* 04:00:00", "0 4 * * 0"),
        ("*:0/15", "*/15 * * * *"),
        ("*-*-* 0/6:00:00", "0 */6 * * *"),
        ("*-*-* 00/2:10", "10 */2 * * *"),
        ("*-*-* 01..05:00", "0 1-5 * * *"),
        ("*-1,7-1 00:00", "0 0 1 1,7 *"),
        ("monday 01:00", "0 1 * * 1"),
    ],
)
def test_a_time_is_said(text: str, fields: str) -> None:
    assert cron(text) == (fields, "")
    assert parse_cron(fields)


def test_a_time_zone_is_kept() -> None:
    assert cron("03:00 Europe/Berlin") == ("0 3 * * *", "Europe/Berlin")
    assert cron("daily UTC") == ("0 0 * * *", "UTC")


@pytest.mark.parametrize(
    "text", ["*-*-* 00:00:30", "2027-01-01 00:00", "Mon *-*-1 00:00", "*-*~1", "*:*:0/10", "soon", "Foo 1:00"]
)
def test_what_five_fields_cannot_say_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        cron(text)
