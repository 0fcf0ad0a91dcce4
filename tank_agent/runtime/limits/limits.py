"""A container's limits and use as its cgroup's files hold them: written while it runs, and read back.

Written directly, not by `crun update`: crun refuses hybrid hosts, where an update would need the private view
of the cgroups that `create` gets, and it cannot take a limit away. The same files show whether a limit was
lost. Formats: kernel Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,pids}.rst, sched-bwc.rst.
"""

from __future__ import annotations

import errno
import functools
import mmap
from pathlib import Path

import msgspec
from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.linux.fault import point
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.spec.model import CpuLimit, Limits
from tank_agent.spec.quantities import PIDS_DEFAULT

# v1's number for "no limit" depends on the page size; every larger number means the same.
_UNLIMITED = 1 << 62
_SMALLEST_MEMORY = 1 << 22
_PROCESSES = "processes"


class Usage(Struct, frozen=True, kw_only=True):
    """The use of a container: bytes, seconds of CPU time since its start, processes and threads."""

    memory: int = 0
    cpu: float = 0.0
    pids: int = 0


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


def write(host: CgroupHost, path: str, limits: Limits) -> None:
    """Set the limits of a group, as its container's file has them.

    Raises:
        Stalled: the kernel lacks a controller that is asked for.
        Retry: it does not take the value now, such as less memory than is in use (v1).
    """
    for file, value, what in _wanted_files(host, path, effective(host, limits)):
        if not file.exists():
            if value.split()[0] in ("max", "-1") or (what == _PROCESSES and limits.pids is None):
                continue
            raise Stalled(f"cannot limit {what}: this machine has no cgroup controller for it")
        try:
            file.write_text(value)
        except OSError as error:
            raise _explained(error, what, value) from error
    point("runtime:limits-written")


def lost(host: CgroupHost, path: str, limits: Limits) -> str | None:
    """Return a sentence on a limit of a group that is not as it was set; None if all are."""
    # Most containers have one limit to lose: reading the others would take time.
    only_processes = limits == Limits()
    for file, value, what in _wanted_files(host, path, effective(host, limits)):
        found = _read(file) if what == _PROCESSES or not only_processes else None
        if found is not None and _normal(found) != _normal(value):
            return f"the limit of {what} is {found} instead of {value}"
    return None


def usage(host: CgroupHost, path: str) -> Usage | None:
    """Return what a group uses now; None if there is no such group. Three small files are read."""
    if host.mode == "unified":
        group = host.hierarchies[0] / path.lstrip("/")
        memory, pids = _read(group / "memory.current"), _read(group / "pids.current")
        stat = dict(line.split() for line in (_read(group / "cpu.stat") or "").splitlines())
        cpu = int(stat.get("usage_usec", 0)) / 1e6
    else:
        memory = _read(_file(host, "memory", path, "memory.usage_in_bytes"))
        pids = _read(_file(host, "pids", path, "pids.current"))
        cpu = int(_read(_file(host, "cpuacct", path, "cpuacct.usage")) or 0) / 1e9
    if memory is None and pids is None:
        return None
    return Usage(memory=int(memory or 0), cpu=round(cpu, 3), pids=int(pids or 0))


def _wanted_files(host: CgroupHost, path: str, limits: Limits) -> list[tuple[Path, str, str]]:
    """Return each file, its content, and the name of its limit, in the order of writing."""
    pids = "max" if limits.pids is None else str(limits.pids)
    if host.mode == "unified":
        group = host.hierarchies[0] / path.lstrip("/")
        memory = "max" if limits.memory is None else str(limits.memory)
        cpu = "max 100000" if limits.cpu is None else f"{limits.cpu.quota} {limits.cpu.period}"
        files = [(group / "memory.max", memory, "memory")]
        if (group / "memory.swap.max").exists():
            # The limit is the limit, with or without a swap device.
            files.append((group / "memory.swap.max", "max" if limits.memory is None else "0", "swap"))
        return [*files, (group / "pids.max", pids, _PROCESSES), (group / "cpu.max", cpu, "CPU")]
    return [
        *_memory_files(host, path, "-1" if limits.memory is None else str(limits.memory)),
        (_file(host, "pids", path, "pids.max"), pids, _PROCESSES),
        *_bandwidth_files(host, path, limits.cpu),
    ]


def _memory_files(host: CgroupHost, path: str, memory: str) -> list[tuple[Path, str, str]]:
    plain = _file(host, "memory", path, "memory.limit_in_bytes")
    files = [(plain, memory, "memory")]
    swap = plain.with_name("memory.memsw.limit_in_bytes")
    if swap.exists():
        files.append((swap, memory, "memory and swap"))
    # Memory and swap together can never be less than memory alone.
    raised = _normal(memory) > _normal(_read(plain) or "0")
    return files[::-1] if raised else files


def _bandwidth_files(host: CgroupHost, path: str, cpu: CpuLimit | None) -> list[tuple[Path, str, str]]:
    quota = _file(host, "cpu", path, "cpu.cfs_quota_us")
    if cpu is None:
        return [(quota, "-1", "CPU")]
    period = (quota.with_name("cpu.cfs_period_us"), str(cpu.period), "CPU")
    wanted = (quota, str(cpu.quota), "CPU")
    # Between the two writes the share must not be above the kernel's maximum, so the smaller goes first.
    return [wanted, period] if int(_read(quota) or -1) > cpu.quota else [period, wanted]


def _normal(value: str) -> tuple[int, ...]:
    """Return a file's content in a form that compares: the kernel rounds memory down to whole pages."""
    numbers = [_UNLIMITED if word in ("max", "-1") else int(word) for word in value.split()]
    if numbers[0] >= _UNLIMITED:
        return (_UNLIMITED,)
    if numbers[0] >= _SMALLEST_MEMORY:
        numbers[0] -= numbers[0] % mmap.PAGESIZE
    return tuple(numbers)


def _explained(error: OSError, what: str, value: str) -> Stalled | Retry:
    if error.errno == errno.EBUSY:
        reason = "more is in use, and the kernel can't take it back"
        hint = "it is tried again; a restart of the container makes it so at once"
        return Retry(f"cannot lower the limit of {what} to {value}: {reason}", hint=hint)
    if error.errno == errno.EINVAL:
        return Stalled(f"the kernel refuses {value} as limit of {what}", hint="a group above may allow less")
    return Retry(f"cannot set the limit of {what} to {value}: {error.strerror}")


@functools.cache
def _has_pids(host: CgroupHost) -> bool:
    if host.mode == "unified":
        return "pids" in (_read(host.hierarchies[0] / "cgroup.controllers") or "").split()
    return _controller(host, "pids") is not None


def _controller(host: CgroupHost, name: str) -> Path | None:
    return next((entry for entry in host.hierarchies if name in entry.name.split(",")), None)


def _file(host: CgroupHost, controller: str, path: str, name: str) -> Path:
    # A controller that is not mounted has no files, whatever the directory is called.
    hierarchy = _controller(host, controller) or host.hierarchies[0] / "no-such-controller"
    return hierarchy / path.lstrip("/") / name


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        # Gone with the container, or never there.
        return None
