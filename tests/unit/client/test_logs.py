"""The moment from which logs are asked for."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from tank_agent.client.logs import moment

TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(TIMES)
def test_a_line_of_that_microsecond_is_not_left_out(at: datetime) -> None:
    line = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}000+00:00"
    assert moment(at.timestamp()) == line
