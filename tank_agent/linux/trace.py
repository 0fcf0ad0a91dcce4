"""Hold a program at its first instruction (ptrace(2)), before it does anything.

All calls for one process must come from one thread, its tracer; when that thread ends, or the whole agent,
the kernel releases the processes that it held.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

from tank_agent.linux.libc import call

# sys/ptrace.h
_CONT, _DETACH, _SETOPTIONS, _GETEVENTMSG, _SEIZE = 7, 17, 0x4200, 0x4201, 0x4206
_EVENT_FORK, _EVENT_VFORK, _EVENT_CLONE, _EVENT_EXEC, _EVENT_STOP = 1, 2, 3, 4, 128
_FORKS = (_EVENT_FORK, _EVENT_VFORK, _EVENT_CLONE)
_FOLLOW = sum(1 << event for event in _FORKS)
_HOLD = _FOLLOW | 1 << _EVENT_EXEC
# No descriptor becomes readable when a traced process stops.
_LOOK = 0.0005


def seize(pid: int) -> bool:
    """Begin to trace a process and its later forks; False where that is not permitted, or it has ended."""
    with contextlib.suppress(OSError):
        call("ptrace", _SEIZE, pid, 0, _FOLLOW)
        return True
    return False


def run_to_exec(root: int, deadline: float) -> int | None:
    """Follow a seized child, from fork to fork, until the newest process runs a program.

    Return that process, held at the program's first instruction, or None if it or `root` ended before;
    TimeoutError if neither happened until `deadline`, a time of `time.monotonic`.
    """
    pid = root
    while (stop := _wait(pid, root, deadline)) is not None:
        event, number = stop >> 8, stop & 0xFF
        if event == _EVENT_EXEC:
            return pid
        if event in _FORKS:
            message = ctypes.c_ulong()
            if _request(_GETEVENTMSG, pid, ctypes.byref(message)):
                # A root that is killed in this moment is for its own parent to wait for, as always.
                if not _request(_DETACH, pid, 0) and pid != root:
                    os.waitpid(pid, 0)
                pid = message.value
        elif event == _EVENT_STOP:
            _request(_SETOPTIONS, pid, _HOLD)
            _request(_CONT, pid, 0)
        else:
            _request(_CONT, pid, number)
    return None


def release(pid: int) -> None:
    """Let a held process go, and trace it no more."""
    if not _request(_DETACH, pid, 0):
        # Its parent hears of its end only when its tracer has.
        os.waitpid(pid, 0)


def _request(request: int, pid: int, data: object) -> bool:
    """Ask something of a process that is held; False if it was killed meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        call("ptrace", request, pid, 0, data)
        return True
    return False


def _wait(pid: int, root: int, deadline: float) -> int | None:
    """Wait for a process to stop, and return why; None if it ended."""
    options = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    while (found := os.waitid(os.P_PID, pid, options)) is None:
        if time.monotonic() > deadline:
            if pid != root:
                os.kill(pid, signal.SIGKILL)
            raise TimeoutError
        time.sleep(_LOOK)
    if found.si_code in (os.CLD_TRAPPED, os.CLD_STOPPED):
        return found.si_status
    if pid != root:
        os.waitpid(pid, 0)
    return None
