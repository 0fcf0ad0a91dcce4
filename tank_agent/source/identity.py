"""Which directory this is: a mark that stays the same while the directory lives, and is never used again."""

from __future__ import annotations

import os

from tank_agent.linux.paths import file_handle


def directory_identity(fd: int) -> bytes:
    """Return the identity of an open directory, as printable bytes.

    It is the file system's id and the directory's file handle (name_to_handle_at(2)), which has a generation:
    an inode number alone is given to the next directory as soon as the first is removed. The device number
    would differ after a reboot on many file systems; it is the fallback where there is no id.
    """
    status = os.fstat(fd)
    file_system = os.fstatvfs(fd).f_fsid
    where = f"fsid={file_system:x}" if file_system else f"dev={status.st_dev:x}"
    try:
        return f"{where} handle={file_handle(fd)}".encode()
    except OSError:
        return f"{where} inode={status.st_ino:x}".encode()
