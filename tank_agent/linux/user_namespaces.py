"""Mappings of user and group ids, in the form in which mounts want them (user_namespaces(7))."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tank_agent.linux.process import ENVIRONMENT, OWN_UMASK

_UNSHARE = "/usr/bin/unshare"
_DEADLINE = 10.0


class IdRange(Struct, frozen=True):
    """The ids 0 to `size` - 1 of a container are those from `base` on of the host, of users and of groups."""

    base: int
    size: int


class IdMapping(Struct, frozen=True):
    """A range, and the descriptor of a user namespace that maps by it, as mount_setattr(2) wants it."""

    range: IdRange
    descriptor: int


@contextlib.contextmanager
def id_mapping(ids: IdRange) -> Iterator[IdMapping]:
    """Make a user namespace of a range for a while. Takes some 5 ms.

    Only a process without other threads can enter a new user namespace, so a child does it and waits to be
    read from: what it is given to write comes back once it is inside.

    Raises:
        OSError: the kernel makes none (user.max_user_namespaces).
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
    # Should we be killed, it ends with our end of its input.
    with child:
        try:
            _wait_until_inside(child)
            process = Path("/proc") / str(child.pid)
            for name in ("uid_map", "gid_map"):
                (process / name).write_text(f"0 {ids.base} {ids.size}")
            descriptor = os.open(process / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            child.kill()
    try:
        yield IdMapping(ids, descriptor)
    finally:
        os.close(descriptor)


def _wait_until_inside(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(b".")
    poller = select.poll()
    poller.register(child.stdout, select.POLLIN)
    if not poller.poll(_DEADLINE * 1000) or child.stdout.read(1) != b".":
        raise OSError(errno.ENOSPC, "no user namespace can be made")
