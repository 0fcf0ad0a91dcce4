"""Replace files as a whole, and make files and directories survive a power cut."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tank_agent.linux import fault
from tank_agent.linux.libc import AT_FDCWD, call
from tank_agent.linux.paths import Closing

# linux/fcntl.h, linux/fs.h
_RENAME_EXCHANGE = 2


def write(
    path: Path, data: bytes, *, durable: bool = False, mode: int = 0o600, fault_point: str = ""
) -> None:
    """Replace a file; a program that reads it meanwhile gets the former content or the new one.

    Args:
        durable: wait until the new content would survive a power cut.
        mode: the permissions of the new file; the umask does not count.
        fault_point: passed when the data is written, before the file is replaced.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        fault.point(fault_point)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def exchange(one: Path, other: Path) -> None:
    """Let two names of a file system change places in one step; OSError (EINVAL) where it can't."""
    names = os.fsencode(one), os.fsencode(other)
    call("renameat2", AT_FDCWD, names[0], AT_FDCWD, names[1], _RENAME_EXCHANGE, path=other)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    with Closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY)) as descriptor:
        os.fsync(descriptor)


def sync_file_system(path: Path) -> None:
    """Write out everything of the file system that holds a directory (syncfs(2)); this can take long."""
    with Closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY)) as descriptor:
        call("syncfs", descriptor, path=path)
