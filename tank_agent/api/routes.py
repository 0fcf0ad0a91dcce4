"""The handlers of the calls of `types`: a method of the service if names suffice, or else a function here."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import msgspec

from tank_agent.api import relay, types
from tank_agent.api.frames import SEVERAL
from tank_agent.api.reports import Deleted
from tank_agent.api.request import Refused, Reply, Request, Stream, Upgrade, json_answer
from tank_agent.api.types import Call
from tank_agent.api.wire import decode_text, error_body
from tank_agent.control.pods import Service
from tank_agent.control.sessions import LogQuery
from tank_agent.errors import PodNotFound, TankError
from tank_agent.runtime.run import LiveRun
from tank_agent.runtime.session.attach import Viewer
from tank_agent.runtime.session.copy import Copying, FilesRequest
from tank_agent.runtime.session.exec import ExecRequest, Execution
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
    return json_answer(service.apply(decode_text(request.body, file), file, by=request.peer.user))


def _apply_with_files(service: Service, request: Request) -> Reply:
    """Store the pods of a text that names files beside it, which the caller found; no file is opened here."""
    asked = _body(request.body, types.ApplyRequest, "a request to apply a text with files")
    file = request.query.get("file", "<text>")
    return json_answer(service.apply(asked.text, file, asked.beside, by=request.peer.user))


def _status(service: Service, request: Request) -> Reply:
    """Return the status of all pods; with `everywhere=1`, also of those for other machines."""
    return json_answer(service.status(everywhere=request.count("everywhere", 0) > 0))


def _wait(service: Service, request: Request) -> Reply:
    """Return a pod's status once it is in `phase`, or as it is after `timeout` seconds."""
    phase = request.query.get("phase", "running")
    phases = (*types.PHASES, types.READY, types.DELETED)
    if phase not in phases:
        raise Refused(400, f"there is no phase {phase!r}", hint=f"phases are {', '.join(phases)}")
    deadline = time.monotonic() + request.seconds("timeout", types.WAIT_SLICE, types.WAIT_SLICE)
    while True:
        left = max(0.0, deadline - time.monotonic())
        found = service.wait(request.params["name"], phase, min(_LOOK, left))
        if found.phase == phase or (phase == types.READY and found.ready) or left <= _LOOK or request.ended():
            return json_answer(found)


def _events(service: Service, request: Request) -> Reply:
    """Return the events above `after`, one JSON object a line; with `follow=1`, also those still to come.

    `pod`, `by` (a user), `type` (several with commas) and `since` (RFC 3339) choose among them, `tail` leaves
    the last ones.
    """
    pod, follow = request.query.get("pod"), request.count("follow", 0) > 0
    by = request.query.get("by")
    kinds, since = request.query.get("type"), request.query.get("since", "")
    tail = request.count("tail", 0) if "tail" in request.query else None
    if pod is not None and not follow:
        # Who follows may wait for one that comes.
        service.check_events_of(pod)

    def wanted(event: types.ListedEvent) -> bool:
        # Both are times in UTC, the one to the millisecond.
        late = event.at[:23] >= since[:23]
        found = late and pod in (None, event.pod) and by in (None, event.by)
        return found and (kinds is None or event.type in kinds.split(","))

    def lines(after: int) -> Iterator[bytes]:
        # While it is there, the lines are of the past, of which the last ones are wanted.
        last: deque[bytes] | None = deque(maxlen=tail) if tail is not None else None
        while not request.ended():
            batch = service.events(after, _EVENTS_AT_ONCE)
            matching = [to_json(event) + b"\n" for event in batch if wanted(event)]
            if last is not None:
                last.extend(matching)
                matching = [] if batch else [*last]
                last = last if batch else None
            if matching:
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
    return json_answer(service.plan(asked.files, asked.git, asked.beside))


def _sync(service: Service, request: Request) -> Reply:
    """Look at every source now; with `wait`, answer once all pods are settled or so many seconds have passed.

    Without it, `within` limits the seconds for looking. `confirm` names a commit of git to let through, or is
    "" for the one that waits.
    """
    wait_for = request.seconds("wait", 0, types.MAX_SYNC_WAIT) if "wait" in request.query else None
    within = request.seconds("within", 0, types.MAX_SYNC_WAIT) if "within" in request.query else None
    return json_answer(service.sync(wait_for, request.query.get("confirm"), within, by=request.peer.user))


