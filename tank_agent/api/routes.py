"""The handlers of the calls of `types`: a method of the service if names suffice, or else a function here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import msgspec

from tank_agent.api import relay, types
from tank_agent.api.frames import SEVERAL
from tank_agent.api.request import Refused, Reply, Request, Stream, Upgrade, json_answer
from tank_agent.api.types import Call
from tank_agent.api.wire import decode_text, error_body
from tank_agent.control.pods import Service
from tank_agent.control.sessions import LogQuery
from tank_agent.errors import TankError
from tank_agent.runtime.session.exec import ExecRequest
from tank_agent.settings.image import PullPolicy
from tank_agent.spec.printable import to_json

_T = TypeVar("_T")
Handler = Callable[[Service, Request], Reply]
# Seconds after which a request that waits looks whether its caller is still there.
_LOOK = 0.5
_EVENTS_AT_ONCE = 500
_POLICIES = ("missing", "always", "never")


def _apply(service: Service, request: Request) -> Reply:
    """Store the pods of a TOML text; `file` in the query is how messages call it."""
    file = request.query.get("file", "<text>")
    return json_answer(service.apply(decode_text(request.body, file), file))


def _wait(service: Service, request: Request) -> Reply:
    """Return a pod's status once it is in `phase`, or as it is after `timeout` seconds."""
    phase = request.query.get("phase", "running")
    phases = (*types.PHASES, types.DELETED)
    if phase not in phases:
        raise Refused(400, f"there is no phase {phase!r}", hint=f"phases are {', '.join(phases)}")
    deadline = time.monotonic() + request.seconds("timeout", types.WAIT_SLICE, types.WAIT_SLICE)
    while True:
        left = max(0.0, deadline - time.monotonic())
        found = service.wait(request.params["name"], phase, min(_LOOK, left))
        if found.phase == phase or left <= _LOOK or request.ended():
            return json_answer(found)


def _events(service: Service, request: Request) -> Reply:
    """Return the events above `after`, one JSON object a line; with `follow=1`, also those still to come."""
    pod, follow = request.query.get("pod"), request.count("follow", 0) > 0

    def lines(after: int) -> Iterator[bytes]:
        while not request.ended():
            batch = service.events(after, _EVENTS_AT_ONCE)
            if matching := [to_json(event) + b"\n" for event in batch if pod in (None, event.pod)]:
                yield b"".join(matching)
            if batch:
                after = batch[-1].seq
            elif follow:
                service.wait_for_events(after, _LOOK)
            else:
                return

    return Stream(chunks=lines(request.count("after", 0)))


def _plan(service: Service, request: Request) -> Reply:
    """Return the plan for the files in the body, or for the present state if it is empty."""
    asked = _body(request.body or b"{}", types.PlanRequest, "a plan request")
    return json_answer(service.plan(asked.files, asked.git))


def _sync(service: Service, request: Request) -> Reply:
    """Look at every source now; with `wait`, answer once all pods are settled or so many seconds have passed.

    Without it, `within` limits the seconds for looking. `confirm` names a commit of git to let through, or is
    "" for the one that waits.
    """
    wait_for = request.seconds("wait", 0, types.MAX_SYNC_WAIT) if "wait" in request.query else None
    within = request.seconds("within", 0, types.MAX_SYNC_WAIT) if "within" in request.query else None
    return json_answer(service.sync(wait_for, request.query.get("confirm"), within))


def _pull_image(service: Service, request: Request) -> Reply:
    """Fetch an image: its progress, one JSON object a line, and at last the image or the error."""
    reference, policy = _reference(request), request.query.get("policy", "always")
    if policy not in _POLICIES:
        raise Refused(400, f"there is no pull policy {policy!r}", hint=f"policies are {', '.join(_POLICIES)}")

    def lines() -> Iterator[bytes]:
        try:
            for line in service.images.pull(reference, cast("PullPolicy", policy), request.ended):
                yield to_json(line) + b"\n"
        except TankError as error:
            # The head of the answer is out already, so the error is a line of its body.
            yield to_json(types.PullLine(error=error_body(error))) + b"\n"

    return Stream(chunks=lines())


