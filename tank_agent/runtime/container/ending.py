"""How a run ended, from what its monitor wrote and what the kernel still knows."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tank_agent.journal.records import Exit
from tank_agent.linux import pidfd
from tank_agent.runtime.container import conmon, instance

# conmon writes of an end, and of what led to it, within moments, in seconds.
_SAME_MOMENT = 2.0


def read_exit(directory: Path, process: int | None, now: float) -> Exit | None:
    """Return how a run ended as conmon wrote it down; None if it did not.

    conmon writes 128 + n both for signal n and for that exit code; where the kernel still knows, it decides.

    Args:
        directory: the run's.
        process: a pidfd of its main process; None if it was gone before anybody held it.
        now: Unix time.
    """
    code = instance.read_number(directory / conmon.EXIT)
    if code is None:
        return None
    status = pidfd.wait_status(process) if process is not None else None
    killed = os.WIFSIGNALED(status) if status is not None else 128 < code <= 128 + signal.SIGRTMAX
    if not killed:
        # A shell whose child was killed often ends because of it, with a code of its own.
        return Exit(at=now, code=code, oom=code != 0 and _out_of_memory_at_end(directory))
    number = os.WTERMSIG(status) if status is not None else code - 128
    oom = number == signal.SIGKILL and _out_of_memory_at_end(directory)
    return Exit(at=now, signal=number, oom=oom)


def unknown_exit(process: int | None, now: float) -> Exit:
    """Return what can be said of the end of a run whose monitor was killed before."""
    status = pidfd.wait_status(process) if process is not None else None
    reason = "its monitor (conmon) was killed, so its output and exit code are lost"
    if status is None:
        return Exit(at=now, reason=reason)
    if os.WIFSIGNALED(status):
        return Exit(at=now, signal=os.WTERMSIG(status), reason=reason)
    return Exit(at=now, code=os.WEXITSTATUS(status), reason=reason)


def _out_of_memory_at_end(directory: Path) -> bool:
    """Return whether memory ran out when the run ended: conmon also writes the file when it then went on."""
    try:
        ended = (directory / conmon.EXIT).stat().st_mtime
        return (directory / conmon.OUT_OF_MEMORY).stat().st_mtime > ended - _SAME_MOMENT
    except FileNotFoundError:
        return False
