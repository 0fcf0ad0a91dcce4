"""The table of all that can be asked of the agent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from urllib.parse import unquote

from msgspec import Struct

from tank_agent.api import handlers, image_handlers, sessions
from tank_agent.api.frames import PROTOCOL
from tank_agent.api.request import Refused, Reply, Request
from tank_agent.api.service import AgentService
from tank_agent.api.wire import MAX_COMMAND, MAX_PLAN, MAX_POD_FILE

Handler = Callable[[AgentService, Request], Reply]
# Who may call: "member" is root, the agent's own user, and group tank; "owner" is the first two only.
Access = Literal["member", "owner"]
# These are no GET, since they bring or take long, and change nothing.
_READING = ("/v1/plan", "/v1/sync")


class Route(Struct, frozen=True):
    """One row: `{name}` in the path matches one segment, also an empty one.

    `body` is the most bytes that its body may have.
    `upgrade` names the protocol that the caller must ask to upgrade to; empty for plain HTTP.
    """

    method: str
    path: str
    handler: Handler
    access: Access = "member"
    body: int = 0
    upgrade: str = ""

    @property
    def changes(self) -> bool:
        """Return whether it changes anything or lets the caller in, so that the log says who asked."""
        return self.method != "GET" and self.path not in _READING


ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/info", handlers.info),
    Route("GET", "/v1/pods", handlers.list_pods),
    Route("POST", "/v1/pods", handlers.apply, body=MAX_POD_FILE),
    Route("GET", "/v1/pods/{name}", handlers.get_pod),
    Route("DELETE", "/v1/pods/{name}", handlers.delete_pod),
    Route("GET", "/v1/pods/{name}/status", handlers.pod_status),
    Route("GET", "/v1/pods/{name}/wait", handlers.wait),
    Route("GET", "/v1/pods/{name}/history", handlers.history),
    Route("POST", "/v1/pods/{name}/exec", sessions.run_command, body=MAX_COMMAND, upgrade=PROTOCOL),
    Route("POST", "/v1/pods/{name}/attach", sessions.attach, upgrade=PROTOCOL),
    Route("GET", "/v1/pods/{name}/logs", sessions.logs),
    Route("GET", "/v1/status", handlers.status),
    Route("GET", "/v1/events", handlers.events),
    Route("POST", "/v1/plan", handlers.plan, body=MAX_PLAN),
    Route("POST", "/v1/sync", handlers.sync),
    Route("GET", "/v1/sources", handlers.sources),
    Route("POST", "/v1/suspend", handlers.suspend),
    Route("POST", "/v1/resume", handlers.resume),
    Route("POST", "/v1/pods/{name}/suspend", handlers.suspend),
    Route("POST", "/v1/pods/{name}/resume", handlers.resume),
    Route("POST", "/v1/pods/{name}/rollback", handlers.roll_back),
    Route("GET", "/v1/images", image_handlers.images),
    Route("POST", "/v1/images/pull", image_handlers.pull),
    Route("POST", "/v1/images/prune", image_handlers.prune),
    Route("DELETE", "/v1/images", image_handlers.remove),
    Route("GET", "/v1/volumes", handlers.volumes),
    Route("DELETE", "/v1/volumes/{pod}/{name}", handlers.remove_volume),
)


class RouteTable:
    """Finds the route of a request."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple((_pattern(route.path), route) for route in routes)

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        """Return the route and the named parts of the path.

        Raises:
            Refused: with 404 or 405.
        """
        allowed = []
        for pattern, route in self._routes:
            match = pattern.fullmatch(path)
            if match and route.method == method:
                return route, {key: unquote(value) for key, value in match.groupdict().items()}
            if match:
                allowed.append(route.method)
        if allowed:
            raise Refused(405, f"{method} is not possible here, only {' and '.join(allowed)}", where=path)
        raise Refused(
            404, "this agent has no such function", where=path, hint="compare `tank version` on both sides"
        )


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]*)", path))
