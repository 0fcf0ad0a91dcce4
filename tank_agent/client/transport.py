"""HTTP/1.1 over the agent's unix socket, with errors that say what to do about them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from tank_agent.api.wire import DEFAULT_GROUP, JOIN_GROUP
from tank_agent.client import light
from tank_agent.errors import AgentUnreachable

_STUCK = "look at its log, and at the load of the machine"


class Transport(Struct, frozen=True, kw_only=True):
    """Makes one connection for each call, so that it holds no state and may be used from any thread."""

    socket_path: Path

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        timeout: float,
    ) -> bytes:
        """Make a request and return the answer's body; `path` is quoted already.

        Raises:
            AgentUnreachable: nobody answers in time, or we may not ask.
            TankError: what the agent raised.
        """
        where = os.fspath(self.socket_path)
        asked = light.ask(where, method, light.with_query(path, query), body=body or b"", timeout=timeout)
        return light.whole(asked.answer(expected=200, timeout=timeout), where)

    def lines(
        self, path: str, query: Mapping[str, str], *, timeout: float | None, method: str = "GET"
    ) -> Iterator[bytes]:
        """Make a request and yield the answer line by line, as it comes.

        `timeout` limits the wait for the answer's beginning and for each line; None waits for ever.
        Raises as `call` does, also when the stream breaks off.
        """
        where = os.fspath(self.socket_path)
        asked = light.ask(where, method, light.with_query(path, query), timeout=timeout)
        rest = b""
        with closing(light.chunks(asked.answer(expected=200, timeout=timeout), where)) as chunks:
            for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
        if rest:
            # It broke off within a line, and yet between two chunks.
            raise self.broken(None)

    def broken(self, error: Exception | None) -> AgentUnreachable:
        """Return the error for a connection that ended too early, or where nothing came in time."""
        where = os.fspath(self.socket_path)
        if isinstance(error, TimeoutError):
            return AgentUnreachable(
                "the agent did not answer in time",
                where=where,
                hint=_STUCK,
            )
        return AgentUnreachable(
            "the agent ended, or broke the connection off",
            where=where,
            hint="its log says why",
        )


def unreachable(path: Path, error: OSError) -> AgentUnreachable:
    """Return the error for a socket that cannot be connected to."""
    where = os.fspath(path)
    if isinstance(error, PermissionError):
        return AgentUnreachable(
            f"not allowed to talk to the agent: only root and members of group {DEFAULT_GROUP} are",
            where=where,
            hint=JOIN_GROUP.format(group=DEFAULT_GROUP),
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return AgentUnreachable(
            "the agent is not running: nobody listens at this socket",
            where=where,
            hint="start it with `systemctl start tank-agent` or `tank agent`; "
            "if it uses another run_dir, give --socket or set TANK_SOCKET",
        )
    if isinstance(error, TimeoutError | BlockingIOError):
        return AgentUnreachable("the agent does not answer", where=where, hint=_STUCK)
    return AgentUnreachable(f"cannot connect: {error.strerror or error}", where=where)
