"""Receivers of notifications on loopback, for tests: webhooks and ntfy, which also answer badly on demand."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from msgspec import Struct

# How one request is answered: status and headers, or what is done in place of an answer.
Answer = tuple[int, dict[str, str]] | str
OK: Answer = (200, {})


class Received(Struct, frozen=True, kw_only=True):
    """One request: its time (monotonic), path, headers in small letters, and body."""

    at: float
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """Return the body as JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Receiver:
    """A server on loopback that keeps all that is sent to it; `answers` are used up first, then it is OK.

    An answer may also be "close" (without a word), "hang" (until the end), or "drip" (a head without end).
    """

    def __init__(self, *, tls: tuple[Path, Path] | None = None) -> None:
        self.received: list[Received] = []
        self.answers: list[Answer] = []
        self.default: Answer = OK
        self.ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                body = self.rfile.read(length)
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.received.append(
                    Received(at=time.monotonic(), path=self.path, headers=headers, body=body)
                )
                self.answer(outer.answers.pop(0) if outer.answers else outer.default)

            def answer(self, answer: Answer) -> None:
                if answer == "close":
                    self.close_connection = True
                elif answer == "hang":
                    outer.ended.wait()
                elif answer == "drip":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    while not outer.ended.wait(0.2):
                        self.wfile.write(b"X-More: 1\r\n")
                else:
                    assert not isinstance(answer, str)
                    self.send_response(answer[0])
                    for name, value in answer[1].items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """End the server."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def told(self) -> list[dict[str, Any]]:
        """Return the JSON of all that was sent."""
        return [one.json for one in tuple(self.received)]

    @property
    def titles(self) -> list[str]:
        """Return the titles of all that was sent, without the machine's name."""
        return [str(one["title"]).partition(": ")[2] for one in self.told]


@contextmanager
def receiver(*, tls: tuple[Path, Path] | None = None) -> Iterator[Receiver]:
    """Run a receiver until the end of the block."""
    found = Receiver(tls=tls)
    try:
        yield found
    finally:
        found.close()


def certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that only who has it as an authority trusts; return it and its key."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


def quiet_for(seconds: float, condition: Callable[[], bool]) -> bool:
    """Return whether a condition stays true for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not condition():
            return False
        time.sleep(0.05)
    return True
