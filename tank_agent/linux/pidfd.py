"""Processes by descriptor (pidfd_open(2)): unlike a number, it never names another process later."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from tank_agent.linux.channels import readable
from tank_agent.linux.paths import Closing, Ignoring

_AT_ONCE = 64
# linux/pidfd.h: PIDFD_GET_INFO is _IOWR(0xFF, 11, struct pidfd_info), which has 64 bytes at first.
_PIDFD_GET_INFO, _PIDFD_INFO_EXIT = 0xC040FF0B, 1 << 3
_INFO = struct.Struct("=QQ11Ii")


def open_process(pid: int) -> int | None:
    """Return a pidfd, or None if there is no such process."""
    # EINVAL: the number belongs to a thread, so the process that we meant is gone.
    with Ignoring(errno.ESRCH, errno.EINVAL):
        return os.pidfd_open(pid)
    return None


def ended(pidfd: int) -> bool:
    """Return whether the process has ended (a zombie counts as ended)."""
    return readable(pidfd, 0)


def which_ended(pidfds: Iterable[int]) -> frozenset[int]:
    """Return those whose processes have ended, by one system call for all."""
    poller = select.poll()
    for descriptor in pidfds:
        poller.register(descriptor, select.POLLIN)
    return frozenset(descriptor for descriptor, event in poller.poll(0) if event & select.POLLIN)


def send_signal(pidfd: int, number: int) -> bool:
    """Send a signal; False if the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
        return True
    return False


def signal_all(members: Callable[[], Collection[int]], number: int) -> None:
    """Send a signal to every process of a set that changes, such as a control group's; none to any other.

    `members` is asked again before any is sent: once a descriptor holds a process, its number cannot become
    another's.
    """
    found = sorted(members())
    # A container may have more processes than we may have descriptors.
    for first in range(0, len(found), _AT_ONCE):
        with contextlib.ExitStack() as stack:
            held: dict[int, int] = {}
            for pid in found[first : first + _AT_ONCE]:
                if (descriptor := open_process(pid)) is not None:
                    held[pid] = stack.enter_context(Closing(descriptor))
            for pid in held.keys() & set(members()):
                send_signal(held[pid], number)


def kill_tree(root: int) -> None:
    """Kill the process of a pidfd, and all that it started, as far as the kernel still knows its children.

    Each is stopped before its children are listed, so that it makes no more meanwhile.
    """
    held: list[int] = []
    waiting = [pid] if (pid := process_id(root)) else []
    try:
        while waiting:
            pid = waiting.pop()
            if (descriptor := open_process(pid)) is not None:
                held.append(descriptor)
                if send_signal(descriptor, signal.SIGSTOP):
                    waiting += _children(pid)
    finally:
        for descriptor in held:
            send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)


def process_id(pidfd: int) -> int | None:
    """Return the number of the process that a pidfd stands for; None if it has been reaped."""
    fields = Path(f"/proc/self/fdinfo/{pidfd}").read_text().split()
    number = int(fields[fields.index("Pid:") + 1])
    return number if number > 0 else None


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def numbers(pid: int) -> tuple[int, ...]:
    """Return a process's numbers in every PID namespace that it is in, ours first; empty if it is gone."""
    return _numbers(pid, b"NSpid:")


def session_numbers(pid: int) -> tuple[int, ...]:
    """Return the numbers of a process's session as `numbers` does; 0: it began outside."""
    return _numbers(pid, b"NSsid:")


def _numbers(pid: int, key: bytes) -> tuple[int, ...]:
    # Its name is there, too, which it chose itself: any bytes but a newline.
    lines = _read(pid, "status").split(b"\n")
    return next((tuple(map(int, line.split()[1:])) for line in lines if line.startswith(key)), ())


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot (proc_pid_stat(5), field 22); None if gone."""
    # The command name in parentheses may itself hold spaces and parentheses.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[19]) if fields else None


def command_line(pid: int) -> tuple[str, ...]:
    """Return a process's arguments (proc_pid_cmdline(5)); empty if it is gone or a zombie."""
    return tuple(os.fsdecode(part) for part in _read(pid, "cmdline").split(b"\0")[:-1])


def _read(pid: int, name: str) -> bytes:
    """Return a file of a process in /proc; empty if it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def wait_status(pidfd: int) -> int | None:
    """Return the wait status (wait(2)) of a process that ended and was reaped by anybody, through its pidfd.

    None where it cannot be known: the process still runs or is a zombie, or the kernel is older than 6.15.
    """
    buffer = bytearray(_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    fields = _INFO.unpack(buffer)
    return int(fields[-1]) if fields[0] & _PIDFD_INFO_EXIT else None


def wait(pidfd: int, milliseconds: int) -> bool:
    """Block until a process has ended; False if it has not after so many milliseconds."""
    return readable(pidfd, milliseconds / 1000)
