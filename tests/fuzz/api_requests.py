"""Raw requests on the agent's socket: each has an answer of our form, and none is answered with "bug"."""

from __future__ import annotations

import json
import random
import re
import socket
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tank_agent.api.routes import ROUTES
from tank_agent.api.types import Call
from tank_agent.errors import NotRunning, PodNotFound
from tests.fuzz.rounds import repeat
from tests.support.fake_service import FakeService, serving

# As they stand in a path or a query.
_WORDS = (
    *("web", "", "%", "%ff", "%00", "..", "a/b", "%2e%2e", "%F0%9F", "%ed%a0%80", "x" * 300, "\xe9", "%0a"),
    *("-1", "0", "1", "9" * 20, "9" * 5000, "1e999", "nan", "inf", "-0", "1.5", "None", "*", "?", "&", "="),
    *("running", "deleted", "main", "0" * 40, "app", "2026-01-01", "%EF%BB%BF", "always", "oci:/x", "bad"),
)
_KEYS = (
    *("file", "phase", "after", "pod", "confirm", "to", "container", "tail", "since", "reference", "policy"),
    *("timeout", "wait", "%ff", ""),
)
_BODIES = (
    *(b"", b"{}", b"null", b"[]", b"\xff", b"web", b"bad", b"owned", b"[" * 10_000, b"\0", b"\xed\xa0\x80"),
    *(b'{"files":{"":""}}', b'{"files":{"a":"\\ud800"}}', b'{"files":{"x":1}}', b'{"git":"\\u0000"}'),
    *(b'{"argv":["a"],"env":[],"terminal":false}', b'{"argv":[1]}', b'{"argv":["\\u0000"]}', b'{"argv":[]}'),
    *(b'{"argv":["a"],"terminal":true,"rows":-1,"columns":99999999999}', b'{"argv":["a"],"cwd":"\\ud800"}'),
)


class _Service(FakeService):
    """Also has what people sit at, of which nothing runs."""

    @property
    def sessions(self) -> Any:
        def refuse(*_: object) -> Any:
            raise NotRunning("it is not running")

        def no_logs(pod: str, container: str | None, *_: object) -> Any:
            raise PodNotFound(f"there is no pod {pod} with {container}")

        return SimpleNamespace(target=refuse, terminal=refuse, logs=no_logs)


def _request(rng: random.Random) -> tuple[Call[Any], bytes]:
    route = rng.choice([*ROUTES])
    path = "/".join(rng.choice(_WORDS) if part.startswith("{") else part for part in route.path.split("/"))
    pairs = [f"{rng.choice(_KEYS)}={rng.choice(_WORDS)}" for _ in range(rng.randrange(4))]
    # The first of two counts as little as the others: nothing here is to be waited for.
    query = "&".join([*pairs, "timeout=0", "wait=0"])
    method = route.method if rng.random() < 0.95 else rng.choice(("PUT", "HEAD", "get", "\0", "\xff"))
    body = rng.choice(_BODIES) if route.body else b""
    length = str(len(body)) if rng.random() < 0.95 else rng.choice(("-1", "x", "9" * 30, "0"))
    lines = [f"{method} {path}?{query} HTTP/1.1", "Host: tank", f"Content-Length: {length}"]
    if route.upgrade and rng.random() < 0.9:
        lines += ["Connection: Upgrade", f"Upgrade: {route.upgrade}"]
    else:
        lines.append("Connection: close")
    return route, "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def once(rng: random.Random, path: Path) -> None:
    """Send one request and look at the answer."""
    route, request = _request(rng)
    if rng.random() < 0.1:
        at = rng.randrange(len(request))
        request = request[:at] + rng.randbytes(rng.randrange(3)) + request[at + rng.randrange(3) :]
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(20)
        caller.connect(str(path))
        caller.sendall(request)
        # What is cut off is not waited for.
        caller.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := caller.recv(1 << 16):
            answer += piece
    if not answer:
        # Only a caller that sent less than a request gets none.
        assert not _is_whole(request), request
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    assert status != 500, (request, answer)
    if status >= 400 and not request.startswith(b"HEAD"):
        # Behind it may stand the next answer; messages name the protocol, too.
        first = re.split(rb"HTTP/1\.1 \d{3} ", body)[0]
        assert json.loads(first)["error"]["message"], (route, answer)


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2].strip() for line in head.split(b"\r\n") if b"Content-Length" in line]
    return bool(end) and (not lengths or not lengths[0].isdigit() or int(lengths[0]) <= len(body))


def fuzz(seed: int, seconds: float | None, rounds: int | None) -> None:
    """Fuzz the API."""
    service = _Service()
    service.add("web")
    service.say("web")
    with tempfile.TemporaryDirectory(prefix="tank-fuzz-") as directory:
        path = Path(directory) / "tank.sock"
        with serving(service, path):
            repeat(seed, seconds, rounds, partial(once, path=path))
