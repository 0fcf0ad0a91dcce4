"""A fake agent behind the real listener of [web], and a caller who sends bytes as they are."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tank_agent.api.types import ListedEvent
from tank_agent.api.web.server import WebServer
from tank_agent.control.pods import Service
from tank_agent.errors import Problem
from tank_agent.journal.records import NewEvent
from tank_agent.runtime.limits.measure import Sample
from tank_agent.settings.settings import Settings
from tank_agent.settings.web import WebSettings
from tests.support.fake_service import FakeService, until

TOKEN = "0123456789abcdef0123456789abcdef"


class FakeWebService(FakeService):
    """What the web asks besides: samples, the clock, and a log that is followed until its reader leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[Sample] = []
        self.started = 0.0
        self.told: list[NewEvent] = []
        self.following = 0
        clock = SimpleNamespace(wall=time.time, monotonic=time.monotonic)
        self.machine = SimpleNamespace(clock=clock, containers=SimpleNamespace(samples=lambda: self.samples))
        self.journal = SimpleNamespace(
            try_to_record=self.told.extend,
            wait_for_events=self.wait_unless,
            stir=self.stir,
            desired=lambda: {**self.pods},
            problems=lambda: self.problems,
        )
        self.problems: tuple[Problem, ...] = ()
        self.sessions = SimpleNamespace(logs=self.logs)

    def wait_unless(self, after: int, timeout: float, *, or_if: Callable[[], bool]) -> bool:
        with self.condition:
            self.condition.wait_for(lambda: len(self.log) > after or or_if(), timeout)
            return len(self.log) > after

    def stir(self) -> None:
        with self.condition:
            self.condition.notify_all()

    def latest_events(self, count: int) -> Sequence[ListedEvent]:
        return self.log[-count:]

    def logs(
        self, pod: str, container: str | None, query: Any, ended: Callable[[], bool]
    ) -> tuple[bool, Iterator[bytes]]:
        self.get(pod)

        def lines() -> Iterator[bytes]:
            self.following += 1
            try:
                yield b"2026-11-22T06:00:33Z stdout F app hello\n"
                while query.follow and not ended():
                    time.sleep(0.01)
            finally:
                self.following -= 1

        return False, lines()


@contextmanager
def serving_web(
    service: FakeService, listen: str = "127.0.0.1:0", *, token_file: Path | None = None, **options: Any
) -> Iterator[WebServer]:
    """Serve while the block runs; no thread of the server is left after it."""
    hosts = options.pop("hosts", ())
    web = WebSettings(listen=listen, token_file=str(token_file) if token_file else None, hosts=hosts)
    before = set(web_threads())
    server = WebServer(cast(Service, service), Settings(web=web), web, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        until(lambda: set(web_threads()) <= before)


def web_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("web")]


@contextmanager
def called(server: WebServer, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_connection((address, server.port), timeout=30) as caller:
        yield caller


def sent(server: WebServer, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, end, and return the status, the headers and the body of the first answer."""
    with called(server) as caller:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            caller.sendall(request)
        return read_answer(caller)


def read_answer(caller: socket.socket) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = caller.recv(65536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        piece = caller.recv(65536)
        assert piece, body
        body += piece
    return int(first.split()[1]), headers, body


def got(server: WebServer, target: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    """Return the answer to a GET, its body as JSON; a header's name has _ for -."""
    given = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    status, found, body = sent(server, f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
    return status, found, json.loads(body) if "json" in found.get("content-type", "") else body


class OpenStream:
    """A page that is open: it reads /v1/live."""

    def __init__(self, address: str, port: int, *, token: str = "") -> None:
        self.socket = socket.create_connection((address, port), timeout=60)
        bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        self.socket.sendall(f"GET /v1/live HTTP/1.0\r\nHost: localhost\r\n{bearer}\r\n".encode())
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        while self._file.readline().strip():
            pass

    def __enter__(self) -> OpenStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def next(self) -> tuple[str, Any, str]:
        """Return kind, data and id of the next message; "" is the kind of a beat, "end" that of the end."""
        kind, data, identity = "", None, ""
        while line := self._file.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if not line.strip():
                return kind, data, identity
            if name == "event":
                kind = value
            elif name == "data":
                data = json.loads(value)
            elif name == "id":
                identity = value
        return "end", None, ""

    def wait(self, kind: str, matching: Callable[[Any], bool] = lambda _: True) -> Any:
        """Return the data of the next message of a kind that matches."""
        while True:
            found, data, _ = self.next()
            assert found != "end", f"the stream ended before a message {kind}"
            if found == kind and matching(data):
                return data
