"""A container's limits as its cgroup's files hold them: written while it runs, and read back.

Written directly, not by `crun update`: crun refuses hybrid hosts, where an update would need the private view
of the cgroups that `create` gets, and it cannot take a limit away. The same files show whether a limit was
lost. Formats: kernel Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,pids}.rst, sched-bwc.rst.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from tank_agent.errors import Retry, Stalled
from tank_agent.linux.fault import point
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.spec.model import CpuLimit, Limits
from tank_agent.spec.quantities import PIDS_DEFAULT

# v1's number for "no limit" depends on the page size; every larger number means the same.
_UNLIMITED = 1 << 62
_SMALLEST_MEMORY = 1 << 22
_PROCESSES, _SWAP, _BOTH, _CPUS = "processes", "swap", "memory and swap", "cpus"
_ONLINE, _POSSIBLE = (Path("/sys/devices/system/cpu") / name for name in ("online", "possible"))
# Of cpu.weight; sched(7) has the same of v1's cpu.shares, 1024.
_WEIGHT_DEFAULT = 100
NO_LIMITS = Limits()


@functools.cache
def has_swap_limit(host: CgroupHost) -> bool:
    """Return whether memory and swap can be limited; some kernels and boot parameters leave swap out."""
    if host.mode == "unified":
        # The root has no such file, but its children have.
        groups = [entry for entry in host.hierarchies[0].iterdir() if (entry / "memory.current").exists()]
        return not groups or any((group / "memory.swap.max").exists() for group in groups)
    memory = _controller(host, "memory")
    return memory is not None and (memory / "memory.memsw.limit_in_bytes").exists()


def effective(host: CgroupHost, limits: Limits) -> Limits:
    """Return limits with the defaults filled in, as far as this host has the controllers."""
    if limits.pids is not None or not _has_pids(host):
        return limits
    return msgspec.structs.replace(limits, pids=PIDS_DEFAULT)


def write(host: CgroupHost, path: str, limits: Limits, former: Limits = NO_LIMITS) -> None:
    """Set the limits of a group, as its container's file has them; those of `former` that it lacks go.

    Raises:
        Stalled: the kernel lacks a controller that is asked for, or the machine such a CPU.
        Retry: it does not take the value now, such as less memory than is in use (v1).
    """
    check(host, limits)
    for file, value, what, asked in _wanted_files(host, path, effective(host, limits), former):
        if not file.exists():
            if not asked or (what == _PROCESSES and limits.pids is None):
                continue
            raise _missing(what)
        try:
            file.write_text(value)
        except OSError as error:
            raise _explained(error, what, value.strip()) from error
    if limits.memory_reservation or former.memory_reservation:
        protect(host, path)
    point("runtime:limits-written")


def check(host: CgroupHost, limits: Limits) -> None:
    """Raise Stalled for limits that this machine cannot keep, whatever it does."""
    if limits.cpus is not None and (there := _read(_ONLINE)) is not None:
        lacking = cpu_numbers(limits.cpus) - cpu_numbers(there)
        if lacking:
            hint = f"this machine has {_cpus(there)}"
            raise Stalled(f'limits.cpus: there is no CPU {min(lacking)} for "{limits.cpus}"', hint=hint)
    if limits.swap is not None and limits.memory is None and host.mode == "split":
        hint = "give it limits.memory, too"
        raise Stalled("cgroup v1 limits swap only together with memory", hint=hint)


def needs_writing(limits: Limits) -> bool:
    """Return whether a container has limits that the runtime does not set as it makes it."""
    return (limits.memory_reservation, limits.swap, limits.cpu_weight, limits.cpus) != (None,) * 4


def lost(host: CgroupHost, path: str, limits: Limits) -> str | None:
    """Return a sentence on a limit of a group that is not as it was set; None if all are."""
    # Most containers have one limit to lose: reading the others would take time.
    only_processes = limits == NO_LIMITS
    for file, value, what, _ in _wanted_files(host, path, effective(host, limits)):
        found = _read(file) if what == _PROCESSES or not only_processes else None
        if found is not None and _normal(found, what) != _normal(value, what):
            return f"the limit of {what} is {found or 'none'} instead of {value.strip()}"
    if limits.memory_reservation and any(now != sum_ for _, now, sum_ in _protected(host, path)):
        return "the groups above it have other memory reserved than their containers"
    return None


def protect(host: CgroupHost, path: str) -> None:
    """Reserve for the groups above a container what their containers have (memory.low counts top down)."""
    for file, now, wanted in _protected(host, path):
        if now != wanted:
            # Gone with its last container.
            with contextlib.suppress(FileNotFoundError):
                file.write_text(str(wanted))


def _protected(host: CgroupHost, path: str) -> Iterator[tuple[Path, int, int]]:
    """Yield the file of each of our groups above a container, from below, its value, and the right one."""
    if host.mode == "split":
        return
    top = host.hierarchies[0]
    for group in (path.rpartition("/")[0], host.base):
        directory = top / group.lstrip("/")
        below = (_read(file) for file in directory.glob("*/memory.low"))
        now = _read(directory / "memory.low")
        if now is not None:
            yield directory / "memory.low", _number(now), sum(_number(text) for text in below if text)


def _number(text: str) -> int:
    return _UNLIMITED if text == "max" else int(text)


class _File(NamedTuple):
    """A file of a group, its content, and the name of its limit; `asked`: the container's file names it."""

    path: Path
    value: str
    what: str
    asked: bool


