"""Signals by the names and numbers that people write: "SIGTERM", "TERM", 15, "RTMIN+3"."""

from __future__ import annotations

import re
import signal

from tank_agent.spec.findings import closest, show

# fmt: off
_NAMES = (
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL",
    "SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD",
    "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ",
    "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
)
# fmt: on
# Older names for the same signals; images still have them.
_ALIASES = {"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO"}
_NUMBERS = {name: int(getattr(signal, name)) for name in _NAMES}
_BY_NUMBER = {number: name for name, number in _NUMBERS.items()}
# What glibc leaves to programs; 32 and 33 are its own.
_FIRST, _LAST = 34, 64
_REALTIME = re.compile(r"SIGRT(?:(MIN)(?:\+([0-9]{1,2}))?|(MAX)(?:-([0-9]{1,2}))?)")


def parse_signal(value: str | int) -> str:
    """Return a signal's one name: "SIGTERM", "SIGRTMIN+3".

    Raises:
        ValueError: a sentence that says what is wrong and what would be right.
    """
    number = signal_number(value)
    if number in _BY_NUMBER:
        return _BY_NUMBER[number]
    return "SIGRTMIN" if number == _FIRST else f"SIGRTMIN+{number - _FIRST}"


def signal_number(value: str | int) -> int:
    """Return a signal's number. Raises as `parse_signal` does."""
    if isinstance(value, str) and not re.fullmatch("[0-9]{1,3}", value):
        return _number_of(value)
    number = int(value)
    if number not in _BY_NUMBER and not _FIRST <= number <= _LAST:
        raise ValueError(
            "there is no such signal; use a name such as SIGTERM, or a number of 1 to 31 or 34 to 64"
        )
    return number


def _number_of(text: str) -> int:
    name = text.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    name = _ALIASES.get(name, name)
    if name in _NUMBERS:
        return _NUMBERS[name]
    found = _REALTIME.fullmatch(name)
    if found:
        number = _FIRST + int(found[2] or 0) if found[1] else _LAST - int(found[4] or 0)
        if _FIRST <= number <= _LAST:
            return number
    guess = closest(name, _NUMBERS)
    hint = f"did you mean {guess}?" if guess else "use a name such as SIGTERM, or a number such as 15"
    raise ValueError(f"{show(text)} is not a signal; {hint}")
