"""Who is at the other end of a unix socket, and may they talk to the agent (unix(7))."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from msgspec import Struct

from tank_agent.linux.libc import call

# include/uapi/asm-generic/socket.h; Python has no name for it.
_SO_PEERGROUPS = 59
# NGROUPS_MAX (limits.h).
_GROUPS_MAX = 65536
_CREDENTIALS = struct.Struct("3i")


class Peer(Struct, frozen=True, kw_only=True):
    """The process that connected, with the credentials that it had at that moment."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()

    @property
    def owner(self) -> bool:
        """Return whether it is root, or the user that the agent itself runs as."""
        return self.uid in (0, os.geteuid())

    def member(self, group: int | None) -> bool:
        """Return whether it may use the API: the owner, or in the group of this number."""
        return self.owner or (group is not None and (group == self.gid or group in self.groups))


def peer_of(connection: socket.socket) -> Peer:
    """Return the credentials of the process that connected, as the kernel noted them.

    The kernel's list of groups is asked, not the group file: the socket's mode is checked against the same
    list, and a name service that hangs can't stop the API.

    Raises:
        OSError: the socket is not a connected unix socket.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    # The numbers are unsigned: -1 is how an unknown one prints.
    return Peer(pid=pid, uid=uid & 0xFFFFFFFF, gid=gid & 0xFFFFFFFF, groups=_groups(connection))


def _groups(connection: socket.socket) -> frozenset[int]:
    # Through libc, since Python's getsockopt takes no more than 1024 bytes.
    buffer = (ctypes.c_uint32 * _GROUPS_MAX)()
    size = ctypes.c_uint32(ctypes.sizeof(buffer))
    call("getsockopt", connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(size))
    return frozenset(buffer[: size.value // ctypes.sizeof(ctypes.c_uint32)])
