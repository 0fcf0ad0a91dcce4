"""One function per route: take the request apart, ask the agent, and say the answer."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from tank_agent.api.request import Refused, Reply, Request, Stream, json_answer
from tank_agent.api.service import AgentService
from tank_agent.api.wire import (
    DELETED,
    MAX_SYNC_WAIT,
    PHASES,
    WAIT_SLICE,
    Deleted,
    PlanRequest,
    decode_text,
)
from tank_agent.spec.printable import to_json

# How often a request that waits looks whether its caller is still there, in seconds.
_LOOK = 0.5
_EVENTS_AT_ONCE = 500


def info(service: AgentService, request: Request) -> Reply:
    """Say which agent this is."""
    return json_answer(service.info())


def list_pods(service: AgentService, request: Request) -> Reply:
    """Return every desired pod."""
    return json_answer(list(service.list_pods()))


def get_pod(service: AgentService, request: Request) -> Reply:
    """Return one desired pod."""
    return json_answer(service.get_pod(request.params["name"]))


def apply(service: AgentService, request: Request) -> Reply:
    """Store the pods of a TOML text; `file` in the query is how messages call it."""
    file = request.query.get("file", "<text>")
    return json_answer(list(service.apply(decode_text(request.body, file), file)))


def delete_pod(service: AgentService, request: Request) -> Reply:
    """Remove a pod; it is no error if there is none."""
    return json_answer(Deleted(service.delete(request.params["name"])))


def pod_status(service: AgentService, request: Request) -> Reply:
    """Return one pod's status."""
    return json_answer(service.status(request.params["name"])[0])


def status(service: AgentService, request: Request) -> Reply:
    """Return the status of all pods."""
    return json_answer(service.status())


def wait(service: AgentService, request: Request) -> Reply:
    """Return a pod's status once it is in `phase`, or as it is after `timeout` seconds."""
    phase = request.query.get("phase", "running")
    if phase not in (*PHASES, DELETED):
        raise Refused(400, f"there is no phase {phase!r}", hint=f"phases are {', '.join((*PHASES, DELETED))}")
    deadline = time.monotonic() + request.seconds("timeout", WAIT_SLICE, WAIT_SLICE)
    while True:
        left = max(0.0, deadline - time.monotonic())
        found = service.wait(request.params["name"], phase, min(_LOOK, left))
        if found["phase"] == phase or left <= _LOOK or request.ended():
            return json_answer(found)


def history(service: AgentService, request: Request) -> Reply:
    """Return the kept revisions of a pod."""
    return json_answer(list(service.history(request.params["name"])))


def events(service: AgentService, request: Request) -> Reply:
    """Return the events above `after`, one JSON object a line; with `follow=1`, also those still to come."""
    after = request.count("after", 0)
    follow = request.count("follow", 0) > 0
    return Stream(chunks=_event_lines(service, request, after, follow, request.query.get("pod")))


def _event_lines(
    service: AgentService, request: Request, after: int, follow: bool, pod: str | None
) -> Iterator[bytes]:
    while not request.ended():
        batch = service.events(after, _EVENTS_AT_ONCE)
        lines = [to_json(event) + b"\n" for event in batch if pod in (None, event.pod)]
        if lines:
            yield b"".join(lines)
        if batch:
            after = batch[-1].seq
        elif follow:
            service.wait_for_events(after, _LOOK)
        else:
            return


def plan(service: AgentService, request: Request) -> Reply:
    """Say what would be done; the body holds the files, or nothing for what is pending now."""
    try:
        asked = msgspec.json.decode(request.body or b"{}", type=PlanRequest)
    except msgspec.DecodeError as error:
        raise Refused(400, f"the body is not a plan request: {error}") from None
    return json_answer(service.plan(asked.files, asked.git))


def sync(service: AgentService, request: Request) -> Reply:
    """Look at every source now; with `wait`, answer once all pods are settled or that time is over.

    Without it, `within` is how long looking may take. `confirm` lets a commit of git through, "" the one
    that waits.
    """
    wait_for = request.seconds("wait", 0, MAX_SYNC_WAIT) if "wait" in request.query else None
    within = request.seconds("within", 0, MAX_SYNC_WAIT) if "within" in request.query else None
    return json_answer(service.sync(wait_for, request.query.get("confirm"), within))


def sources(service: AgentService, request: Request) -> Reply:
    """Say how far the sources are."""
    return json_answer(service.gitops.report())


def suspend(service: AgentService, request: Request) -> Reply:
    """Let a pod, or without a name all pods, stay as they are."""
    service.gitops.suspend(request.params.get("name"))
    return json_answer(service.gitops.report())


def resume(service: AgentService, request: Request) -> Reply:
    """Let a pod, or without a name all pods, follow their sources again."""
    service.gitops.resume(request.params.get("name"))
    return json_answer(service.gitops.report())


def roll_back(service: AgentService, request: Request) -> Reply:
    """Give a pod an older spec: that of `to` in the query, a generation or a commit, or the one before."""
    return json_answer(service.gitops.roll_back(request.params["name"], request.query.get("to")))


def volumes(service: AgentService, request: Request) -> Reply:
    """Return every managed volume."""
    return json_answer(list(service.volumes()))


def remove_volume(service: AgentService, request: Request) -> Reply:
    """Remove a managed volume with what is in it; it is no error if there is none."""
    return json_answer(Deleted(service.remove_volume(request.params["pod"], request.params["name"])))
