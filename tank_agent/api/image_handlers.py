"""The routes about images: one function for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from tank_agent.api.image_wire import PullLine
from tank_agent.api.request import Refused, Reply, Request, Stream, json_answer
from tank_agent.api.service import AgentService
from tank_agent.api.wire import error_body
from tank_agent.errors import TankError
from tank_agent.image.config import Progress
from tank_agent.settings.image import PullPolicy
from tank_agent.spec.printable import to_json

_POLICIES = ("missing", "always", "never")


def images(service: AgentService, request: Request) -> Reply:
    """Return every image."""
    return json_answer(list(service.images.list()))


def pull(service: AgentService, request: Request) -> Reply:
    """Fetch an image: one JSON object a line, of how far it is, at last the image or the error."""
    policy = request.query.get("policy", "always")
    if policy not in _POLICIES:
        raise Refused(400, f"there is no pull policy {policy!r}", hint=f"policies are {', '.join(_POLICIES)}")
    return Stream(chunks=_pull_lines(service, request, _reference(request), cast("PullPolicy", policy)))


def _pull_lines(
    service: AgentService, request: Request, reference: str, policy: PullPolicy
) -> Iterator[bytes]:
    try:
        for found in service.images.pull(reference, policy, request.ended):
            line = PullLine(progress=found) if isinstance(found, Progress) else PullLine(image=found)
            yield to_json(line) + b"\n"
    except TankError as error:
        # The head of the answer is out already, so the error travels in its body.
        yield to_json(PullLine(error=error_body(error))) + b"\n"


def remove(service: AgentService, request: Request) -> Reply:
    """Remove an image, by a name or by its digest."""
    return json_answer(service.images.remove(_reference(request)))


def prune(service: AgentService, request: Request) -> Reply:
    """Remove every image that no pod needs."""
    return json_answer(service.images.prune())


def _reference(request: Request) -> str:
    reference = request.query.get("reference", "")
    if not reference:
        raise Refused(400, "an image must be named: ?reference=…")
    return reference
