"""A door of the API: a way in, with its own access and limits. The agent's socket is one, `web` another."""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import Struct

from tank_agent.api.request import Head, Peer
from tank_agent.api.routes import Handler
from tank_agent.api.types import Call
from tank_agent.control.pods import Service


class Timeouts(Struct, frozen=True, kw_only=True):
    """The seconds that a caller may take: until its next request, for a head, for a body, to read.

    Readers of streams may take longer, as long as they are not too many.
    """

    idle: float = 60.0
    head: float = 10.0
    body: float = 30.0
    write: float = 30.0


class Door(ABC):
    """A way into the API: who may come in there, and within which limits.

    Attributes:
        service: the agent. Its methods are called from many threads at once.
        routes: the handlers of the calls that can be made here.
        limit: connections at once; further ones are refused with 503.
        pauses: counts the readers of streams who pause; they leave most connections to others.
        stopping: set once the agent stops.
        headers: of every answer.
    """

    # The first part of the names of its threads.
    name: ClassVar[str]
    # What a caller can do who finds all connections taken.
    busy_hint: ClassVar[str]
    # Whether a caller may end its half of the connection, and still wait for answers.
    half_open: ClassVar[bool]

    def __init__(
        self, service: Service, routes: Mapping[Call[Any], Handler], timeouts: Timeouts, limit: int
    ) -> None:
        self.service = service
        self.routes = routes
        self.timeouts = timeouts
        self.limit = limit
        self.pauses = threading.Semaphore(limit // 4)
        self.stopping = threading.Event()
        self.headers: Mapping[str, str] = {}

    @abstractmethod
    def meet(self, connection: socket.socket) -> Peer:
        """Return who has connected, and prepare the connection.

        Raises:
            OSError: the caller has left already.
        """

    @abstractmethod
    def admit(self, peer: Peer, head: Head) -> str:
        """Check a request before its call is looked up; return the method by which that is done.

        Raises:
            Refused: the caller may not come in with it.
        """

    @abstractmethod
    def allow(self, peer: Peer, call: Call[Any]) -> None:
        """Check whether a caller may make a call.

        Raises:
            Refused: it may not.
        """
