"""The times of a job: cron's five fields (crontab(5)) in a time zone.

croniter finds the next time on the clock of the wall; which moment that is, is decided here, the same for
each version of it:

- A time that is skipped, as 02:30 where the clock goes from 02:00 to 03:00, is the moment of the change.
- A time that comes twice, as 02:30 where the clock goes from 03:00 back to 02:00, is the first of both.
- A job of every hour goes by what the clock shows: it misses the hour that is skipped, and runs in both hours
  that have the same name, so that an hour lies between two runs.

So does Debian's cron, see cron(8). With a day of the month and a day of the week, either is enough.
"""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from tank_agent.spec.findings import closest, show
from tank_agent.spec.model import Schedule

HOST_ZONE = "/etc/localtime"
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
# Each field with its least and its greatest number, and the names that stand for numbers.
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: at + 1 for at, name in enumerate(_MONTHS)}),
    ("day of the week", 0, 7, {name: at for at, name in enumerate(_DAYS)}),
)
_TEXT_MAX = 200
_PART = re.compile(r"(\*|[0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?(?:/([0-9]{1,2}))?")
_FORM = 'such as "0 3 * * *" for 03:00 each day'
# What systemd, Kubernetes and people write in place of five fields.
_CLOCK = re.compile(r"(?:\*-\*-\*[ t])?([01]?[0-9]|2[0-3]):([0-5][0-9])(?::00)?")
_EVERY = re.compile(r"@?every ([0-9]{1,4}) ?(m|h|min|minutes?|hours?)")
_SINGLE = {
    "every minute": "* * * * *",
    "every hour": "@hourly",
    "every day": "@daily",
    "every night": "0 3 * * *",
}
# A full name of a month or a day, of which cron takes the first three letters.
_FULL_NAME = re.compile("[a-z]{4,9}")
# Time zones that people know by the letters on their clocks, which are no names of places.
_LETTERS = {
    **dict.fromkeys(("berlin", "cest", "mesz", "mez"), "Europe/Berlin"),
    **dict.fromkeys(("bst", "london"), "Europe/London"),
    **dict.fromkeys(("edt", "eastern"), "America/New_York"),
    **dict.fromkeys(("cdt", "central"), "America/Chicago"),
    **dict.fromkeys(("pdt", "pst", "pacific"), "America/Los_Angeles"),
    **dict.fromkeys(("eest",), "Europe/Helsinki"),
    **dict.fromkeys(("ist", "india"), "Asia/Kolkata"),
    **dict.fromkeys(("jst",), "Asia/Tokyo"),
    **dict.fromkeys(("aest", "aedt"), "Australia/Sydney"),
    **dict.fromkeys(("z", "utc+0", "gmt+0"), "UTC"),
}
_OFFSET = re.compile(r"[a-z]{0,5}([+-])0?([0-9]{1,2})(?::?00)?", re.IGNORECASE)
# Any moment that is long past; a 29 February follows within eight years of every one.
_REFERENCE = datetime(2000, 1, 1)
# No clock goes back further at once; a change that is further away concerns no time before it.
_LOOK_AHEAD = timedelta(hours=4)


def parse_cron(text: str) -> str:
    """Return a schedule in its one form, five fields in lower case, or raise ValueError."""
    word = " ".join(text[: _TEXT_MAX + 1].lower().split())
    if len(text) > _TEXT_MAX:
        raise ValueError(f"a schedule has at most {_TEXT_MAX} characters; write it with ranges and steps")
    if word.startswith("@"):
        return _nickname(word)
    fields = word.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(_wrong_count(text, fields))
    for field, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        for part in field.split(","):
            _check_part(part, name, low, high, names)
    if _first(word) is None:
        raise ValueError(f"{show(word)} never comes; no such month has that day")
    return word


def parse_time_zone(name: str) -> str:
    """Return a name of the time zone database, or raise ValueError."""
    if not name or _zone(name) is None:
        import zoneinfo

        right = _right_zone(name, zoneinfo.available_timezones()) if len(name) < 40 else None
        right = right or 'write one such as "Europe/Berlin"'
        raise ValueError(f"there is no time zone {show(name)} here; {right}")
    return name


