"""Network namespaces that outlive us: made and entered by short-lived threads, pinned by a bind mount.

A namespace belongs to a thread (setns(2), unshare(2)), so the thread that changes it never does anything else
afterwards. A socket keeps the namespace in which it was made, so most work needs the thread only for that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tank_agent.linux import fault
from tank_agent.linux.libc import call
from tank_agent.linux.mounts import MS_BIND, mount, unmount_all

T = TypeVar("T")

# linux/sched.h, linux/nsfs.h, linux/sockios.h, linux/if.h
CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

_SYSCTLS = Path("/proc/sys/net")


def create_network_namespace(path: Path, sysctls: Mapping[str, str] | None = None) -> None:
    """Make a network namespace with its loopback up, and pin it at `path`, whose directory exists.

    What an interrupted call left at `path` is used or replaced. Only a complete namespace is pinned.

    Args:
        sysctls: values to write, by their paths below /proc/sys/net.

    Raises:
        OSError: no privilege, or out of memory or of namespaces (user.max_net_namespaces).
    """

    def create() -> None:
        call("unshare", CLONE_NEWNET)
        raise_link("lo")
        for name, value in (sysctls or {}).items():
            set_network_sysctl(name, value)
        fault.point("network:namespace-made")
        _pin("/proc/thread-self/ns/net", path)

    in_thread(create)


def pin_network_namespace(pid: int, path: Path) -> None:
    """Pin the network namespace of a running process at `path`.

    Raises:
        OSError: FileNotFoundError if there is no such process.
    """
    _pin(f"/proc/{pid}/ns/net", path)


def unpin(path: Path) -> bool:
    """Remove a pin; False if there was none. The namespace ends with the last process and socket in it."""
    unmount_all(path)
    fault.point("network:namespace-unmounted")
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def network_namespace_inode(path: Path) -> int | None:
    """Return the inode number that names the namespace pinned at `path`; None if none is pinned there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        if fcntl.ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET:
            return None
        return os.fstat(fd).st_ino
    except OSError as error:
        # The plain file under a mount that was never made, or that somebody unmounted.
        if error.errno == errno.ENOTTY:
            return None
        raise
    finally:
        os.close(fd)


def in_network_namespace(path: Path, function: Callable[[], T]) -> T:
    """Run `function` in the namespace pinned at `path`, in a thread of its own, and return its result.

    Raises:
        OSError: nothing is pinned at `path`.
        Exception: whatever `function` raises.
    """

    def enter() -> T:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            call("setns", fd, CLONE_NEWNET, path=path)
        finally:
            os.close(fd)
        return function()

    return in_thread(enter)


def is_link_up(control: socket.socket, name: str) -> bool:
    """Return whether an interface of a socket's namespace is up; False if it is not there."""
    if control.fileno() < 0:
        return False
    try:
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
    except OSError:
        return False
    (flags,) = struct.unpack_from("H", answer, 16)
    return bool(flags & IFF_UP)


def raise_link(name: str) -> None:
    """Set an interface of the calling thread's namespace up (netdevice(7)).

    Raises:
        OSError: with the interface's name as filename.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sH14x", name.encode(), 0)
        try:
            (flags,) = struct.unpack_from("H", fcntl.ioctl(control, SIOCGIFFLAGS, request), 16)
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags | IFF_UP))
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from error


def set_network_sysctl(name: str, value: str) -> None:
    """Write a setting of the calling thread's namespace, by its path below /proc/sys/net (proc_sys_net(5)).

    Raises:
        OSError: FileNotFoundError where the kernel lacks the protocol or there is no such interface.
    """
    (_SYSCTLS / name).write_text(value, encoding="ascii")


def _pin(source: str, path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o444))
    fault.point("network:pin-created")
    mount(source, path, "none", MS_BIND)
    fault.point("network:namespace-pinned")


def in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread that ends with it, and return its result, or raise what it raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="namespace", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