def _wanted_files(host: CgroupHost, path: str, limits: Limits, former: Limits = NO_LIMITS) -> list[_File]:
    """Return the files of the limits in the order of writing: the usual, and others that either has."""
    files = _files_of_v2(host, path, limits) if host.mode == "unified" else _files_of_v1(host, path, limits)
    pids = "max" if limits.pids is None else str(limits.pids)
    files.insert(
        1, _File(_group_file(host, "pids", path, "pids.max"), pids, _PROCESSES, limits.pids is not None)
    )
    for field in _RARE:
        value = getattr(limits, field)
        if value is not None or getattr(former, field) is not None:
            files.append(_rare_file(host, path, field, value))
    return files


def _files_of_v2(host: CgroupHost, path: str, limits: Limits) -> list[_File]:
    group = host.hierarchies[0] / path.lstrip("/")
    memory = "max" if limits.memory is None else str(limits.memory)
    cpu = "max 100000" if limits.cpu is None else f"{limits.cpu.quota} {limits.cpu.period}"
    files = [
        _File(group / "memory.max", memory, "memory", limits.memory is not None),
        _File(group / "cpu.max", cpu, "CPU", limits.cpu is not None),
    ]
    # Without another word, the limit is the limit, with or without a swap device.
    swap = "max" if limits.memory is None else "0"
    asked = limits.swap is not None
    return [*files, _File(group / "memory.swap.max", str(limits.swap) if asked else swap, _SWAP, asked)]


def _files_of_v1(host: CgroupHost, path: str, limits: Limits) -> list[_File]:
    plain = _group_file(host, "memory", path, "memory.limit_in_bytes")
    both = plain.with_name("memory.memsw.limit_in_bytes")
    limited = limits.memory is not None
    memory = -1 if limits.memory is None else limits.memory
    total = -1 if limits.memory is None else limits.memory + (limits.swap or 0)
    files = [_File(plain, str(memory), "memory", limited)]
    if limits.swap is not None or both.exists():
        files.append(_File(both, str(total), _BOTH, limits.swap is not None))
        # Memory and swap together can never be less than memory alone.
        if _normal(str(total)) >= _normal(_read(both) or "0"):
            files.reverse()
    return [*files, *_bandwidth_files(host, path, limits.cpu)]


# Limits that few containers have: their files are looked at only for these.
_RARE = ("memory_reservation", "cpu_weight", "cpus")


