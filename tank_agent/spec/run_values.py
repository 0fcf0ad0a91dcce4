"""Checks of single values of a pod file about mounts, limits and the kernel's parameters.

Each returns the value in its one form, or raises ValueError with a sentence for the user.
"""

from __future__ import annotations

import posixpath
import re
from contextlib import suppress
from typing import Any

from tank_agent.spec.beside import path_complaint
from tank_agent.spec.findings import closest, show
from tank_agent.spec.model import UNLIMITED
from tank_agent.spec.other_tools.advice import of_volume, volume_name
from tank_agent.spec.quantities import CPU_CORES_MAX, MEMORY_MAX, parse_size
from tank_agent.spec.sysctls import sysctl_name, sysctl_value
from tank_agent.spec.values import parse_signal, signal_number

_PAGE = 4096
_WEIGHT_MAX = 10_000
# cgroup v2's cpu.weight (Documentation/admin-guide/cgroup-v2.rst).
_WEIGHT_DEFAULT = 100
_CPU_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
# setrlimit(2); the runtime knows no others.
_ULIMITS = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"),
    *("rtprio", "rttime", "sigpending", "stack"),
)
# The kernel's rlim_t; its greatest value means no limit.
_ULIMIT_MAX = 2**64 - 2
# NR_OPEN: no more files can be open than /proc/sys/fs/nr_open, which an administrator may raise up to this.
_NOFILE_MAX = 2**31 - 1
_DOCKER_ULIMIT = re.compile(r"([a-z]{2,10})[=:] ?(-?[0-9]{1,19})(?::(-?[0-9]{1,19}))?")
_SOFT_AND_HARD = re.compile("([0-9]{1,19})(?::([0-9]{1,19}))?")
_SUBPATH_MAX = 1024


def memory(value: int | str) -> int:
    """Return bytes of memory, at least a page of it."""
    return parse_size(value, low=_PAGE, high=MEMORY_MAX)


def tmpfs_size(value: int | str) -> int:
    """Return the bytes of a file system in memory."""
    if isinstance(value, str) and value.startswith("/"):
        raise ValueError(f"{show(value)} is a path, and this is its size; {tmpfs_advice(value)}")
    return memory(value)


def swap(value: int | str) -> int:
    """Return bytes of swap; 0 is none."""
    return parse_size(value, low=0, high=MEMORY_MAX)


def octal(value: str) -> int:
    """Return permissions that are written in octal digits."""
    if not re.fullmatch("0?[0-7]{3}", value):
        raise ValueError(f'{show(value)} are no permissions; write three octal digits, such as "0400"')
    return int(value, 8)


def octal_advice(_given: object) -> str:
    """Return the sentence for permissions that are a number, which TOML reads as decimal."""
    return 'write octal digits in quotes, such as "0400"'


def on_change(value: str) -> str:
    """Return what follows a change of a file: "restart", "nothing", "signal:SIGHUP"."""
    word, colon, name = value.partition(":")
    if word == "signal" and colon:
        signal = parse_signal(name)
        if signal_number(signal) in (9, 19):
            raise ValueError(f'{signal} is nothing that a program can answer; write "restart"')
        return f"signal:{signal}"
    if value in ("restart", "nothing"):
        return value
    right = 'write "restart", "signal:HUP" or "nothing"'
    with suppress(ValueError):
        right = f"write {show(f'signal:{parse_signal(value)}')}"
    guesses = {"reload": 'write "signal:HUP"', "none": 'write "nothing"', "signal": 'write "signal:HUP"'}
    raise ValueError(f"{show(value)} is no answer to a change; {guesses.get(value.lower(), right)}")


def subpath(value: str) -> str:
    """Return a directory in a volume."""
    right = 'write the path of a directory in the volume, such as "app"'
    normal = posixpath.normpath(value)
    if not value or not value.isprintable() or value.startswith("/") or normal == ".":
        raise ValueError(f"{show(value)} is not in the volume; {right}")
    if ".." in value.split("/"):
        raise ValueError(f"{show(value)} leads out of the volume; {right}")
    sizes = [len(part.encode(errors="surrogatepass")) for part in normal.split("/")]
    if sum(sizes) + len(sizes) > _SUBPATH_MAX or max(sizes) > 255:
        raise ValueError("is longer than any path in a volume may be; write a shorter one")
    return normal


def beside(value: str) -> str:
    """Return the path of a file beside the pod file."""
    wrong = path_complaint(value)
    if wrong is not None:
        raise ValueError(f"{show(value)} {wrong}")
    return value


def cpu_weight(value: int) -> int:
    """Return a share of CPU time."""
    if not 1 <= value <= _WEIGHT_MAX:
        raise ValueError(f"must be from 1 to {_WEIGHT_MAX}; {_WEIGHT_DEFAULT} is what each has else")
    return value


def cpus(value: str) -> str:
    """Return a list of CPUs as the kernel writes it: "0-3,6"."""
    found_ranges: list[tuple[int, int]] = []
    for part in "".join(value.split()).split(","):
        found = _CPU_RANGE.fullmatch(part)
        if not found:
            raise ValueError(f'{show(value)} is no list of CPUs; write one such as "0-3,6"{_amount(value)}')
        low, high = int(found[1]), int(found[2] or found[1])
        if not low <= high < CPU_CORES_MAX:
            raise ValueError(
                f'{show(part)} is no range of CPUs; write one such as "0-3", up to {CPU_CORES_MAX - 1}'
            )
        found_ranges.append((low, high))
    return _merged(found_ranges)


def cpus_advice(given: object) -> str | None:
    """Return the sentence for a number, which other tools mean as an amount."""
    return _amount(str(given)).removeprefix("; ") or None if isinstance(given, int | float) else None