def _roll_back(service: Service, request: Request) -> Reply:
    """Give a pod an older spec: `to` is a generation or a commit, by default the one before the present.

    With `force=1` also one that failed, with `with_data=1` also the snapshots of its volumes.
    """
    options = {name: request.count(name, 0) > 0 for name in ("force", "with_data")}
    name, to = request.params["name"], request.query.get("to")
    return json_answer(service.sources.roll_back(name, to, by=request.peer.user, **options))


def _pull_image(service: Service, request: Request) -> Reply:
    """Fetch an image: its progress, one JSON object a line, and at last the image or the error."""
    reference, policy = _reference(request), request.query.get("policy", "always")
    if policy not in _POLICIES:
        raise Refused(400, f"there is no pull policy {policy!r}", hint=f"policies are {', '.join(_POLICIES)}")

    lines = service.images.pull(reference, cast("PullPolicy", policy), request.ended, by=request.peer.user)
    return _lines(lines, lambda error: types.PullLine(error=error))


def _update_images(service: Service, request: Request) -> Reply:
    """Make newer images of a pod an update: the progress, one JSON object a line, and at last the result."""
    force = request.count("force", 0) > 0
    name, by = request.params["name"], request.peer.user
    lines = service.images.update(name, request.ended, by=by, force=force)
    return _lines(lines, lambda error: types.UpdateLine(error=error))


def _lines(found: Iterator[_T], failed: Callable[[types.ErrorBody], _T]) -> Reply:
    def lines() -> Iterator[bytes]:
        try:
            for line in found:
                yield to_json(line) + b"\n"
        except TankError as error:
            # The head of the answer is out already, so the error is a line of its body.
            yield to_json(failed(error_body(error))) + b"\n"

    return Stream(chunks=lines())


def _take_snapshot(service: Service, request: Request) -> Reply:
    """Copy a volume; with `force=1`, also while a container runs with it."""
    force = request.count("force", 0) > 0
    by = request.peer.user
    return json_answer(service.storage.take(**request.params, ended=request.ended, by=by, force=force))


def _restore_volume(service: Service, request: Request) -> Reply:
    """Put the snapshot `id` in place of its volume."""
    identifier = request.query.get("id", "")
    asked = {"identifier": identifier, "by": request.peer.user}
    return json_answer(service.storage.restore(**request.params, **asked, ended=request.ended))


def _remove_image(service: Service, request: Request) -> Reply:
    """Remove the image, or the name of one, that `reference` names."""
    return json_answer(service.images.remove(_reference(request), by=request.peer.user))


def _delete(service: Service, request: Request) -> Reply:
    """Remove a pod."""
    return json_answer(Deleted(service.delete(request.params["name"], by=request.peer.user)))


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

    def start(run: LiveRun) -> Execution:
        return service.sessions.start(run, wanted)

    return _in_container(service, request, start, "exec", wanted.argv[0])


def _read_files(service: Service, request: Request) -> Reply:
    """Send the tar archive of `path` in a container; with `follow=1`, of what a link there leads to."""
    wanted = FilesRequest(path=_path(request), read=True, follow=request.count("follow", 0) > 0)
    return _in_container(service, request, lambda run: service.sessions.copy(run, wanted), "files-read")


def _write_files(service: Service, request: Request) -> Reply:
    """Store a tar archive at `path` in a container.

    `base` is the name that its entries begin with; without it, they are stored below the directory `path` as
    they are. `contents=1` stores what is in the directory `base` only, `owners=1` keeps owners.
    """
    wanted = FilesRequest(
        path=_path(request),
        read=False,
        base=request.query.get("base"),
        contents=request.count("contents", 0) > 0,
        owners=request.count("owners", 0) > 0,
    )
    return _in_container(service, request, lambda run: service.sessions.copy(run, wanted), "files-written")


def _in_container(
    service: Service,
    request: Request,
    start: Callable[[LiveRun], Execution | Copying],
    kind: str,
    program: str = "",
) -> Reply:
    """Wait for the container that a request names, and serve what is started in it over the connection.

    `kind` is that of the event, and `program` the name of what is started.
    """
    container = request.query.get("container")
    run = service.sessions.target(request.params["name"], container, request.ended, _starts_within(request))
    confirms = request.count("confirm", 0) > 0

    def begin() -> Execution | Copying:
        begun = start(run)
        service.sessions.note(kind, run, request.peer.uid, program)
        return begun

    return Upgrade(run=lambda raw: relay.serve_exec(raw, begin, confirms=confirms))


