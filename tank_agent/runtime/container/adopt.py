"""Adoption of the runs that a former agent left, and removal of everything else that it left.

A process is identified by its present cgroup or arguments, never by a number in a file alone, since numbers
are used again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from tank_agent.linux import mounts, pidfd
from tank_agent.linux.trees import left_for_later, remove_tree
from tank_agent.runtime.container import conmon
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.container.exits import read_exit
from tank_agent.runtime.container.launch import Tools
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.run import RECORD, STOPPING, LiveRun, RunRecord, Stopping, read_file, read_number
from tank_agent.runtime.security.user_namespace import take_back_null_device


def adopt_all(containers: Containers, tools: Tools, now: float) -> tuple[LiveRun, ...]:
    """Take over every run, remove what belongs to none, and return the runs; some are PARTIAL.

    To be called once, before anything is started.
    """
    with left_for_later(os.devnull):
        take_back_null_device()
    monitors = conmon.monitors(containers.directory)
    adopted = []
    for record in _records(containers, tools):
        directory = containers.directory / record.id
        run = _inspect(LiveRun(record=record, directory=directory), monitors, tools)
        if run.started and run.monitor is None:
            run.exit = read_exit(directory, run.process, _modified(directory / conmon.EXIT) or now)
            run.lost = run.exit is None
        containers.adopt(run)
        adopted.append(run)
    known = {run.record.id for run in adopted}
    unstarted = monitors.keys() - known
    _each("the monitor of ", unstarted, lambda one: conmon.end_unstarted(containers.directory / one))
    _sweep(containers, tools, known, {run.record.cgroup for run in adopted})
    return tuple(adopted)


def _records(containers: Containers, tools: Tools) -> Iterator[RunRecord]:
    """Yield the record of every run, or the copy in its private directory if its own was removed."""
    private = tools.root_filesystems.private
    seen = set()
    for directory in sorted(containers.directory.iterdir()):
        record = _read(directory) or _read(private(directory.name))
        if record is not None:
            seen.add(record.id)
            yield record
            continue
        # Nothing is made before the record is written.
        with left_for_later(str(directory)):
            remove_tree(directory)
    for identifier in sorted(tools.root_filesystems.runs() - seen):
        record = _read(private(identifier))
        # Nothing of an earlier boot runs.
        if record is not None and tools.cgroups.processes(record.cgroup):
            yield record


def _read(directory: Path) -> RunRecord | None:
    return read_file(directory / RECORD, RunRecord)


def _inspect(run: LiveRun, monitors: Mapping[str, int], tools: Tools) -> LiveRun:
    """Find out whether a run began or ended, and open its processes."""
    directory, record = run.directory, run.record
    run.stopping = read_file(directory / STOPPING, Stopping)
    run.pid = noted = read_number(directory / conmon.CONTAINER_PID)
    run.process = _open_member(noted, record.cgroup, tools.cgroups) if noted is not None else None
    if run.process is None and (found := _main_process(record.cgroup, tools.cgroups)) is not None:
        run.pid, run.process = found, _open_member(found, record.cgroup, tools.cgroups)
    monitor = monitors.get(record.id)
    run.monitor = pidfd.open_process(monitor) if monitor is not None else None
    began = tools.crun.began(record.id)
    ended = _modified(directory / conmon.EXIT) is not None
    run.started = ended or (run.process is not None if began is None else began)
    if not run.started and run.monitor is not None:
        # So that it cannot begin later.
        conmon.kill_monitor(run.monitor)
    return run


def _open_member(pid: int, cgroup: str, cgroups: CgroupHost) -> int | None:
    """Return a pidfd of a process if it is in a control group, or below it."""
    process = pidfd.open_process(pid)
    # Where the agent sees only part of the machine's groups, as in a container, the paths in a process's own
    # list differ from those of the groups' files; these are many, so they are read last.
    if process is not None and not (_is_member(pid, cgroup) or pid in cgroups.processes(cgroup)):
        os.close(process)
        return None
    return process


def _is_member(pid: int, cgroup: str) -> bool:
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return False
    paths = [os.fsdecode(line.split(b":", 2)[2]) for line in lines]
    return any(path == cgroup or path.startswith(f"{cgroup}/") for path in paths)


def _main_process(cgroup: str, cgroups: CgroupHost) -> int | None:
    """Return the main process of a container: the one that is number 1 of its PID namespace."""
    # A process has one more number for each namespace inside the container's own.
    return next((pid for pid in sorted(cgroups.processes(cgroup)) if pidfd.numbers(pid)[1:] == (1,)), None)


def _sweep(containers: Containers, tools: Tools, known: set[str], groups: set[str]) -> None:
    """Remove what belongs to no run: our run_dir may have been emptied while containers ran."""
    tools.crun.sweep(at_rest=True)
    _each("container ", tools.crun.runs() - known, tools.crun.delete)
    with left_for_later("control groups"):
        busy = tools.cgroups.sweep(groups)
        for path in busy:
            for pid in tools.cgroups.processes(path):
                _end(pid, path, tools.cgroups)
        if busy:
            tools.cgroups.sweep(groups)
    _each("what crun knows of ", tools.crun.runs() - known, tools.crun.forget)
    overlays = tools.root_filesystems.runs() - known
    _each("the root file system of ", overlays, tools.root_filesystems.remove)
    with left_for_later("secrets of runs that are gone"):
        tools.contents.sweep(known)
    with left_for_later(f"mounts below {containers.directory}"):
        mounts.unmount_tree(containers.directory)


def _each(what: str, identifiers: Collection[str], remove: Callable[[str], None]) -> None:
    for identifier in identifiers:
        with left_for_later(f"{what}{identifier}"):
            remove(identifier)


def _end(pid: int, cgroup: str, cgroups: CgroupHost) -> None:
    process = _open_member(pid, cgroup, cgroups)
    if process is not None:
        pidfd.send_signal(process, signal.SIGKILL)
        pidfd.wait(process, conmon.ENDS_WITHIN_MS)
        os.close(process)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
