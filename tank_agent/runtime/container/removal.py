"""Removal of everything that a run made, also where somebody else removed a part of it before."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from tank_agent.errors import Retry, TankError
from tank_agent.linux import mounts, pidfd
from tank_agent.linux.fault import point
from tank_agent.runtime.container import conmon
from tank_agent.runtime.container.launch import Tools
from tank_agent.runtime.run import LiveRun, remove_directory
from tank_agent.runtime.security import user_namespace

_log = structlog.get_logger()


def remove(run: LiveRun, tools: Tools, *, forget: Callable[[], None]) -> None:
    """Remove everything that a run made, except its log. Can be repeated after a crash.

    Args:
        forget: called once nothing of it runs or is mounted, before its directory is removed.

    Raises:
        Retry: something of it is still busy.
    """
    identifier, cgroup = run.record.id, run.record.cgroup
    if not run.started:
        # What makes it may hang, or still be at it.
        conmon.end_unstarted(run.directory)
    _delete(run, tools)
    point("runtime:deleted")
    _end_monitor(run)
    kill_group(cgroup, tools)
    detach(run.directory, tools)
    point("runtime:detached")
    tools.root_filesystems.remove(identifier)
    if not tools.cgroups.remove(cgroup):
        raise Retry(f"container {run.record.container}: its cgroup is still busy")
    point("runtime:cgroup-removed")
    forget()
    # A volume that were still mounted there would be removed with it.
    mounts.unmount_tree(run.directory)
    remove_directory(run.directory)
    point("runtime:removed")


def kill_group(cgroup: str, tools: Tools) -> None:
    """Send SIGKILL to every process in a control group."""
    pidfd.signal_all(lambda: tools.cgroups.processes(cgroup), signal.SIGKILL)


def detach(directory: Path, tools: Tools) -> None:
    """Detach what was mounted in a bundle from the host's tree; the container keeps it."""
    tools.volumes.detach(directory)
    tools.root_filesystems.detach(directory)
    user_namespace.detach(directory)


def _delete(run: LiveRun, tools: Tools) -> None:
    """Let crun remove a run; where it cannot, as when a file of its own is gone, do it in its place."""
    try:
        tools.crun.delete(run.record.id)
    except TankError as error:
        kill_group(run.record.cgroup, tools)
        tools.cgroups.thaw(run.record.cgroup)
        alive = run.process is not None and not pidfd.wait(run.process, conmon.ENDS_WITHIN_MS)
        if alive or tools.cgroups.processes(run.record.cgroup):
            raise
        _log.warning("crun cannot delete a container; removed it", id=run.record.id, error=str(error))
        tools.crun.forget(run.record.id)


def _end_monitor(run: LiveRun) -> None:
    """Wait until conmon has ended, as it does after its container; kill one that does not."""
    if run.monitor is not None and not pidfd.wait(run.monitor, conmon.ENDS_WITHIN_MS):
        pidfd.send_signal(run.monitor, signal.SIGKILL)
        pidfd.wait(run.monitor, conmon.ENDS_WITHIN_MS)
