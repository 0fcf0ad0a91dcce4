"""Jobs come when cron's five fields say so, also on the two nights on which the clock is changed."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tank_agent.spec import schedule as schedule_module
from tank_agent.spec.model import Schedule
from tank_agent.spec.schedule import next_after, parse_cron, parse_time_zone


def moment(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def following(cron: str, zone: str, after: float, count: int) -> list[str]:
    """Return the next times, with the offset that tells doubled hours apart."""
    found = []
    for _ in range(count):
        after = next_after(Schedule(cron=cron, time_zone=zone), after)
        found.append(f"{datetime.fromtimestamp(after, ZoneInfo(zone)):%d %H:%M %z}")
    return found


@pytest.mark.parametrize(
    ("zone", "eve", "cron", "times"),
    [
        # The hour from 02:00 is skipped: what is due in it comes at the moment of the change, once.
        ("Europe/Berlin", "2026-03-28T12:00", "30 2 * * *", ["29 03:00 +0200", "30 02:30 +0200"]),
        ("Europe/Berlin", "2026-03-28T12:00", "0,30 2 * * *", ["29 03:00 +0200", "30 02:00 +0200"]),
        ("Europe/Berlin", "2026-03-28T12:00", "0 3 * * *", ["29 03:00 +0200", "30 03:00 +0200"]),
        ("Europe/Berlin", "2026-03-28T23:30", "0 */2 * * *",
         ["29 00:00 +0100", "29 03:00 +0200", "29 04:00 +0200"]),
        # It comes twice: what is due in it comes in the first.
        ("Europe/Berlin", "2026-10-24T12:00", "30 2 * * *", ["25 02:30 +0200", "26 02:30 +0100"]),
        ("Europe/Berlin", "2026-10-24T12:00", "0 3 * * *", ["25 03:00 +0100", "26 03:00 +0100"]),
        # In the south, the clock goes forward in October, and back in April.
        ("Australia/Sydney", "2026-10-03T12:00", "30 2 * * *", ["04 03:00 +1100", "05 02:30 +1100"]),
        ("Australia/Sydney", "2026-04-04T12:00", "30 2 * * *", ["05 02:30 +1100", "06 02:30 +1000"]),
        # An hour lies between two runs of an hourly job, whatever the clock shows.
        ("Europe/Berlin", "2026-03-29T00:30", "0 * * * *",
         ["29 01:00 +0100", "29 03:00 +0200", "29 04:00 +0200"]),
        ("Europe/Berlin", "2026-10-25T00:30", "0 * * * *",
         ["25 01:00 +0200", "25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100"]),
        ("Australia/Sydney", "2026-04-05T01:30", "30 * * * *",
         ["05 02:30 +1100", "05 02:30 +1000", "05 03:30 +1000"]),
        # Half an hour.
        ("Australia/Lord_Howe", "2026-04-05T01:20", "*/30 * * * *",
         ["05 01:30 +1100", "05 01:30 +1030", "05 02:00 +1030"]),
        # A whole day that an island never had.
        ("Pacific/Apia", "2011-12-29T12:00", "0 12 * * *", ["31 00:00 +1400", "31 12:00 +1400"]),
    ],
)  # fmt: skip
def test_a_job_comes_as_crons_does_when_the_clock_is_changed(
    zone: str, eve: str, cron: str, times: list[str]
) -> None:
    assert following(cron, zone, moment(eve, zone), len(times)) == times


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (moment("2026-10-25T02:45", "Europe/Berlin", fold=0), "26 02:30 +0100"),
        (moment("2026-10-25T02:15", "Europe/Berlin", fold=1), "26 02:30 +0100"),
        (moment("2026-10-25T02:15", "Europe/Berlin", fold=0), "25 02:30 +0200"),
    ],
)
def test_a_job_is_not_run_again_in_the_hour_that_comes_twice(after: float, expected: str) -> None:
    assert following("30 2 * * *", "Europe/Berlin", after, 1) == [expected]


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 3 * * *", "2026-11-29T02:59:59", "2026-11-29T03:00"),
        ("0 3 * * *", "2026-11-29T03:00:00", "2026-11-30T03:00"),
        ("0 0 31 * *", "2026-01-31T00:00", "2026-03-31T00:00"),
        ("0 0 29 2 *", "2026-01-01T00:00", "2028-02-29T00:00"),
        ("0 0 29 2 *", "2096-02-29T00:00", "2104-02-29T00:00"),
        ("59 23 31 12 *", "2026-12-31T23:58", "2026-12-31T23:59"),
        ("0 0 1 1 *", "2026-12-31T23:59", "2027-01-01T00:00"),
        ("*/20 * * * *", "2026-11-29T10:41", "2026-11-29T11:00"),
        ("0 12 * * mon-fri", "2026-11-28T00:00", "2026-11-30T12:00"),
        ("0 12 * * fri-sun", "2026-11-29T00:00", "2026-11-29T12:00"),
        ("0 0 * * 7", "2026-11-28T00:00", "2026-11-29T00:00"),
        # Either of the two days is enough.
        ("0 0 13 * fri", "2026-11-07T00:00", "2026-11-13T00:00"),
        ("0 0 15 * fri", "2026-11-13T00:00", "2026-11-15T00:00"),
    ],
)
def test_the_next_time_is_the_first_one_after(cron: str, after: str, expected: str) -> None:
    assert next_after(Schedule(cron=cron, time_zone="UTC"), moment(after)) == moment(expected)


def test_the_hosts_time_zone_counts_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(cron="0 3 * * *")
    monkeypatch.setattr(schedule_module, "HOST_ZONE", "/usr/share/zoneinfo/Asia/Tokyo")
    assert next_after(schedule, moment("2026-11-29T00:00")) == moment("2026-11-30T03:00", "Asia/Tokyo")
    monkeypatch.setattr(schedule_module, "HOST_ZONE", str(tmp_path / "absent"))
    assert next_after(schedule, moment("2026-11-29T00:00")) == moment("2026-11-29T03:00")
    (tmp_path / "broken").write_bytes(b"no zone")
    monkeypatch.setattr(schedule_module, "HOST_ZONE", str(tmp_path / "broken"))
    assert next_after(schedule, moment("2026-11-29T00:00")) == moment("2026-11-29T03:00")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        ["*/15 * * * *", "30 2 * * *", "0,30 1-3 * * *", "5 */3 * * *", "0 0 * * *", "0 2 29 * *"]
    ),
    st.sampled_from(["Europe/Berlin", "Australia/Sydney", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.floats(moment("2026-01-01"), moment("2028-01-01")),
)
def test_no_time_is_left_out_whenever_it_is_asked(cron: str, zone: str, start: float) -> None:
    """Where one starts to ask makes no difference to what follows."""
    schedule = Schedule(cron=cron, time_zone=zone)
    first = next_after(schedule, start)
    second = next_after(schedule, first)
    assert start < first < second
    assert next_after(schedule, (start + first) / 2 if first - start > 1 else start) == first
    assert next_after(schedule, first + (second - first) / 2) == second
    assert next_after(schedule, second - 0.01) == second


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0 3 * * *", "0 3 * * *"),
        ("  0\t3  *  *  MON-Fri ", "0 3 * * mon-fri"),
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
    ],
)
def test_a_schedule_has_one_form(given: str, expected: str) -> None:
    assert parse_cron(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("@reboot", "@reboot is no time; a pod with restart"),
        ("@dayly", "did you mean @daily?"),
        ("@every 5m", "is no schedule"),
        ("0 0 3 * * *", "has 6 fields; cron has five"),
        ("0 3 * *", "is no schedule; write minute, hour"),
        ("", "is no schedule; write minute, hour"),
        ("60 3 * * *", '"60" is no minute; it is from 0 to 59'),
        ("0 24 * * *", '"24" is no hour; it is from 0 to 23'),
        ("0 0 0 * *", '"0" is no day of the month'),
        ("0 0 * 13 *", '"13" is no month'),
        ("0 0 * jam *", '"jam" is no month'),
        ("0 0 * * 8", '"8" is no day of the week'),
        ("0 0 L * *", '"l" is no day of the month; months differ in length; write 28'),
        ("R 0 * * *", '"r" is no minute'),
        ("0 22-6 * * *", "ends before it begins"),
        ("*/0 * * * *", "a step of 0"),
        ("*/90 * * * *", "a step of 90 is not from 1 to 59, and what is more is a step of hours"),
        ("0 3 ? * *", '"?" is no day of the month; write *'),
        ("H 3 * * *", '"h" is no minute; choose a number'),
        ("0 3 * * monday", '"monday" is no day of the week; write "mon"'),
        ("daily", 'write "@daily"'),
        ("every day", 'write "@daily"'),
        ("03:00", 'write "0 3 * * *"'),
        ("*-*-* 03:15:00", 'write "15 3 * * *"'),
        ("@every 5m", 'write "*/5 * * * *"'),
        ("every 2 hours", 'write "0 */2 * * *"'),
        ("every 7 minutes", '"every 7 minutes" is no schedule; write minute, hour,'),
        ("CRON_TZ=Europe/Berlin 0 3 * * *", 'has a time zone in it; write time_zone = "Europe/Berlin"'),
        ("0 3 * * * /usr/bin/backup", "has a command in it; write the five fields here"),
        ("0 0 30 2 *", "never comes; no such month has that day"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("0 3 * * * " + "x" * 300, "at most 200 characters"),
    ],
)
def test_what_is_no_schedule_is_refused_with_what_is(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as found:
        parse_cron(given)
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("Europe/Berln", 'did you mean "Europe/Berlin"?'),
        ("europe", 'there is no time zone "europe" here'),
        ("Europe", 'there is no time zone "Europe" here'),
        ("../../etc/passwd", "there is no time zone"),
        ("/etc/localtime", "there is no time zone"),
        ("", "there is no time zone"),
        ("x\0y", "there is no time zone"),
        ("berlin", 'did you mean "Europe/Berlin"?'),
        ("CEST", 'did you mean "Europe/Berlin"?'),
        ("new york", 'did you mean "America/New_York"?'),
        ("CET+1", 'write a place, such as "Europe/Berlin", or "Etc/GMT-1" for one that never changes'),
        ("UTC-05:00", 'or "Etc/GMT+5" for one that never changes'),
        ("UTC+5:30", 'there is no time zone "UTC+5:30" here; '),
        ("local", "without time_zone it is that of this machine; remove it"),
    ],
)
def test_what_is_no_time_zone_is_refused(given: str, message: str) -> None:
    assert parse_time_zone("Europe/Berlin") == "Europe/Berlin"
    with pytest.raises(ValueError, match=r".") as found:
        parse_time_zone(given)
    assert message in str(found.value)


def test_it_is_the_same_with_debians_croniter() -> None:
    """The floor of pyproject.toml, if this machine has it; the environment of the tests has the newest."""
    code = (
        "import sys, runpy; sys.path.append(sys.argv[1]); "
        "from tank_agent.spec.schedule import next_after; from tank_agent.spec.model import Schedule; "
        "print(*(next_after(Schedule(cron=c, time_zone='Europe/Berlin'), float(t)) "
        "for c in sys.argv[2].split(';') for t in sys.argv[3].split()))"
    )
    crons = "30 2 * * *;0 * * * *;*/7 1-3 * * mon,wed;0 0 29 2 *;0 0 31 * fri;15 4 * * 7"
    starts = " ".join(
        str((datetime(2026, 3, 27, tzinfo=UTC) + timedelta(hours=37 * step)).timestamp())
        for step in range(150)
    )
    ours = " ".join(
        str(next_after(Schedule(cron=cron, time_zone="Europe/Berlin"), float(start)))
        for cron in crons.split(";")
        for start in starts.split()
    )
    old = subprocess.run(
        ["/usr/bin/python3", "-c", "import croniter, sys; print(sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=False,
    )
    if old.stdout.strip() != str(sys.version_info[:2]):
        pytest.skip("Debian's Python has no croniter, or is of another version")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    found = subprocess.run(
        ["/usr/bin/python3", "-c", code, packages, crons, starts],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert found.stdout.strip() == ours