def _right_zone(name: str, known: set[str]) -> str | None:
    """Return what to write in place of a name that is no time zone; None if nobody knows."""
    if name.lower() in ("host", "local", "localtime", "system"):
        return "without time_zone it is that of this machine; remove it"
    # A place by its own name, or letters: a guess among the names of zones would be off by hours.
    city = [
        zone for zone in sorted(known) if zone.lower().rpartition("/")[2] == name.lower().replace(" ", "_")
    ]
    guess = _LETTERS.get(name.lower()) or next(iter(city), None)
    offset = _OFFSET.fullmatch(name)
    if guess is None and offset is not None:
        # In these names, as in POSIX, the sign is the other way round.
        fixed = f"Etc/GMT{'-' if offset[1] == '+' else '+'}{offset[2]}"
        of_it = f", or {show(fixed)} for one that never changes" if fixed in known else ""
        return f'write a place, such as "Europe/Berlin"{of_it}'
    guess = guess or closest(name, known)
    return f"did you mean {show(guess)}?" if guess else None


def next_after(schedule: Schedule, after: float) -> float:
    """Return the first time of a schedule after a time; both are Unix times in seconds.

    A time zone that this machine does not have, or whose file can't be read, counts as UTC.
    """
    zone = _zone(schedule.time_zone) or UTC
    # A time on the wall that comes a second time is before this one by as much as the clock goes back.
    here = datetime.fromtimestamp(after, UTC).astimezone(zone)
    back = _offset(here) - _offset((here.astimezone(UTC) + _LOOK_AHEAD).astimezone(zone))
    times = _Times(schedule.cron, here.replace(tzinfo=None) - max(back, timedelta()))
    best: float | None = None
    while True:
        wall = times.following()
        moments = _moments(wall, zone, hourly=times.hourly)
        later = [moment for moment in moments if moment > after]
        best = min([*later, *([best] if best is not None else [])], default=None)
        # Of all that follow, the first moments are not before this one.
        if best is not None and best <= _unix(wall, zone, fold=0):
            return best


def on_the_wall(time_zone: str, moment: float) -> str:
    """Return a moment (Unix time) as a clock in a time zone shows it: "Mon 2026-11-30 03:00 CET"."""
    zone = _zone(time_zone) or UTC
    return datetime.fromtimestamp(moment, UTC).astimezone(zone).strftime("%a %Y-%m-%d %H:%M %Z")


class _Times:
    """The times on the wall that a schedule names, after one of them."""

    def __init__(self, cron: str, after: datetime) -> None:
        from croniter import croniter

        self._found: Any = croniter(cron, after)
        hours = cron.split()[1].split(",")
        self.hourly = any(hour in ("*", "*/1", "0-23", "0-23/1") for hour in hours)

    def following(self) -> datetime:
        found: datetime = self._found.get_next(datetime)
        return found


def _first(cron: str) -> datetime | None:
    from croniter import CroniterBadDateError

    try:
        return _Times(cron, _REFERENCE).following()
    except CroniterBadDateError:
        return None


def _moments(wall: datetime, zone: tzinfo, *, hourly: bool) -> list[float]:
    """Return the moments at which a job is due for a time on the wall."""
    first, second = (_unix(wall, zone, fold=fold) for fold in (0, 1))
    if first == second:
        return [first]
    # Of a time that is skipped, the moment that is named first is after the change, and shows another time.
    if first > second:
        return [] if hourly else [_change_between(second, first, zone)]
    return [first, second] if hourly else [first]


def _change_between(low: float, high: float, zone: tzinfo) -> float:
    """Return the moment of the one change of the clock between two moments, to the second."""
    before = _offset(datetime.fromtimestamp(low, UTC).astimezone(zone))
    first, last = int(low), int(high)
    while last - first > 1:
        middle = (first + last) // 2
        same = _offset(datetime.fromtimestamp(middle, UTC).astimezone(zone)) == before
        first, last = (middle, last) if same else (first, middle)
    return float(last)


def _unix(wall: datetime, zone: tzinfo, *, fold: int) -> float:
    return wall.replace(tzinfo=zone, fold=fold).timestamp()


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta()


