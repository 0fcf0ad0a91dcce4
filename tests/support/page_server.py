"""A small server that speaks the contract of the status page, so that tests decide what the page is told.

It serves the real page, and streams what the test says: a machine of any size, hostile texts, a connection
that breaks.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import tank_agent
from tank_agent.api.web import page as real

PAGE = Path(tank_agent.__file__).parent / "api" / "web" / "page.html"


@dataclass(eq=False)
class Told:
    """What the server tells: the answer to each path, the log, and the messages of the live stream."""

    hello: dict[str, Any]
    why: Callable[[str], dict[str, Any] | None] = lambda _: None
    log: Sequence[bytes] = ()
    token: str = ""
    streams: list[queue.Queue[bytes | None]] = field(default_factory=list)
    logs: list[queue.Queue[bytes | None]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    # None is an ordinary answer to /v1/live, else the status with which it is refused.
    refuses: int | None = None

    def send(self, kind: str, data: object) -> None:
        """Send a message to every page."""
        for stream in list(self.streams):
            stream.put(message(kind, data))

    def print(self, *lines: str) -> None:
        """Print lines of a container to every log that is followed."""
        for stream in list(self.logs):
            stream.put("".join(f"{line}\n" for line in lines).encode())

    def cut(self) -> None:
        """Break every connection."""
        for stream in [*self.streams, *self.logs]:
            stream.put(None)


def message(kind: str, data: object, **how: Any) -> bytes:
    """Return one message of text/event-stream."""
    return f"event: {kind}\ndata: {json.dumps(data, **how)}\n\n".encode()


@contextmanager
def serving(told: Told) -> Iterator[str]:
    """Serve the page and what is told; return its address."""
    page = real.load()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told.requests.append(self.path)
            at = urlsplit(self.path)
            if at.path == "/":
                return self.reply(200, page.html, "text/html; charset=utf-8")
            if told.token and self.headers.get("Authorization") != f"Bearer {told.token}":
                return self.error(401, "this needs a token")
            if at.path == "/v1/live":
                if told.refuses:
                    return self.error(told.refuses, "16 pages are open already")
                return self.stream(told.streams, message("hello", told.hello))
            pod, _, what = unquote(at.path).removeprefix("/v1/pods/").rpartition("/")
            if what == "logs":
                wanted = parse_qs(at.query).get("container")
                of_it = [line for line in told.log if wanted and line.split()[3].decode() in wanted]
                lines = of_it or told.log
                return self.stream(told.logs, b"".join(lines))
            found = told.why(pod) if what == "why" else None
            if found is None:
                return self.error(404, f"there is no pod {pod}")
            return self.reply(200, json.dumps(found).encode(), "application/json")

        def error(self, status: int, text: str) -> None:
            body = {
                "error": {"reason": "refused", "message": text, "where": "", "hint": None, "problems": []}
            }
            self.reply(status, json.dumps(body).encode(), "application/json")

        def reply(self, status: int, body: bytes, kind: str) -> None:
            self.heads(status, kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def heads(self, status: int, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", page.policy)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")

        def stream(self, streams: list[queue.Queue[bytes | None]], begin: bytes) -> None:
            self.heads(200, "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            mine: queue.Queue[bytes | None] = queue.Queue()
            streams.append(mine)
            with suppress(OSError):
                part: bytes | None = begin
                while part is not None:
                    self.wfile.write(part)
                    part = mine.get(timeout=300)
            streams.remove(mine)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """Say nothing: a page that is closed hangs up."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        told.cut()
        server.shutdown()
        thread.join(10)
        server.server_close()