def _path(request: Request) -> str:
    path = request.query.get("path", "")
    if not path or "\0" in path:
        raise Refused(400, "a path in the container must be named: ?path=…")
    return path


def _attach(service: Service, request: Request) -> Reply:
    """Take over the terminal of a container's main process."""
    sessions = service.sessions
    container = request.query.get("container")
    run = sessions.terminal(request.params["name"], container, request.ended, _starts_within(request))
    confirms = request.count("confirm", 0) > 0

    def view() -> Viewer:
        viewer = sessions.view(run)
        sessions.note("attach", run, request.peer.uid)
        return viewer

    return Upgrade(run=lambda raw: relay.serve_attach(raw, run, view, confirms=confirms))


def _starts_within(request: Request) -> float | None:
    """Return how long a session waits for its container to start; None if the user does not say."""
    return request.seconds("wait", 0, types.MAX_SYNC_WAIT) if "wait" in request.query else None


def _logs(service: Service, request: Request) -> Reply:
    """Return the output of containers, one line each: time, stream, F or P (cut), container, content."""
    query = LogQuery(
        tail=request.count("tail", 0) if "tail" in request.query else None,
        since=request.query.get("since", ""),
        follow=request.count("follow", 0) > 0,
        run=_job_run(request),
    )
    name, container = request.params["name"], request.query.get("container")
    several, lines = service.sessions.logs(name, container, query, request.ended)
    return Stream(chunks=lines, content_type=f"application/octet-stream{SEVERAL if several else ''}")


def _metrics(service: Service, request: Request) -> Reply:
    """Return the metrics in Prometheus' text format."""
    # Most agents are never asked.
    from tank_agent.api import metrics

    return metrics.answer(service)


def _job_run(request: Request) -> int | None:
    """Return the number of a job's run in the query, from the end if it is negative; None without one."""
    text = request.query.get("run")
    if text is None:
        return None
    if not re.fullmatch(r"-?[1-9][0-9]{0,8}", text):
        raise Refused(400, f"{text!r} is no number of a run", hint="1 is the first run, -1 the last")
    return int(text)


def _body(body: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"the body is not {what}: {error}") from None


def _plain(call: Call[Any]) -> Handler:
    """Return the handler that gives the names in the path to the service's method.

    Of a call that changes something, the user's name, too.
    """
    answer = attrgetter(call.service)
    if call.changes:
        return lambda service, request: json_answer(answer(service)(**request.params, by=request.peer.user))
    return lambda service, request: json_answer(answer(service)(**request.params))


ROUTES: Mapping[Call[Any], Handler] = {
    **{call: _plain(call) for call in types.PLAIN.values()},
    types.STATUS: _status,
    **{call: _plain(call) for call in (types.REMOVE_VOLUME, types.REMOVE_SHARED_VOLUME)},
    **{call: _plain(call) for call in (types.SUSPEND, types.SUSPEND_POD, types.RESUME, types.RESUME_POD)},
    types.APPLY: _apply,
    types.APPLY_WITH_FILES: _apply_with_files,
    types.POD_STATUS: lambda service, request: json_answer(service.status(request.params["name"])[0]),
    types.WAIT: _wait,
    types.EVENTS: _events,
    types.PLAN: _plan,
    types.SYNC: _sync,
    types.DELETE: _delete,
    types.ROLLBACK: _roll_back,
    types.PULL_IMAGE: _pull_image,
    types.UPDATE_IMAGES: _update_images,
    types.REMOVE_IMAGE: _remove_image,
    types.TAKE_SNAPSHOT: _take_snapshot,
    types.RESTORE_VOLUME: _restore_volume,
    types.EXEC: _exec,
    types.READ_FILES: _read_files,
    types.WRITE_FILES: _write_files,
    types.ATTACH: _attach,
    types.LOGS: _logs,
    types.METRICS: _metrics,
}


def answer(handler: Handler, service: Service, request: Request) -> Reply:
    """Return the reply to a request; an error about a pod that is for other machines says so."""
    try:
        return handler(service, request)
    except PodNotFound as error:
        name = request.params.get("name") or request.params.get("pod", "")
        # A restart may be of POD/CONTAINER.
        hint = service.hint_elsewhere(name.partition("/")[0])
        if hint is None:
            raise
        raise PodNotFound(f"{error.message} on this machine", hint=hint) from None


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
