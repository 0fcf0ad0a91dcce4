"""Checks of single values of a pod file: names, users, capabilities, profiles, signals.

Each returns the value in its one form, or raises ValueError with a sentence for the user.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from tank_agent.spec.findings import Finding, KeyPath, closest, show
from tank_agent.spec.paths import check_path
from tank_agent.spec.quantities import PIDS_DEFAULT, PIDS_MAX

NAME_MAX = 63
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_USER_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,254}\$?")
_DIGITS = re.compile("[0-9]+")
# The largest id means "no change" to chown and setuid.
_ID_MAX = 2**32 - 2
# MAX_ARG_STRLEN: the kernel refuses to execute with a longer argument or variable (execve(2)).
_ARGUMENT_MAX = 131_071
# linux/capability.h, in the order of their numbers.
_NUMBERED = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = tuple(f"CAP_{name}" for name in _NUMBERED.split())
ALL = "ALL"
# As the kernel lists them; a space would end the name where it is written to the kernel.
_APPARMOR = re.compile(r"[!-~]{1,255}")

# fmt: off
_SIGNAL_NAMES = (
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL",
    "SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD",
    "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ",
    "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
)
# fmt: on
# Older names for the same signals; images still have them.
_ALIASES = {"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO"}
_SIGNALS = {name: int(getattr(signal, name)) for name in _SIGNAL_NAMES}
_BY_NUMBER = {number: name for name, number in _SIGNALS.items()}
# The real-time signals for programs; 32 and 33 are glibc's own.
_FIRST_REALTIME, _LAST_REALTIME = 34, 64
_REALTIME = re.compile(r"SIGRT(?:(MIN)(?:\+([0-9]{1,2}))?|(MAX)(?:-([0-9]{1,2}))?)")


def name_problem(name: str) -> str | None:
    """Return what is wrong with the name of a pod, a container or a volume, or None."""
    if _NAME.fullmatch(name):
        return None
    rule = "use 1 to 63 of a-z, 0-9 and -, starting and ending with a letter or a digit"
    guess = nearest_name(name)
    return f"{show(name)} is not a name; {rule}" + (f', such as "{guess}"' if guess else "")


def nearest_name(text: str) -> str:
    """Return the name of a pod, a container or a volume that is nearest to a text; "" if nothing is left."""
    return re.sub("[^a-z0-9]+", "-", text.lower())[:NAME_MAX].strip("-")


def check_once(given: Sequence[str], path: KeyPath, findings: list[Finding]) -> None:
    """Check that a list names nothing twice."""
    seen: set[str] = set()
    for index, text in enumerate(given):
        if text in seen:
            findings.append(Finding((*path, index), f"{show(text)} is given twice"))
        seen.add(text)


def named(value: str) -> str:
    """Return the name of a pod or a bridge."""
    wrong = name_problem(value)
    if wrong:
        raise ValueError(wrong)
    return value


def argument(value: str) -> str:
    """Return what a program can be given as an argument."""
    if "\0" in value:
        raise ValueError("has a NUL character in it, which no program can be given")
    if len(value) > _ARGUMENT_MAX // 4 and len(value.encode()) > _ARGUMENT_MAX:
        raise ValueError(
            f"is longer than the {_ARGUMENT_MAX} bytes that the kernel takes; put it in a file of a volume"
        )
    return value


def variable(pair: tuple[str, str]) -> None:
    """Check the name and the value of an environment variable."""
    name, value = pair
    if not name:
        raise ValueError("a variable needs a name")
    if "=" in name:
        raise ValueError(f"a variable's name can't have \"=\" in it; write {show(name.partition('=')[0])}")
    argument(f"{name}={value}")


def label(pair: tuple[str, str]) -> None:
    """Check the name and the value of a label."""
    name, value = pair
    if not name or not (name + value).isprintable():
        raise ValueError("a label needs a name, and has no control characters")


def host_pattern(value: str) -> str:
    """Return a pattern that some host's name could match."""
    if not value or not value.isprintable() or " " in value:
        raise ValueError(f'{show(value)} matches no host; write a name or a pattern, as in "edge-*"')
    return value


