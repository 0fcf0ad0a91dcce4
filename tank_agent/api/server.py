"""The API's server at the agent's socket, for root and one group: it listens, and stops within a deadline."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tank_agent.api import listener
from tank_agent.api.acceptor import BACKLOG, Acceptor
from tank_agent.api.door import Door, Timeouts
from tank_agent.api.request import Head, Peer, Refused, peer_of
from tank_agent.api.routes import ROUTES, Handler
from tank_agent.api.types import Call
from tank_agent.api.wire import DEFAULT_GROUP, JOIN_GROUP
from tank_agent.control.pods import Service


class ApiServer(Door):
    """Serves the agent's API at a socket, for root and one group.

    Args:
        service: the agent. Its methods are called from many threads at once.
        socket_path: of any length; its directory is made if need be.
        group: the group whose members may call, besides root; without such a group only root may.
        routes: the handlers of the calls; tests add their own.
        limit: connections at once; further ones are refused with 503.
    """

    name = "api"
    busy_hint = "try again, and look who holds them: `ss -xp | grep tank.sock`"
    half_open = True

    def __init__(
        self,
        service: Service,
        socket_path: Path,
        group: str = DEFAULT_GROUP,
        *,
        routes: Mapping[Call[Any], Handler] = ROUTES,
        timeouts: Timeouts | None = None,
        limit: int = 256,
    ) -> None:
        super().__init__(service, routes, timeouts or Timeouts(), limit)
        self.socket_path = socket_path
        self.group_name = group
        self.group: int | None = None
        self._acceptor: Acceptor | None = None
        self._identity: tuple[int, int] | None = None
        # The acceptors of removed sockets, which still have callers to serve.
        self._former: list[Acceptor] = []

    def start(self) -> None:
        """Listen, and answer from now on in threads of its own.

        Raises:
            Stalled: an agent answers at that socket already, or something else is in the way.
            OSError: the socket can't be made.
        """
        self.group = listener.group_id(self.group_name)
        bound = listener.listen(self.socket_path, self.group, BACKLOG)
        self._identity = listener.identity(self.socket_path)
        self._acceptor = Acceptor(bound, self)

    def check(self) -> bool:
        """Listen again if the socket is gone, or never could be made; return whether that was so.

        Raises:
            Stalled, OSError: as `start`.
        """
        if self._acceptor is not None and listener.identity(self.socket_path) == self._identity:
            return False
        former = self._acceptor
        self.start()
        self._former = [acceptor for acceptor in self._former if acceptor.busy()]
        if former is not None:
            former.close()
            former.socket.close()
            self._former.append(former)
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """Stop listening and end every connection: answers under way may finish within `timeout` seconds."""
        if self._acceptor is None:
            return
        deadline = time.monotonic() + timeout
        self.stopping.set()
        self._acceptor.close()
        listener.remove(self.socket_path, self._acceptor.socket)
        for acceptor in (self._acceptor, *self._former):
            acceptor.end_connections(deadline)
        self._acceptor = None

    def meet(self, connection: socket.socket) -> Peer:
        """Return the credentials of the caller's process."""
        return peer_of(connection)

    def admit(self, peer: Peer, head: Head) -> str:
        """Let root and the members of the group in."""
        self._check(peer, "member")
        return head.method

    def allow(self, peer: Peer, call: Call[Any]) -> None:
        """Keep the calls for root from the members of the group."""
        self._check(peer, call.access)

    def _check(self, peer: Peer, access: str) -> None:
        if peer.member(self.group) and (access == "member" or peer.owner):
            return
        name = self.group_name
        who = f"root or a member of group {name}" if access == "member" else "root"
        raise Refused(
            403,
            f"user {peer.uid} may not do this: only {who} may",
            hint=JOIN_GROUP.format(group=name) if access == "member" else None,
        )
