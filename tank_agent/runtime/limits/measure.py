"""Measure what a container's group has used, by its files (cgroup-v2.rst; v1: memory, cpuacct, pids.rst).

Plain system calls read them, since a scrape of many containers is made of little else.
"""

from __future__ import annotations

import functools
import os
import resource
from collections.abc import Iterable

from msgspec import Struct

from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.run import LiveRun

# Above memory.stat, the longest.
_SIZE = 16 << 10


class Measured(Struct, frozen=True, kw_only=True):
    """The use of a group: bytes of memory, seconds of CPU time since it is there, processes and threads.

    `reclaimable` is the part of `memory` that the kernel takes back first, of files that were read long ago.
    """

    memory: int = 0
    reclaimable: int = 0
    cpu: float = 0.0
    threads: int = 0

    @property
    def working_set(self) -> int:
        """Return the memory that it works with, as cAdvisor and kubelet count it."""
        return max(0, self.memory - self.reclaimable)


class Sample(Struct, frozen=True):
    """What a run of a container has used: seconds of CPU time since it is there, and bytes of memory now."""

    pod: str
    container: str
    run: str
    cpu: float
    memory: int


class _Files(Struct, frozen=True):
    """The files of every group: a directory before its path, and a name behind it."""

    memory: tuple[str, str]
    memory_stat: tuple[str, str]
    cpu: tuple[str, str]
    threads: tuple[str, str]
    killed: tuple[str, str]


@functools.cache
def _files(host: CgroupHost) -> _Files:
    if host.mode == "unified":
        top = str(host.hierarchies[0])
        names = ("memory.current", "memory.stat", "cpu.stat", "pids.current", "memory.events")
        return _Files(*((top, f"/{name}") for name in names))
    top_of = {name: str(entry) for entry in host.hierarchies for name in entry.name.split(",")}
    return _Files(
        *(
            # A controller that is not mounted has no files.
            (top_of.get(controller, "/nowhere"), f"/{name}")
            for controller, name in (
                ("memory", "memory.usage_in_bytes"),
                ("memory", "memory.stat"),
                ("cpuacct", "cpuacct.usage"),
                ("pids", "pids.current"),
                ("memory", "memory.oom_control"),
            )
        )
    )


class OpenFiles:
    """The open files of one group, which are closed with the last who has them.

    So a scrape that reads them while their container is removed reads them, and not what was opened next.
    """

    def __init__(self, host: CgroupHost, path: str) -> None:
        files = _files(host)
        self.descriptors = [
            _opened(file, path) for file in (files.memory, files.memory_stat, files.cpu, files.threads)
        ]

    def __del__(self) -> None:
        for descriptor in self.descriptors:
            if descriptor is not None:
                os.close(descriptor)

    @classmethod
    def of(cls, host: CgroupHost, run: LiveRun) -> OpenFiles:
        """Return those of a run, which keeps them for the next time where descriptors are plenty."""
        known = run.files
        if isinstance(known, OpenFiles):
            return known
        found = cls(host, run.record.cgroup)
        # Not of a group that is still being made. The number of a descriptor says how many are open.
        numbers = [number for number in found.descriptors if number is not None]
        if len(numbers) == len(found.descriptors) and max(numbers) < _highest_kept():
            run.files = found
        return found


def measure(host: CgroupHost, path: str, opened: OpenFiles | None = None) -> Measured | None:
    """Return what a group uses; None if there is no such group."""
    # A name of its own: without one they would be closed before they are read.
    files = opened or OpenFiles(host, path)
    memory, stat, cpu, threads = map(_content, files.descriptors)
    if not memory and not threads:
        return None
    unified = host.mode == "unified"
    return Measured(
        memory=int(memory or 0),
        reclaimable=_after(stat, b"\ninactive_file " if unified else b"\ntotal_inactive_file "),
        cpu=_after(cpu, b"usage_usec ") / 1e6 if unified else int(cpu or 0) / 1e9,
        threads=int(threads or 0),
    )


def sample(host: CgroupHost, path: str) -> tuple[float, int] | None:
    """Return seconds of CPU time and bytes of memory, by two files of a group; None if there is none."""
    files = _files(host)
    memory, text = _read(files.memory, path), _read(files.cpu, path)
    if not memory:
        return None
    cpu = _after(text, b"usage_usec ") / 1e6 if host.mode == "unified" else int(text or 0) / 1e9
    return cpu, int(memory)


@functools.cache
def _highest_kept() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4


def killed(host: CgroupHost, path: str) -> int:
    """Return how many processes of a group were killed as memory ran out; 0 if there is no such group."""
    return _after(_read(_files(host).killed, path), b"oom_kill ")


class KilledProcesses:
    """Counts the processes that were killed as memory ran out, by pod and container, since the agent's start.

    Of a run that it adopted, the count is since that run's start. The kernel counts them in the run's group,
    which goes with the run; it is read where a run is adopted or goes, and where conmon tells of it. `keep`,
    `of` and `forget` are called with the lock of `Containers` held, so that each run counts exactly once.
    """

    def __init__(self, host: CgroupHost) -> None:
        self._host = host
        self._gone: dict[str, dict[str, int]] = {}

    def look(self, run: LiveRun) -> None:
        """Read the count of a run; once its group is gone, what it said before stands."""
        run.killed = max(run.killed, killed(self._host, run.record.cgroup))

    def keep(self, run: LiveRun) -> None:
        """Keep the count of a run that goes, and close its files."""
        run.files = None
        self._add(self._gone.setdefault(run.record.pod, {}) if run.killed else {}, run)

    def of(self, pod: str, runs: Iterable[LiveRun]) -> dict[str, int]:
        """Return the counts of a pod with these runs, by container; those that are 0 may be left out."""
        found = {**self._gone.get(pod, {})}
        for run in runs:
            self._add(found, run)
        return found

    def forget(self, pod: str) -> None:
        """Forget a pod."""
        self._gone.pop(pod, None)

    @staticmethod
    def _add(found: dict[str, int], run: LiveRun) -> None:
        if run.killed:
            found[run.record.container] = found.get(run.record.container, 0) + run.killed


def _read(file: tuple[str, str], path: str) -> bytes:
    """Return what a file of a group holds; nothing if it is not there, or went with its container."""
    descriptor = _opened(file, path)
    try:
        return _content(descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened(file: tuple[str, str], path: str) -> int | None:
    try:
        return os.open(f"{file[0]}{path}{file[1]}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _content(descriptor: int | None) -> bytes:
    if descriptor is None:
        return b""
    try:
        return os.pread(descriptor, _SIZE, 0)
    except OSError:
        return b""


def _after(text: bytes, word: bytes) -> int:
    """Return the number behind a word; 0 if it is not there."""
    at = text.find(word)
    if at < 0:
        return 0
    at += len(word)
    end = text.find(b"\n", at)
    return int(text[at : end if end >= 0 else None])
