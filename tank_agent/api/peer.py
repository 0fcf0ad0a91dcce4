"""The process at the other end of a unix socket, and whether it may talk to the agent (unix(7))."""

from __future__ import annotations

import os
import socket

from msgspec import Struct

from tank_agent.linux.channels import peer_credentials, peer_groups


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
    pid, uid, gid = peer_credentials(connection)
    return Peer(pid=pid, uid=uid, gid=gid, groups=peer_groups(connection))
