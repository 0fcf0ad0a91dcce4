"""Recognise errors that mean a shortage (disk, memory, descriptors, threads), not a bug."""

from __future__ import annotations

import errno
import os

from tank_agent.errors import Retry

_NO_ROOM = "make room there; `df -h` and `df -i` show which disk or memory file system is full"
_DESCRIPTORS = "raise LimitNOFILE of tank-agent.service, or fs.file-max"
_HINTS = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
    errno.ENOMEM: "free some memory; `dmesg` shows what was killed for want of it",
    errno.EAGAIN: "raise TasksMax of tank-agent.service, or kernel.pid_max: no further process can be made",
    errno.EROFS: "the disk is read-only; `dmesg` may say why",
    errno.EIO: "the disk has errors; `dmesg` may say more",
}


def shortage(error: Exception) -> Retry | None:
    """Return the shortage that an error means, with a hint; None if it means none."""
    number = _number(error)
    hint = _HINTS.get(number)
    return None if hint is None else Retry(f"{os.strerror(number)}{_place(error)}", hint=hint)


def _number(error: Exception) -> int:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return errno.EAGAIN
    return (error.errno or 0) if isinstance(error, OSError) else 0


def _place(error: Exception) -> str:
    name = error.filename if isinstance(error, OSError) else None
    # A descriptor's number helps nobody.
    return "" if name is None or isinstance(name, int) else f": {os.fsdecode(name)}"
