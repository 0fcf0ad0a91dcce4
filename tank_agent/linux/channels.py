"""Pipes, sockets and terminals: calls of the kernel that Python lacks."""

from __future__ import annotations

import _socket
import contextlib
import ctypes
import fcntl
import os
import select
import struct
import termios

from tank_agent.linux.libc import call

# include/uapi/asm-generic/socket.h
_SO_PEERGROUPS = 59
# limits.h: NGROUPS_MAX
_GROUPS_MAX = 65536
_CREDENTIALS = struct.Struct("3i")


def open_pipes(count: int) -> list[tuple[int, int]]:
    """Make pipes (reader, writer): all of them, or none if one can't be made."""
    with contextlib.ExitStack() as stack:
        pipes = []
        for _ in range(count):
            pipes.append(os.pipe())
            for descriptor in pipes[-1]:
                stack.callback(os.close, descriptor)
        stack.pop_all()
    return pipes


def enlarge_pipe(pipe: int, size: int) -> None:
    """Make a pipe hold more, which saves switches between processes, unless the kernel refuses.

    All pipes of a user share a limit (pipe-user-pages-soft), and each container's output takes some of it.
    """
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)


def readable(descriptor: int, timeout: float) -> bool:
    """Wait until a descriptor can be read, as a pidfd can when its process ended; False after `timeout` s."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def unread(pipe: int) -> bool:
    """Return whether a pipe holds bytes that its reader has not taken."""
    return any(fcntl.ioctl(pipe, termios.FIONREAD, bytes(struct.calcsize("i"))))


def resize_terminal(terminal: int, rows: int, columns: int) -> None:
    """Set the size of a terminal; the kernel sends SIGWINCH to the programs that run there (TIOCSWINSZ)."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def peer_credentials(connection: _socket.socket) -> tuple[int, int, int]:
    """Return PID, user and group of the process that connected to a unix socket (SO_PEERCRED in unix(7))."""
    raw = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    # The numbers are unsigned: -1 is how an unknown one prints.
    return pid, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF


def peer_groups(connection: _socket.socket) -> frozenset[int]:
    """Return the supplementary groups that the process had when it connected to a unix socket."""
    # Through libc, since Python's getsockopt takes no more than 1024 bytes.
    buffer = (ctypes.c_uint32 * _GROUPS_MAX)()
    size = ctypes.c_uint32(ctypes.sizeof(buffer))
    call("getsockopt", connection.fileno(), _socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(size))
    return frozenset(buffer[: size.value // ctypes.sizeof(ctypes.c_uint32)])