def _zone(name: str) -> tzinfo | None:
    """Return a time zone, "" for the machine's own; None if it is unknown."""
    import zoneinfo

    # A directory of the database, and a name that is no path, raise other errors than a missing file.
    with contextlib.suppress(zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        if name:
            return zoneinfo.ZoneInfo(name)
        with open(HOST_ZONE, "rb") as file:
            return zoneinfo.ZoneInfo.from_file(file)
    return None


def _nickname(word: str) -> str:
    if word in _NICKNAMES:
        return _NICKNAMES[word]
    if word == "@reboot":
        right = 'a pod with restart = "always" and no schedule is started at each boot; write that'
        raise ValueError(f"@reboot is no time; {right}")
    guess, meant = closest(word, _NICKNAMES), _meant(word)
    right = f"did you mean {guess}?" if guess else f"write five fields, {_FORM}"
    right = f"write {show(meant)}" if meant is not None else right
    raise ValueError(f"{show(word)} is no schedule; {right}")


def schedule_advice(given: object) -> str:
    """Return the sentence for a schedule that is no text."""
    first = (
        given[0] if isinstance(given, list) and given else given.get("cron") if isinstance(given, dict) else 0
    )
    text = first if isinstance(first, str) and len(first.split()) == len(_FIELDS) else "0 3 * * *"
    more = ", and a pod of its own for another" if isinstance(given, list) and len(given) > 1 else ""
    return f"write schedule = {show(text)}{more}"


def _meant(word: str) -> str | None:
    """Return the schedule that somebody means who does not write cron's five fields."""
    clock, every = _CLOCK.fullmatch(word), _EVERY.fullmatch(word)
    if f"@{word}" in _NICKNAMES:
        return f"@{word}"
    if clock is not None:
        return f"{int(clock[2])} {int(clock[1])} * * *"
    if every is not None:
        number, minutes = int(every[1]), every[2].startswith("m")
        # Others don't divide an hour or a day, so cron has no such steps.
        if number in ((1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30) if minutes else (1, 2, 3, 4, 6, 8, 12)):
            return f"*/{number} * * * *" if minutes else f"0 */{number} * * *"
    return _SINGLE.get(word)


def _wrong_count(text: str, fields: list[str]) -> str:
    meant = _meant(" ".join(fields))
    if meant is not None:
        return f"{show(text)} is no schedule; write {show(meant)}"
    if fields and re.match("(?:cron_)?tz=", fields[0]):
        zone = text.split(maxsplit=1)[0].partition("=")[2]
        return f"{show(text)} has a time zone in it; write time_zone = {show(zone)}, and the five fields here"
    if len(fields) > len(_FIELDS) and any("/" in field and field[0] == "/" for field in fields):
        return f"{show(text)} has a command in it; write the five fields here, and command in [[containers]]"
    if len(fields) in (6, 7):
        return f"{show(text)} has {len(fields)} fields; cron has five, the first is the minute, {_FORM}"
    return (
        f"{show(text)} is no schedule; write minute, hour, day of the month, month, day of the week, {_FORM}"
    )


def _check_part(part: str, name: str, low: int, high: int, names: dict[str, int]) -> None:
    found = _PART.fullmatch(part)
    if not found or (found[1] == "*" and found[2]):
        raise ValueError(f"{show(part)} is no {name}; {_right_part(part, name, names)}")
    numbers = []
    for at, word in enumerate((found[1], found[2])):
        if word and word != "*":
            number = int(word) if word.isdigit() else names.get(word, -1)
            # The last day of a range that ends with the week.
            number = high if at == 1 and word == "sun" and names else number
            if not low <= number <= high:
                raise ValueError(f"{show(word)} is no {name}; it is from {low} to {high}")
            numbers.append(number)
    if len(numbers) == 2 and numbers[0] > numbers[1]:
        raise ValueError(f"{show(part)} ends before it begins; write two ranges with a comma")
    if found[3] and not 1 <= int(found[3]) <= high:
        larger = ', and what is more is a step of hours, such as "0 */2 * * *"' if name == "minute" else ""
        raise ValueError(f"a step of {found[3]} is not from 1 to {high}{larger}")


def _right_part(part: str, name: str, names: dict[str, int]) -> str:
    """Return what to write in place of a part of a field that cron(8) does not have."""
    if part == "?":
        return "write *"
    if part == "l" and name == "day of the month":
        return "months differ in length; write 28, or 1 for the day after the last"
    if re.match(r"h\b", part):
        return "choose a number"
    if names and _FULL_NAME.fullmatch(part) and part[:3] in names:
        return f"write {show(part[:3])}"
    return "write a number, *, a range 1-5, a step */2, or several of them with commas"
