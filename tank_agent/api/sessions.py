"""The routes that people sit at: exec and attach take the connection over, logs are a stream."""

from __future__ import annotations

import msgspec

from tank_agent.api import relay
from tank_agent.api.frames import SEVERAL
from tank_agent.api.request import Refused, Reply, Request, Stream, Upgrade
from tank_agent.api.service import AgentService
from tank_agent.control.sessions import LogQuery
from tank_agent.runtime.session.exec import ExecRequest


def run_command(service: AgentService, request: Request) -> Reply:
    """Run a command in a container; the body is an `ExecRequest`."""
    try:
        wanted = msgspec.json.decode(request.body, type=ExecRequest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"the body is not a request to run a command: {error}") from None
    if not wanted.argv or not wanted.argv[0] or any("\0" in argument for argument in wanted.argv):
        raise Refused(400, "there is no command")
    interactive = service.interactive
    run = interactive.target(request.params["name"], request.query.get("container"), request.ended)
    confirms = request.count("confirm", 0) > 0
    return Upgrade(
        run=lambda raw: relay.serve_exec(raw, lambda: interactive.start(run, wanted), confirms=confirms)
    )


def attach(service: AgentService, request: Request) -> Reply:
    """Take over the terminal of a container's main process."""
    interactive = service.interactive
    run = interactive.terminal(request.params["name"], request.query.get("container"), request.ended)
    confirms = request.count("confirm", 0) > 0
    return Upgrade(
        run=lambda raw: relay.serve_attach(raw, run, lambda: interactive.view(run), confirms=confirms)
    )


def logs(service: AgentService, request: Request) -> Reply:
    """Return what containers printed, one line each: time, stream, F or P (cut), container, content."""
    query = LogQuery(
        tail=request.count("tail", 0) if "tail" in request.query else None,
        since=request.query.get("since", ""),
        follow=request.count("follow", 0) > 0,
    )
    name, container = request.params["name"], request.query.get("container")
    several, lines = service.interactive.logs(name, container, query, request.ended)
    return Stream(chunks=lines, content_type=f"application/octet-stream{SEVERAL if several else ''}")
