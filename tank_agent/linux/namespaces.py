"""Make, pin and enter namespaces of networks, mounts and users, in threads of their own.

A namespace belongs to a thread (setns(2), unshare(2)), so a thread that changes its own does nothing else
afterwards. A socket keeps the namespace in which it was made, so most work needs the thread only for that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from tank_agent.linux import fault
from tank_agent.linux.channels import readable
from tank_agent.linux.libc import CLONE_FS, CLONE_NEWNET, CLONE_NEWNS, call
from tank_agent.linux.mounts import MS_BIND, MS_PRIVATE, MS_REC, mount, unmount_all
from tank_agent.linux.paths import Closing, Ignoring
from tank_agent.linux.pidfd import process_id
from tank_agent.linux.process import ENVIRONMENT, OWN_UMASK
from tank_agent.linux.roots import find_root, open_directory

T = TypeVar("T")

# linux/nsfs.h, linux/sockios.h, linux/if.h
NS_GET_NSTYPE = 0xB703
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1

_SYSCTLS = Path("/proc/sys/net")
_UNSHARE = "/usr/bin/unshare"
_DEADLINE = 10.0


def in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread that ends with it, and return its result or raise its error."""
    end: Future[T] = Future()

    def target() -> None:
        try:
            end.set_result(function())
        except BaseException as error:
            end.set_exception(error)

    thread = threading.Thread(target=target, name="namespace", daemon=True)
    thread.start()
    thread.join()
    return end.result()


def leave_mounts() -> None:
    """Give the calling thread a mount namespace whose changes nobody else sees, and which ends with it."""
    call("unshare", CLONE_NEWNS)
    mount("none", "/", "none", MS_REC | MS_PRIVATE)


def leave_network() -> None:
    """Give the calling thread a network namespace, which ends with it if nothing pins it."""
    call("unshare", CLONE_NEWNET)


def create_network_namespace(
    path: Path, sysctls: Mapping[str, str] | None = None, prepare: Callable[[], None] | None = None
) -> None:
    """Make a network namespace with its loopback up, and pin it at `path`, whose directory exists.

    Only a complete namespace is pinned; a pin that an interrupted call left is used or replaced. `sysctls`
    are values to write, by their paths below /proc/sys/net. `prepare` runs inside at last; its error is ours.
    """

    def create() -> None:
        leave_network()
        raise_link("lo")
        for name, value in (sysctls or {}).items():
            set_network_sysctl(name, value)
        if prepare is not None:
            prepare()
        fault.point("network:namespace-made")
        _pin("/proc/thread-self/ns/net", path)

    in_thread(create)


def pin_network_namespace(pid: int, path: Path) -> None:
    """Pin the network namespace of a process at `path`; FileNotFoundError if it does not run."""
    _pin(f"/proc/{pid}/ns/net", path)


def unpin(path: Path) -> None:
    """Remove a pin, if there is one. The namespace ends with the last process and socket in it."""
    unmount_all(path)
    fault.point("network:namespace-unmounted")
    path.unlink(missing_ok=True)


def network_namespace_inode(path: Path) -> int | None:
    """Return the inode number that names the namespace pinned at `path`; None if none is pinned there."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    # ENOTTY: the plain file under a mount that was never made, or that somebody unmounted.
    with Ignoring(errno.ENOENT, errno.ENOTTY), Closing(os.open(path, flags)) as fd:
        if fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET:
            return os.fstat(fd).st_ino
    return None


def in_network_namespace(path: Path, function: Callable[[], T]) -> T:
    """Run `function` in the namespace pinned at `path`, else OSError, as `in_thread` does."""

    def enter() -> T:
        with Closing(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as fd:
            call("setns", fd, CLONE_NEWNET, path=path)
        return function()

    return in_thread(enter)


class StrandedThread(RuntimeError):
    """A thread could not go back to its own network namespace: it must end, or it keeps another alive."""


class SocketMaker:
    """Makes TCP sockets in other network namespaces, for one thread, in some 7 µs each.

    The thread that made it must be the one that uses it. It is in its own namespace before and after each
    call, so it keeps no other alive; the sockets do until they are closed.
    """

    def __init__(self) -> None:
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def make(self, family: socket.AddressFamily, path: Path | None) -> socket.socket:
        """Return a non-blocking socket in the namespace pinned at `path`, else OSError; None: in its own.

        Raises:
            StrandedThread: the kernel did not let the thread go back.
        """
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        if path is None:
            return socket.socket(family, kind)
        with Closing(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)) as fd:
            call("setns", fd, CLONE_NEWNET, path=path)
        made: socket.socket | None = None
        try:
            made = socket.socket(family, kind)
        finally:
            self._return(made)
        return made

    def close(self) -> None:
        """Close its descriptor."""
        os.close(self._own)

    def _return(self, made: socket.socket | None) -> None:
        for pause in (0.01, 0.1, 1.0):
            try:
                call("setns", self._own, CLONE_NEWNET)
                return
            except OSError:
                # The kernel may be short of memory for a moment.
                time.sleep(pause)
        if made is not None:
            made.close()
        raise StrandedThread("setns failed")


def is_link_up(control: socket.socket, name: str) -> bool:
    """Return whether an interface of a socket's namespace is up; False if it or the socket is not there."""
    # ValueError: the socket is closed.
    with contextlib.suppress(OSError, ValueError):
        return bool(_link_flags(control, name) & IFF_UP)
    return False