def user(value: str) -> str:
    """Return `user[:group]` with plain numbers; a text of digits is always a number (CVE-2026-46680)."""
    name, colon, group = value.partition(":")
    if not name or (colon and not group):
        raise ValueError(f'{show(value)} is not a user; write a user or user:group, such as "1000:1000"')
    parts = [_identity(part, what) for part, what in ((name, "user"), (group, "group")) if part]
    return ":".join(parts)


def group(value: str | int) -> str:
    """Return a group by name, or by number as plain digits."""
    text = str(value)
    if not text or ":" in text:
        raise ValueError(f'{show(text)} is not a group; write a name or a number, such as "video" or "44"')
    return _identity(text, "group")


def _identity(part: str, what: str) -> str:
    if _DIGITS.fullmatch(part):
        if len(part) > 20 or int(part) > _ID_MAX:
            raise ValueError(f"the {what} id is out of range; the largest is {_ID_MAX}")
        return str(int(part))
    if not _USER_NAME.fullmatch(part):
        raise ValueError(f"{show(part)} is not a {what}; use letters, digits and . _ -, or a number")
    return part


def pids(value: int) -> int:
    """Return a number of processes that the kernel can limit to."""
    if not 1 <= value <= PIDS_MAX:
        right = f"; write {PIDS_MAX}" if value in (-1, 0) else ""
        rule = f"must be from 1 to {PIDS_MAX}, which is no limit"
        raise ValueError(f"{rule}; left out, it is {PIDS_DEFAULT}{right}")
    return value


def capability(word: str) -> str:
    """Return a capability as the kernel calls it; "ALL" stands for all of them."""
    name = word.strip().upper()
    name = name if name == ALL or name.startswith("CAP_") else f"CAP_{name}"
    if name in CAPABILITIES or name == ALL:
        return name
    guess = closest(name, CAPABILITIES)
    right = f"did you mean {show(guess.removeprefix('CAP_'))}?" if guess else "see capabilities(7)"
    raise ValueError(f"{show(word)} is not a capability; {right}")


def seccomp(value: str) -> str:
    """Return the name or the path of a filter of system calls."""
    if value not in ("default", "unconfined") and check_path(value):
        raise ValueError(
            f'{show(value)} is no profile; write "default", "unconfined" or the absolute path of one'
        )
    return value


def apparmor(value: str) -> str:
    """Return the name of an AppArmor profile."""
    if not _APPARMOR.fullmatch(value):
        raise ValueError(
            f'{show(value)} is no profile; write "default", "unconfined" or the name of a loaded one'
        )
    return value


def parse_signal(value: str | int) -> str:
    """Return a signal's one name: "SIGTERM", "SIGRTMIN+3"."""
    number = signal_number(value)
    if number in _BY_NUMBER:
        return _BY_NUMBER[number]
    return "SIGRTMIN" if number == _FIRST_REALTIME else f"SIGRTMIN+{number - _FIRST_REALTIME}"


def signal_number(value: str | int) -> int:
    """Return the number of a signal with this name or number."""
    if isinstance(value, int) or re.fullmatch("[0-9]{1,3}", value):
        number = int(value)
        if number in _BY_NUMBER or _FIRST_REALTIME <= number <= _LAST_REALTIME:
            return number
        right = "use a name such as SIGTERM, or a number of 1 to 31 or 34 to 64"
        raise ValueError(f"there is no such signal; {right}")
    name = f"SIG{value.upper().removeprefix('SIG')}"
    name = _ALIASES.get(name, name)
    if name in _SIGNALS:
        return _SIGNALS[name]
    found = _REALTIME.fullmatch(name)
    if found:
        number = _FIRST_REALTIME + int(found[2] or 0) if found[1] else _LAST_REALTIME - int(found[4] or 0)
        if _FIRST_REALTIME <= number <= _LAST_REALTIME:
            return number
    guess = closest(name, _SIGNALS)
    hint = f"did you mean {guess}?" if guess else "use a name such as SIGTERM, or a number such as 15"
    raise ValueError(f"{show(value)} is not a signal; {hint}")