def _rare_file(host: CgroupHost, path: str, field: str, value: int | str | None) -> _File:
    """Return the file of a limit; without a value, with the kernel's default."""
    unified, asked = host.mode == "unified", value is not None
    if field == "memory_reservation":
        name, default = ("memory.low", "0") if unified else ("memory.soft_limit_in_bytes", "-1")
        file = _group_file(host, "memory", path, name)
        return _File(file, str(value) if asked else default, "memory_reservation", asked)
    if field == "cpu_weight":
        weight = int(value or _WEIGHT_DEFAULT)
        if unified:
            return _File(_group_file(host, "cpu", path, "cpu.weight"), str(weight), "cpu_weight", asked)
        shares = cpu_shares(weight)
        return _File(_group_file(host, "cpu", path, "cpu.shares"), str(shares), "cpu_weight", asked)
    file = _group_file(host, "cpuset", path, "cpuset.cpus")
    # The kernel takes no list away from a group with processes. v2 also has CPUs that may come yet, v1 only
    # those of the group above.
    default = _read(_POSSIBLE if unified else file.parents[1] / file.name) or ""
    return _File(file, f"{value if asked else default}\n", _CPUS, asked)


def cpu_shares(weight: int) -> int:
    """Return v1's cpu.shares for v2's cpu.weight, as the kernel does: 100 is 1024, each the default."""
    return (weight * 1024 + _WEIGHT_DEFAULT // 2) // _WEIGHT_DEFAULT


def cpu_numbers(text: str) -> frozenset[int]:
    """Return the CPUs of a list as the kernel writes them: "0-3,6" (cpuset(7), List format)."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def _cpus(there: str) -> str:
    return f"CPUs {there}" if len(cpu_numbers(there)) > 1 else f"only CPU {there}"


def _bandwidth_files(host: CgroupHost, path: str, cpu: CpuLimit | None) -> list[_File]:
    quota = _group_file(host, "cpu", path, "cpu.cfs_quota_us")
    if cpu is None:
        return [_File(quota, "-1", "CPU", asked=False)]
    period = _File(quota.with_name("cpu.cfs_period_us"), str(cpu.period), "CPU", asked=True)
    wanted = _File(quota, str(cpu.quota), "CPU", asked=True)
    # Between the two writes the share must not be above the kernel's maximum, so the smaller goes first.
    return [wanted, period] if int(_read(quota) or -1) > cpu.quota else [period, wanted]


def _normal(value: str, what: str = "") -> tuple[int, ...]:
    """Return a file's content in a form that compares: the kernel rounds memory down to whole pages."""
    if what == _CPUS:
        return tuple(sorted(cpu_numbers(value)))
    numbers = [_UNLIMITED if word in ("max", "-1") else int(word) for word in value.split()]
    if numbers[0] >= _UNLIMITED:
        return (_UNLIMITED,)
    if numbers[0] >= _SMALLEST_MEMORY:
        numbers[0] -= numbers[0] % mmap.PAGESIZE
    return tuple(numbers)


def _missing(what: str) -> Stalled:
    if what in (_SWAP, _BOTH):
        hint = "boot it with the kernel option swapaccount=1"
        return Stalled("cannot limit swap: this machine's kernel does not count it", hint=hint)
    message = f"cannot limit {what}: this machine has no cgroup controller for it"
    return Stalled(message, hint="`tank doctor` shows which ones it has")


def _explained(error: OSError, what: str, value: str) -> Stalled | Retry:
    if error.errno == errno.EBUSY:
        reason = "more is in use, and the kernel can't take it back"
        hint = "it is tried again; a restart of the container makes it so at once"
        return Retry(f"cannot lower the limit of {what} to {value}: {reason}", hint=hint)
    if error.errno in (errno.EINVAL, errno.ERANGE, errno.EACCES):
        return Stalled(f"the kernel refuses {value} as limit of {what}", hint="a group above may allow less")
    return Retry(f"cannot set the limit of {what} to {value}: {error.strerror}")


@functools.cache
def _has_pids(host: CgroupHost) -> bool:
    if host.mode == "unified":
        return "pids" in (_read(host.hierarchies[0] / "cgroup.controllers") or "").split()
    return _controller(host, "pids") is not None


def _controller(host: CgroupHost, name: str) -> Path | None:
    return next((entry for entry in host.hierarchies if name in entry.name.split(",")), None)


def _group_file(host: CgroupHost, controller: str, path: str, name: str) -> Path:
    if host.mode == "unified":
        return host.hierarchies[0] / path.lstrip("/") / name
    # A controller that is not mounted has no files, whatever the directory is called.
    hierarchy = _controller(host, controller) or host.hierarchies[0] / "no-such-controller"
    return hierarchy / path.lstrip("/") / name


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        # Gone with the container, or never there.
        return None