def _reference(request: Request) -> str:
    reference = request.query.get("reference", "")
    if not reference:
        raise Refused(400, "an image must be named: ?reference=…")
    return reference


def _exec(service: Service, request: Request) -> Reply:
    """Run a command in a container; the body is an `ExecRequest`."""
    wanted = _body(request.body, ExecRequest, "a request to run a command")
    if not wanted.argv or not wanted.argv[0] or any("\0" in argument for argument in wanted.argv):
        raise Refused(400, "there is no command")
    sessions = service.sessions
    run = sessions.target(request.params["name"], request.query.get("container"), request.ended)
    confirms = request.count("confirm", 0) > 0
    return Upgrade(
        run=lambda raw: relay.serve_exec(raw, lambda: sessions.start(run, wanted), confirms=confirms)
    )


def _attach(service: Service, request: Request) -> Reply:
    """Take over the terminal of a container's main process."""
    sessions = service.sessions
    run = sessions.terminal(request.params["name"], request.query.get("container"), request.ended)
    confirms = request.count("confirm", 0) > 0
    return Upgrade(
        run=lambda raw: relay.serve_attach(raw, run, lambda: sessions.view(run), confirms=confirms)
    )


def _logs(service: Service, request: Request) -> Reply:
    """Return the output of containers, one line each: time, stream, F or P (cut), container, content."""
    query = LogQuery(
        tail=request.count("tail", 0) if "tail" in request.query else None,
        since=request.query.get("since", ""),
        follow=request.count("follow", 0) > 0,
    )
    name, container = request.params["name"], request.query.get("container")
    several, lines = service.sessions.logs(name, container, query, request.ended)
    return Stream(chunks=lines, content_type=f"application/octet-stream{SEVERAL if several else ''}")


def _body(body: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"the body is not {what}: {error}") from None


def _plain(call: Call[Any]) -> Handler:
    """Return the handler that gives the names in the path to the service's method."""
    answer = attrgetter(call.service)
    return lambda service, request: json_answer(answer(service)(**request.params))


ROUTES: Mapping[Call[Any], Handler] = {
    **{call: _plain(call) for call in (*types.PLAIN.values(), types.STATUS)},
    **{call: _plain(call) for call in (types.SUSPEND, types.SUSPEND_POD, types.RESUME, types.RESUME_POD)},
    types.APPLY: _apply,
    types.POD_STATUS: lambda service, request: json_answer(service.status(request.params["name"])[0]),
    types.WAIT: _wait,
    types.EVENTS: _events,
    types.PLAN: _plan,
    types.SYNC: _sync,
    types.DELETE: lambda service, request: json_answer(types.Deleted(service.delete(request.params["name"]))),
    # `to` is a generation or a commit; without it, the one before the present.
    types.ROLLBACK: lambda service, request: json_answer(
        service.sources.roll_back(request.params["name"], request.query.get("to"))
    ),
    types.PULL_IMAGE: _pull_image,
    types.REMOVE_IMAGE: lambda service, request: json_answer(service.images.remove(_reference(request))),
    types.REMOVE_VOLUME: lambda service, request: json_answer(
        types.Deleted(service.remove_volume(*request.params.values()))
    ),
    types.EXEC: _exec,
    types.ATTACH: _attach,
    types.LOGS: _logs,
}


def find_route(
    routes: Mapping[Call[Any], Handler], method: str, path: str
) -> tuple[Call[Any], Handler, Mapping[str, str]]:
    """Return the call that a request makes, its handler, and the named parts of the path.

    Raises:
        Refused: with 404 or 405.
    """
    allowed = []
    for call, handler in routes.items():
        match = _pattern(call.path).fullmatch(path)
        if match and call.method == method:
            return call, handler, {key: unquote(value) for key, value in match.groupdict().items()}
        if match:
            allowed.append(call.method)
    if allowed:
        raise Refused(405, f"{method} is not possible here, only {' and '.join(allowed)}", where=path)
    raise Refused(
        404, "this agent has no such function", where=path, hint="compare `tank version` on both sides"
    )


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]*)", path))