def raise_link(name: str) -> None:
    """Set an interface of the calling thread's namespace up (netdevice(7)), or OSError with its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            flags = _link_flags(control, name) | IFF_UP
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags))
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from error


def _link_flags(control: socket.socket, name: str) -> int:
    answer = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
    return int(struct.unpack_from("H", answer, 16)[0])


def read_network_sysctl(name: str) -> str:
    """Return a setting of the calling thread's namespace; arguments and errors as of `set_network_sysctl`."""
    return (_SYSCTLS / name).read_text(encoding="ascii").strip()


def set_network_sysctl(name: str, value: str) -> None:
    """Write a setting of the calling thread's namespace, by its path below /proc/sys/net (proc_sys_net(5)).

    FileNotFoundError where the kernel lacks the protocol or there is no such interface.
    """
    (_SYSCTLS / name).write_text(value, encoding="ascii")


def _pin(source: str, path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o444))
    fault.point("network:pin-created")
    mount(source, path, "none", MS_BIND)
    fault.point("network:namespace-pinned")


def in_mount_namespace(process: int, function: Callable[[int], T], root: tuple[int, int] | None = None) -> T:
    """Run `function` in the mount namespace of a process, as `in_thread` does.

    It gets a descriptor of the root there, and must look up every path from it, since absolute paths lead to
    files of that process. So it may import nothing either. Its working directory is its own.

    Args:
        process: a pidfd; ESRCH if the process has ended.
        root: device and inode of the wanted root, or ESTALE; None for the top of the namespace.
    """

    def enter() -> T:
        with ExitStack() as stack:
            own = open_directory(f"/proc/{process_id(process) or 0}/root", stack) if root else -1
            call("unshare", CLONE_FS)
            call("setns", process, CLONE_NEWNS)
            top = open_directory("/", stack)
            return function(find_root(root, top, own, stack) if root else top)

    return in_thread(enter)


class IdRange(Struct, frozen=True):
    """The user and group ids of the host, from `base` on, that stand for 0 to `size` - 1 in a container."""

    base: int
    size: int


class IdMapping(Struct, frozen=True):
    """A range, and the descriptor of a user namespace that maps ids by it, for mount_setattr(2)."""

    range: IdRange
    descriptor: int


@contextlib.contextmanager
def id_mapping(ids: IdRange) -> Iterator[IdMapping]:
    """Make a user namespace of a range for a while, in some 5 ms; OSError if the kernel makes no more.

    Only a process without other threads can enter a new user namespace, so a child does it; once it is
    inside, it sends back what it reads.
    """
    child = subprocess.Popen(
        [_UNSHARE, "--user", "--", "/bin/cat"],
        env=dict(ENVIRONMENT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        umask=OWN_UMASK,
    )
    # If we are killed, the child ends because its input does.
    with child:
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(b".")
            if not readable(child.stdout.fileno(), _DEADLINE) or child.stdout.read(1) != b".":
                raise OSError(errno.ENOSPC, "no user namespace can be made")
            process = Path("/proc") / str(child.pid)
            for name in ("uid_map", "gid_map"):
                (process / name).write_text(f"0 {ids.base} {ids.size}")
            descriptor = os.open(process / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            child.kill()
    with Closing(descriptor):
        yield IdMapping(ids, descriptor)
