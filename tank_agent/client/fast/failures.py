"""Errors of an agent that can't be reached, with what to do about them; imported when there is one."""

from __future__ import annotations

from tank_agent.api.wire import DEFAULT_GROUP, JOIN_GROUP
from tank_agent.errors import AgentUnreachable

_STUCK = "look at its log, and at the load of the machine"


def broken(path: str, error: Exception | None) -> AgentUnreachable:
    """Return the error for a connection that ended too early, or where nothing came in time."""
    if isinstance(error, TimeoutError):
        return AgentUnreachable("the agent did not answer in time", where=path, hint=_STUCK)
    message = "the agent ended, or broke the connection off"
    return AgentUnreachable(message, where=path, hint="its log says why")


def unreachable(path: str, error: OSError) -> AgentUnreachable:
    """Return the error for a socket that cannot be connected to."""
    if isinstance(error, PermissionError):
        message = f"not allowed to talk to the agent: only root and members of group {DEFAULT_GROUP} are"
        return AgentUnreachable(message, where=path, hint=JOIN_GROUP.format(group=DEFAULT_GROUP))
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return AgentUnreachable(
            "the agent is not running: nobody listens at this socket",
            where=path,
            hint="start it with `systemctl start tank-agent` or `tank agent`; "
            "if it uses another run_dir, give --socket or set TANK_SOCKET",
        )
    if isinstance(error, TimeoutError | BlockingIOError):
        return AgentUnreachable("the agent does not answer", where=path, hint=_STUCK)
    return AgentUnreachable(f"cannot connect: {error.strerror or error}", where=path)
