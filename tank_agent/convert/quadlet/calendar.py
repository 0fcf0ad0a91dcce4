"""Say a time of systemd.time(7), such as "Mon..Fri 03:00", in cron's five fields."""

from __future__ import annotations

import re

_NAMED = {
    "minutely": "* * * * *",
    "hourly": "0 * * * *",
    "daily": "0 0 * * *",
    "weekly": "0 0 * * 1",
    "monthly": "0 0 1 * *",
    "quarterly": "0 0 1 1,4,7,10 *",
    "semiannually": "0 0 1 1,7 *",
    "yearly": "0 0 1 1 *",
    "annually": "0 0 1 1 *",
}
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_NAME = re.compile("[a-z]{3}")
_TIME = re.compile(r"([0-9*,/.]+):([0-9*,/.]+)(?::([0-9*,/.]+))?")
_DATE = re.compile(r"(?:([0-9*,/.]+)-)?([0-9*,/.]+)-([0-9*,/.]+)")
_WORD = re.compile(r"([0-9]+|\*)(?:\.\.([0-9]+))?(?:/([0-9]+))?")


def cron(text: str) -> tuple[str, str]:
    """Return the five fields of a time, and its time zone; "" is the host's.

    Raises:
        ValueError: they can't say it.
    """
    words = text.split()
    zone = ""
    if len(words) > 1 and (words[-1] == "UTC" or ("/" in words[-1] and words[-1][0].isalpha())):
        zone = words.pop()
    if len(words) == 1 and words[0].lower() in _NAMED:
        return _NAMED[words[0].lower()], zone
    days, date, time = "*", "*-*-*", "00:00:00"
    for word in words:
        if _TIME.fullmatch(word):
            time = word
        elif _DATE.fullmatch(word):
            date = word
        elif word[0].isalpha() and days == "*":
            days = _week_days(word)
        else:
            raise ValueError(f"{text} is not what cron's five fields can say")
    hour, minute, second = _fields(_TIME, time)
    year, month, day = _fields(_DATE, date)
    if (second or "00").strip("0") or (year or "*") != "*":
        raise ValueError(f"{text} has seconds or a year, which cron's five fields have not")
    if days != "*" and day != "*":
        raise ValueError(f"{text} needs a day of the month and of the week, and cron takes either")
    fields = (_field(minute, 0, 59), _field(hour, 0, 23), _field(day, 1, 31), _field(month, 1, 12), days)
    return " ".join(fields), zone


def _fields(pattern: re.Pattern[str], text: str) -> tuple[str, str, str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is not what cron's five fields can say")
    first, second, third = (part or "" for part in found.groups())
    return first, second, third


def _field(text: str, low: int, high: int) -> str:
    """Return one field: numbers, ranges with two dots, and steps, which start at a number."""
    parts = []
    for word in text.split(","):
        found = _WORD.fullmatch(word)
        if found is None:
            raise ValueError(f"{word} is not what cron's five fields can say")
        first, last, step = found.groups()
        if first == "*":
            parts.append(f"*/{int(step)}" if step else "*")
        elif step:
            end = int(last) if last else high
            whole = int(first) == low and end == high
            parts.append(f"*/{int(step)}" if whole else f"{int(first)}-{end}/{int(step)}")
        else:
            parts.append(f"{int(first)}-{int(last)}" if last else str(int(first)))
    return ",".join(parts)


def _week_days(text: str) -> str:
    parts = []
    for word in text.rstrip(",").split(","):
        first, _, last = word.partition("..")
        numbers = [_DAYS.index(day[:3].lower()) for day in (first, last) if day and day[:3].lower() in _DAYS]
        if len(numbers) != 1 + bool(last):
            raise ValueError(f"{text} is not what cron's five fields can say")
        if len(numbers) == 2 and numbers[1] < numbers[0]:
            numbers[1] += 7
        if len(numbers) == 2 and numbers[1] > 7:
            parts += [str(day % 7) for day in range(numbers[0], numbers[1] + 1)]
        else:
            parts.append("-".join(map(str, numbers)))
    return ",".join(parts)


def times(fields: str) -> list[str]:
    """Return the times of systemd that cron's five fields mean; with both kinds of days there are two."""
    minute, hour, day, month, week_day = _NAME.sub(_number_of, fields).split()
    clock = f"{_spelled(hour, 0)}:{_spelled(minute, 0)}:00"
    found = []
    if day != "*" or week_day == "*":
        found.append(f"*-{_spelled(month, 1)}-{_spelled(day, 1)} {clock}")
    if week_day != "*":
        found.append(f"{_days(week_day)} *-{_spelled(month, 1)}-* {clock}")
    return found


def _number_of(found: re.Match[str]) -> str:
    name = found[0]
    return str(_DAYS.index(name) if name in _DAYS else _MONTHS.index(name) + 1)


def _spelled(field: str, low: int) -> str:
    """Return a field of cron as systemd writes it: ranges have two dots, and a step starts at a number."""
    parts = []
    for part in field.split(","):
        span, slash, step = part.partition("/")
        if span == "*":
            parts.append(f"{low}/{step}" if slash and step != "1" else "*")
        else:
            numbers = "..".join(f"{int(number):02}" for number in span.split("-"))
            parts.append(f"{numbers}/{step}" if slash else numbers)
    return ",".join(parts)


def _days(field: str) -> str:
    names = [name.capitalize() for name in (*_DAYS, "sun")]
    parts = []
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = ("0-6" if span == "*" else span).partition("-")
        numbers = range(int(first), int(last or first) + 1, int(step or 1))
        parts += [names[number] for number in numbers]
    return ",".join(dict.fromkeys(parts))
