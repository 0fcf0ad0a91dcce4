"""Confine a process before it reads input of strangers: its own file system, limits, no privileges.

The helpers that unpack layers and talk to git servers call this for themselves: first the file system, then
limits, at last privileges. One of them runs without third-party packages, so none is imported here.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
from collections.abc import Collection, Mapping
from itertools import count
from pathlib import Path

from tank_agent.linux import mounts
from tank_agent.linux.libc import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, call
from tank_agent.linux.mounts import mount, unmount
from tank_agent.linux.paths import Ignoring

# linux/prctl.h, linux/capability.h
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP = 0, 1, 3, 4, 27, 31

_PROGRAMS = ("bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
_READ_ONLY = mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV


class UnfitError(Exception):
    """The machine has to be set up differently; the message explains it."""


def leave_network_and_ipc() -> None:
    """Give this process a network without interfaces, and System V objects and message queues of its own."""
    call("unshare", CLONE_NEWNET | CLONE_NEWIPC)


def join(process: int, *, users: bool) -> None:
    """Enter the mount namespace of a pidfd's process, with `users` also its user namespace (setns(2))."""
    call("setns", process, CLONE_NEWNS | (CLONE_NEWUSER if users else 0))


def see_only(directory: str, name: str) -> None:
    """Leave this process no network, and of the file system the machine's programs, read-only, and `/name`.

    That is `directory`, in which nothing can be executed; it becomes the working directory. UnfitError if
    this is a chroot whose `/` is no mount point.
    """
    call("unshare", CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC)
    try:
        mount("none", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise UnfitError(
            "/ is not a mount point: before the chroot, mount --bind its directory on itself"
        ) from error
    tree = mounts.clone(directory, recursive=False)
    attributes = mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC
    mounts.restrict(tree, attributes, name=directory)
    mount("none", directory, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=0700,size=64k")
    os.chdir(directory)
    Path(name).mkdir()
    mounts.attach(tree, name, name=directory)
    os.close(tree)
    for program in _PROGRAMS:
        source = Path("/", program)
        if source.is_symlink():
            Path(program).symlink_to(source.readlink())
        elif source.exists():
            Path(program).mkdir()
            mount(f"/{program}", program, "", mounts.MS_BIND)
            mount("none", program, "", _READ_ONLY)
    _make_root()
    mount("none", "/", "", _READ_ONLY | mounts.MS_NOEXEC)
    os.chdir(f"/{name}")


def see_nothing_but(directory: str) -> None:
    """Make a mounted directory `/`, for children, too: pivot_root(2) moves all whose root the old one is."""
    os.chdir(directory)
    _make_root()
    os.chdir("/")


def write_only_to(given: Mapping[str, int], stage: Path, writable: Collection[str]) -> None:
    """Make all file systems read-only, except open directories whose names are in `writable`.

    They are mounted below `stage`, since git resolves paths through /proc/self/fd, and would then need every
    directory above.

    Args:
        given: open directories by the names that they get below `stage`.
        stage: a directory that the process can do without: a small file system is mounted over it.
    """
    trees = {name: mounts.clone(descriptor, recursive=False) for name, descriptor in given.items()}
    call("unshare", CLONE_NEWNS)
    # A slave: the host's later unmounts still reach us, so that we keep no container's file system busy.
    mount("none", "/", "none", mounts.MS_REC | mounts.MS_SLAVE)
    mounts.restrict("/", mounts.ATTR_RDONLY, recursive=True)
    mount("tmpfs", stage, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "size=4m,mode=0755")
    for name, tree in trees.items():
        (stage / name).mkdir()
        if name not in writable:
            mounts.restrict(tree, mounts.ATTR_RDONLY)
        mounts.attach(tree, stage / name)
        os.close(tree)


def _make_root() -> None:
    """Make the working directory `/`, and nothing else visible."""
    call("pivot_root", b".", b".")
    unmount(".")


def lower_limit(kind: int, value: int) -> None:
    """Bound a resource of this process and its children (setrlimit(2)); a lower limit stays."""
    _, hard = resource.getrlimit(kind)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, allowed))


def limit(*, memory: int, cpu_seconds: int, file_size: int, descriptors: int) -> None:
    """Bound what this process and its children may use; there is no core dump."""
    lower_limit(resource.RLIMIT_AS, memory)
    lower_limit(resource.RLIMIT_CORE, 0)
    lower_limit(resource.RLIMIT_CPU, cpu_seconds)
    lower_limit(resource.RLIMIT_FSIZE, file_size)
    lower_limit(resource.RLIMIT_NOFILE, descriptors)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; a change of user undoes it."""
    call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def become(user: int, group: int) -> None:
    """Become another user, with that user's group and no other, for good."""
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def keep_capabilities(kept: Collection[int]) -> None:
    """Give up all capabilities but those below 32 that are named, for programs that are run, too."""
    # The kernel refuses the first number that it has no capability for.
    with Ignoring(errno.EINVAL):
        for capability in count():
            if capability not in kept:
                call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    low = sum(1 << number for number in kept)
    # Effective, permitted and inheritable, twice: of the first 32 capabilities, then of the others.
    sets = struct.pack("=6I", low, low, 0, 0, 0, 0)
    call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), sets)


def gain_no_privileges() -> None:
    """Keep set-user-ID and the like from giving privileges back (PR_SET_NO_NEW_PRIVS in prctl(2))."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
