"""Mount namespaces of other processes: looked into, mounted into, and watched for changes.

A namespace belongs to a thread (setns(2)), and so does what "/" is in it. So the thread that enters one never
does anything else afterwards.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from tank_agent.linux.libc import call
from tank_agent.linux.namespaces import in_thread
from tank_agent.linux.pidfd import process_id

T = TypeVar("T")

# linux/sched.h
CLONE_FS = 0x200
CLONE_NEWNS = 0x20000


def in_mount_namespace(process: int, function: Callable[[int], T], root: tuple[int, int] | None = None) -> T:
    """Run `function` in the mount namespace of a process and return its result.

    It gets a descriptor of the root there, and must look up every path from it: our own paths lead to what is
    the other's. So it may import nothing either. Its working directory is its own.

    Args:
        process: a pidfd.
        function: see above.
        root: device and inode of the root that is meant; None for the top of the namespace.

    Raises:
        OSError: ESRCH if the process has ended, ESTALE if there is no such root.
        Exception: whatever `function` raises.
    """

    def enter() -> T:
        with ExitStack() as stack:
            own = _open_directory(f"/proc/{process_id(process) or 0}/root", stack) if root else None
            call("unshare", CLONE_FS)
            call("setns", process, CLONE_NEWNS)
            top = _open_directory("/", stack)
            return function(top if root is None else _find_root(root, top, own, stack))

    return in_thread(enter)


def _find_root(root: tuple[int, int], top: int, own: int | None, stack: ExitStack) -> int:
    """Return a descriptor of the directory that is a root.

    That is the top of the namespace, unless we are in a chroot: a program that is made below one, and gets
    another root there (pivot_root(2)), leaves the machine's own at the top. Then it is where the process is,
    or, if that went by chroot(2) itself, a directory above it.
    """
    found: int | None = top
    if own is not None and _identity(top) != root:
        found = own
        while found is not None and _identity(found) != root:
            above = _open_directory("..", stack, found)
            found = above if _identity(above) != _identity(found) else None
    if found is None or _identity(found) != root:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/")
    return found


def _open_directory(path: str, stack: ExitStack, parent: int | None = None) -> int:
    found = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    stack.callback(os.close, found)
    return found


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


class MountWatch:
    """Tells in which processes' namespaces something was mounted or unmounted; may be used by many threads.

    One system call asks for all of them: after a change, /proc/PID/mountinfo polls as an error once
    (proc_pid_mounts(5)). An open one holds the namespace: it is to be forgotten when its process has ended.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}

    def watch(self, name: str, pid: int) -> None:
        """Begin to watch a process's namespace under a name; nothing happens if the process has ended.

        Raises:
            OSError: there are no more descriptors.
        """
        try:
            file = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            # The last: it waits to be reaped, and has no namespaces any more.
            if error.errno in (errno.ENOENT, errno.ESRCH, errno.EINVAL):
                return
            raise
        self.forget(name)
        with self._lock:
            self._files[name] = file
            self._epoll.register(file, select.EPOLLPRI)

    def forget(self, name: str) -> None:
        """Stop watching; nothing happens if the name is not watched."""
        with self._lock:
            file = self._files.pop(name, None)
            if file is not None:
                self._epoll.unregister(file)
                os.close(file)

    def changed(self) -> frozenset[str]:
        """Return the names whose namespaces changed since the last call."""
        with self._lock:
            if not self._files:
                return frozenset()
            ready = {file for file, _ in self._epoll.poll(0, len(self._files))}
            return frozenset(name for name, file in self._files.items() if file in ready)

    def close(self) -> None:
        """Stop watching all."""
        with self._lock:
            for file in self._files.values():
                os.close(file)
            self._files.clear()
            self._epoll.close()
