"""Call the kernel through libc: arguments typed, errors raised as OSError with errno and path."""

from __future__ import annotations

import ctypes
import os

# linux/sched.h
CLONE_FS, CLONE_NEWNS = 0x200, 0x20000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x8000000, 0x10000000, 0x40000000
# linux/fcntl.h; AT_FDCWD also stands for the directory of a path that is absolute.
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000

_LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: object, path: str | os.PathLike[str] | None = None) -> int:
    """Call a libc function that returns -1 and sets errno on failure: an OSError with `path` as its filename.

    Integers are passed as C longs.
    """
    function = getattr(_LIBC, name)
    function.restype = ctypes.c_long
    result: int = function(*(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args))
    # Functions declared int come back zero-extended when read as long.
    if ctypes.c_int(result & 0xFFFFFFFF).value == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), os.fspath(path) if path is not None else None)
    return result


def syscall(number: int, *args: object, path: str | os.PathLike[str] | None = None) -> int:
    """Make a system call by its number (syscall(2)); errors as in `call`."""
    return call("syscall", number, *args, path=path)
