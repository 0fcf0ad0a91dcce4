"""What a former agent left: runs to take over, and remains to remove.

A process is known by what the kernel says of it now (its cgroup, its arguments), never by a number in a
file alone, since numbers are used again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from tank_agent.linux import mounts, pidfd
from tank_agent.linux.leftovers import left_for_later
from tank_agent.linux.trees import remove_tree
from tank_agent.runtime import conmon, instance
from tank_agent.runtime.cgroup import CgroupHost
from tank_agent.runtime.containers import Containers, Tools
from tank_agent.runtime.crun import Listed
from tank_agent.runtime.ending import read_exit
from tank_agent.runtime.live import Live
from tank_agent.runtime.user_namespace import take_back_null_device

_STARTED = frozenset({"running", "paused", "stopped"})
_MONITOR_DEADLINE_MS = 3000


def adopt_all(containers: Containers, tools: Tools, now: float) -> tuple[Live, ...]:
    """Take over every run in the runs' directory, sweep what belongs to none, and return the runs.

    To be called once, before anything is started. Runs that never began are returned as PARTIAL, for the
    loop to remove.
    """
    take_back_null_device()
    listed = tools.crun.list()
    monitors = _monitors(containers.directory)
    adopted = []
    for directory in sorted(containers.directory.iterdir()):
        record = instance.read_record(directory)
        if record is None:
            # Nothing is made before the record is written.
            with left_for_later(str(directory)):
                remove_tree(directory)
            continue
        run = _inspect(Live(record=record, directory=directory), listed, monitors, tools.cgroups)
        if run.started and run.monitor is None:
            run.exit = read_exit(directory, run.process, _modified(directory / conmon.EXIT) or now)
            run.lost = run.exit is None
        containers.adopt(run)
        adopted.append(run)
    known = {run.record.id for run in adopted}
    _sweep(containers, tools, listed, known, {run.record.cgroup for run in adopted})
    return tuple(adopted)


def _inspect(
    run: Live, listed: Mapping[str, Listed], monitors: Mapping[str, int], cgroups: CgroupHost
) -> Live:
    """Find out how far a run is, and open its processes."""
    directory, record = run.directory, run.record
    run.stopping = instance.read_stopping(directory)
    entry = listed.get(record.id)
    run.pid = instance.read_number(directory / conmon.CONTAINER_PID) or (entry.pid if entry else None)
    if run.pid is not None:
        run.process = pidfd.open_process(run.pid)
        if run.process is not None and run.pid not in cgroups.processes(record.cgroup):
            os.close(run.process)
            run.process = None
    monitor = monitors.get(record.id)
    run.monitor = pidfd.open_process(monitor) if monitor is not None else None
    ended = _modified(directory / conmon.EXIT) is not None
    run.started = ended or (entry is not None and entry.status in _STARTED)
    if not run.started and run.monitor is not None:
        # Its crun, should it still be at work, dies with it (PR_SET_PDEATHSIG): nothing appears behind us.
        pidfd.send_signal(run.monitor, signal.SIGKILL)
        pidfd.wait(run.monitor, _MONITOR_DEADLINE_MS)
    return run


def _sweep(
    containers: Containers, tools: Tools, listed: Mapping[str, Listed], known: set[str], groups: set[str]
) -> None:
    """Remove what no run accounts for: our run_dir may have been emptied while containers ran."""
    for identifier in set(listed) - known:
        with left_for_later(f"container {identifier}"):
            tools.crun.delete(identifier)
    busy = tools.cgroups.sweep(groups)
    for path in busy:
        for pid in tools.cgroups.processes(path):
            _end(pid)
    if busy:
        tools.cgroups.sweep(groups)
    for identifier in tools.root_filesystems.instances() - known:
        with left_for_later(f"the root file system of {identifier}"):
            tools.root_filesystems.remove(identifier)
    with left_for_later(f"mounts below {containers.directory}"):
        mounts.unmount_tree(containers.directory)


def _end(pid: int) -> None:
    process = pidfd.open_process(pid)
    if process is not None:
        pidfd.send_signal(process, signal.SIGKILL)
        pidfd.wait(process, _MONITOR_DEADLINE_MS)
        os.close(process)


def _monitors(directory: Path) -> dict[str, int]:
    """Return the conmon processes of our runs, by instance id, from their own arguments.

    Only root's: any user may start a program with these arguments.
    """
    found = {}
    prefix = f"{directory}/"
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and _is_roots(entry):
            arguments = pidfd.command_line(int(entry.name))
            if len(arguments) > 2 and Path(arguments[0]).name == "conmon" and "-b" in arguments:
                bundle = arguments[arguments.index("-b") + 1]
                if bundle.startswith(prefix):
                    found[bundle.removeprefix(prefix)] = int(entry.name)
    return found


def _is_roots(process: os.DirEntry[str]) -> bool:
    try:
        return process.stat().st_uid == 0
    except FileNotFoundError:
        return False


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