def _amount(value: str) -> str:
    return f"; write cpu = {value} for an amount of CPU time" if re.fullmatch(r"[0-9.]{1,9}", value) else ""


def _merged(ranges: list[tuple[int, int]]) -> str:
    # A long list may name the same CPUs again and again: they are never counted one by one.
    parts: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if parts and low <= parts[-1][1] + 1:
            parts[-1] = parts[-1][0], max(parts[-1][1], high)
        else:
            parts.append((low, high))
    return ",".join(f"{low}-{high}" if low < high else f"{low}" for low, high in parts)


def ulimit(pair: tuple[str, Any]) -> None:
    """Check the name of a limit of setrlimit(2), and that its two parts are in order."""
    name, value = pair
    if name not in _ULIMITS:
        guess = closest(name.lower().removeprefix("rlimit_"), _ULIMITS)
        right = f"did you mean {guess}?" if guess else f"known are {', '.join(_ULIMITS)}"
        raise ValueError(f"there is no such limit; {right}")
    for part in _two(value):
        if isinstance(part, int) and not 0 <= part <= _ULIMIT_MAX:
            right = '; write "unlimited"' if part == -1 else ""
            raise ValueError(f'must be a number from 0 up, or "unlimited"{right}')
    soft, hard = ulimit_numbers(value)
    if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
        raise ValueError("soft is above hard, which the kernel refuses; make it less, or hard more")
    if name == "nofile" and UNLIMITED in (soft, hard):
        raise ValueError("the kernel has a limit of open files always; write a number, such as 1048576")
    if name == "nofile" and hard > _NOFILE_MAX:
        raise ValueError(f"no more than {_NOFILE_MAX} files can be open; write less")


def ulimit_numbers(value: Any) -> tuple[int, int]:
    """Return the soft and the hard limit of a value of a pod file."""
    soft, hard = (UNLIMITED if isinstance(part, str) else part for part in _two(value))
    return soft, hard


def _two(value: Any) -> tuple[int | str, int | str]:
    return (value, value) if isinstance(value, int | str) else (value.soft, value.hard)


def ulimits_advice(given: object) -> str | None:
    """Return the sentence for limits in docker's form, "nofile=1024:2048"."""
    first = given[0] if isinstance(given, list) and given else given
    found = _DOCKER_ULIMIT.fullmatch(first) if isinstance(first, str) else None
    if not found:
        return None
    soft, hard = ('"unlimited"' if number == "-1" else number for number in (found[2], found[3] or found[2]))
    value = soft if soft == hard else f"{{ soft = {soft}, hard = {hard} }}"
    return f"write {{ {found[1]} = {value} }}"


def ulimit_advice(given: object) -> str | None:
    """Return the sentence for one limit as a text, "1024:2048" as Docker and systemd have it."""
    found = _SOFT_AND_HARD.fullmatch(given) if isinstance(given, str) else None
    if found:
        soft, hard = found[1], found[2] or found[1]
        return f"write {{ soft = {soft}, hard = {hard} }}" if soft != hard else f"write {soft} without quotes"
    return 'write "unlimited"' if given in ("infinity", "-1", "max", "none") else None


def tmpfs_advice(given: str) -> str:
    """Return the sentence for a path, with options or not, in place of a size."""
    return f'write tmpfs = "64M" and path = {show(given.partition(":")[0])}'


def mount_advice(given: object) -> str | None:
    """Return the sentence for a mount in compose's short form."""
    source, colon, rest = given.partition(":") if isinstance(given, str) else ("", "", "")
    if not colon:
        return None
    path, _, options = rest.partition(":")
    is_path = source.startswith(("/", ".", "~"))
    host = f"{of_volume(source)}, and " if is_path else "write "
    name = volume_name(source)
    more = " and read_only = true" if "ro" in options.split(",") else ""
    return f"{host}[[containers.mounts]] with volume = {show(name)}, path = {show(path)}{more}"


def device_advice(given: object) -> str | None:
    """Return the sentence for a device as a table."""
    if not isinstance(given, dict):
        return None
    words = ("source", "path_on_host", "pathonhost", "src", "hostpath")
    source = next((given[word] for key in given if (word := key) and key.lower() in words), "/dev/dri")
    return f"write {show(source)}, or FROM:TO" if isinstance(source, str) else None


def variable_advice(given: object) -> str | None:
    """Return the sentence for a variable that is to come from a secret, as Kubernetes and Nomad have it."""
    if not isinstance(given, dict):
        return None
    return "secrets are files, never variables: mount it, and name its path in one such as PASSWORD_FILE"


def env_file_advice(given: object) -> str | None:
    """Return the sentence for an env file as compose's long form has it."""
    if not isinstance(given, dict) or not isinstance(path := given.get("path"), str):
        return None
    name = posixpath.normpath(path)
    return f"write {show(name)}" + ("" if given.get("required", True) else ", which must be there")


def sysctl(pair: tuple[str, str]) -> None:
    """Check the name and the value of a parameter of the kernel."""
    name, value = pair
    if name in ("kernel.hostname", "kernel.domainname"):
        key = "hostname" if name.endswith("hostname") else "dns_search in [network]"
        raise ValueError(f"it has a key of its own; write {key}")
    sysctl_name(name)
    sysctl_value(value)


def sysctl_advice(given: object) -> str | None:
    """Return the sentence for a name whose dots made tables of it."""
    return (
        'write the whole name in quotes: "net.core.somaxconn" = "1024"' if isinstance(given, dict) else None
    )


def sysctls_advice(given: object) -> str | None:
    """Return the sentence for parameters as a list of texts."""
    first = given[0] if isinstance(given, list) and given else None
    name, equals, value = first.partition("=") if isinstance(first, str) else ("", "", "")
    return f"write {{ {show(name.strip())} = {show(value.strip())} }}" if equals else None
