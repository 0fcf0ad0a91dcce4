"""Memory, time and CPU as people write them, and back.

Every parser raises ValueError with a sentence about the mistake and how to write it right.
"""

from __future__ import annotations

import math
import re

from tank_agent.spec.findings import show
from tank_agent.spec.model import CpuLimit

# The runtime works within the container's own limit; with less it is killed before the program starts.
MEMORY_MIN = 4 * 1024**2
# The kernel counts bytes in a signed 64-bit number.
MEMORY_MAX = 2**63 - 1
# The limit where a file names none: podman's, and enough for everything but a fork bomb.
PIDS_DEFAULT = 2048
# PID_MAX_LIMIT of 64-bit kernels; the pids controller refuses more.
PIDS_MAX = 4 * 1024**2
# Limits of the kernel's CFS bandwidth control, in microseconds (Documentation/scheduler/sched-bwc.rst).
CPU_QUOTA_MIN = 1_000
CPU_PERIOD_MIN = 1_000
CPU_PERIOD_MAX = 1_000_000
CPU_PERIOD = 100_000
# More than any machine has, to catch a quota in the wrong unit.
CPU_CORES_MAX = 8_192
# Long enough for any stop, short enough to catch milliseconds written as seconds.
STOP_GRACE_MAX = 3_600.0

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_MEMORY = re.compile(r"([0-9]{1,19})([KMGT]?)", re.IGNORECASE)
_LOOSE_MEMORY = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,6}))? ?([KMGT])?i?B?", re.IGNORECASE)
_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?")
_LOOSE_DURATION = re.compile(
    r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(?:(d)(?:ays?)?|(h)(?:(?:ou)?rs?)?|(m)(?:in(?:ute)?s?)?"
    r"|(s)(?:ec(?:ond)?s?)?|(ms)(?:ec)?|(?:milliseconds?)())(?=[ ,0-9]|$)[ ,]*",
    re.IGNORECASE,
)
_SECONDS = (86_400.0, 3600.0, 60.0, 1.0)
_LOOSE_MAX = 60


def parse_memory(value: int | str) -> int:
    """Return bytes for `268435456` or "256M" (K, M, G and T are powers of 1024)."""
    size = value if isinstance(value, int) else _memory_of_text(value)
    if size < MEMORY_MIN:
        # Whoever writes a small number counts in megabytes.
        meant = (
            f', and write "{size}M" for megabytes' if isinstance(value, int) and 4 <= size < 1024**2 else ""
        )
        raise ValueError(f"{_shown(value)} is too little to start a container in; the least is 4M{meant}")
    if size > MEMORY_MAX:
        raise ValueError(f"{_shown(value)} is more than the kernel can count; leave it out for no limit")
    return size


def parse_size(value: int | str, *, low: int, high: int) -> int:
    """Return bytes for a number or a text such as "10M", between `low` and `high` bytes."""
    size = value if isinstance(value, int) else _memory_of_text(value)
    if not low <= size <= high:
        # Nobody writes what is more than the kernel can count.
        counted = high < MEMORY_MAX or size >= low
        limits = f"at least {format_memory(low)}" + (f" and at most {format_memory(high)}" if counted else "")
        raise ValueError(f"{_shown(value)} is out of range; it must be {limits}")
    return size


def _memory_of_text(value: str) -> int:
    found = _MEMORY.fullmatch(value)
    if found:
        return int(found[1]) * _UNITS[found[2].upper()]
    right = 'write bytes or a whole number with K, M, G or T, such as "256M"'
    meant = _LOOSE_MEMORY.fullmatch(value.strip())
    if meant:
        fraction = int(meant[2] or 0) / 10 ** len(meant[2] or "")
        guess = round((int(meant[1]) + fraction) * _UNITS[(meant[3] or "").upper()])
        right = f"write {show(format_memory(guess))}" if 0 < guess <= MEMORY_MAX else right
    raise ValueError(f"{show(value)} is not an amount of memory; {right}")


def format_memory(size: int) -> str:
    """Return bytes as the shortest text that parses back to the same number: "256M"."""
    for unit in "TGMK":
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def parse_duration(value: float | str, *, low: float = 0.0, high: float = math.inf) -> float:
    """Return seconds for "1m30s", "500ms" or a number of seconds, between `low` and `high` seconds."""
    seconds = _duration_of_text(value) if isinstance(value, str) else value
    # Compared before the conversion: an int of a file can be too large for a float.
    if not low <= seconds <= high:
        most = f" and at most {format_duration(high)}" if high < math.inf else ""
        raise ValueError(f"{_shown(value)} is out of range; it must be at least {format_duration(low)}{most}")
    return float(seconds)


def _duration_of_text(value: str) -> float:
    found = _DURATION.fullmatch(value)
    if not found or not value:
        meant = _loose_seconds(value.strip())
        right = 'use numbers with h, m, s or ms, such as "10s" or "1m30s"'
        right = f"write {show(format_duration(meant))}" if meant is not None else right
        raise ValueError(f"{show(value)} is not a length of time; {right}")
    *numbers, milliseconds = found.groups(default="0")
    whole = sum(float(number) * unit for number, unit in zip(numbers, _SECONDS, strict=True))
    return whole + float(milliseconds) / 1000


def _loose_seconds(value: str) -> float | None:
    """Return the seconds of a time as people, systemd and cron write it: "1min 30s", "1.5 hours"."""
    seconds, position = 0.0, 0
    while position < len(value) <= _LOOSE_MAX:
        found = _LOOSE_DURATION.match(value, position)
        if found is None:
            return None
        unit = next((at for at in range(2, 6) if found[at]), 0)
        seconds += float(found[1]) * (_SECONDS[unit - 2] if unit else 0.001)
        position = found.end()
    return round(seconds, 3) if position == len(value) and value else None


def format_duration(seconds: float) -> str:
    """Return seconds as people write them: "1m30s", "500ms"; as a bare number when no text is exact."""
    if seconds == 0:
        return "0s"
    if seconds != int(seconds):
        text = f"{round(seconds * 1000)}ms"
        return text if _duration_of_text(text) == seconds else repr(seconds)
    hours, rest = divmod(int(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)


def parse_cores(cores: float) -> CpuLimit:
    """Return the quota in every 100 ms for a number of cores."""
    # Compared before the conversion: not a number fails both, and a huge int does not fit a float.
    if not 0 < cores <= CPU_CORES_MAX:
        raise ValueError(f"{_shown(cores)} is not a number of cores; write a number above 0, such as 0.5")
    quota = round(cores * CPU_PERIOD)
    if quota < CPU_QUOTA_MIN:
        raise ValueError(f"{cores} cores is less than the kernel can give; the least is 0.01")
    return CpuLimit(quota=quota, period=CPU_PERIOD)


def _shown(value: object) -> str:
    """Return a value for a message; never the digits of a number too long to print."""
    return "the number" if isinstance(value, int) and abs(value) >= 10**40 else show(value)
