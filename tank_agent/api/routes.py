"""The routes of the server: each call of `types` with its handler."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal
from urllib.parse import unquote

from msgspec import Struct

from tank_agent.api.handlers import HANDLERS, Handler
from tank_agent.api.request import Refused, json_answer
from tank_agent.api.types import PLAIN, Call

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


def _plain(call: Call[Any]) -> Handler:
    """Return the handler that gives the names in the path to the service's method."""
    answer = attrgetter(call.service)
    return lambda service, request: json_answer(answer(service)(**request.params))


def _route(call: Call[Any], handler: Handler) -> Route:
    return Route(call.method, call.path, handler, body=call.body, upgrade=call.upgrade)


ROUTES: tuple[Route, ...] = (
    *(_route(call, _plain(call)) for call in PLAIN.values()),
    *(_route(call, handler) for call, handler in HANDLERS),
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
