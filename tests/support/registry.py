"""Registries for tests: Debian's docker-registry on loopback, and one of ours that misbehaves on demand."""

from __future__ import annotations

import base64
import fcntl
import json
import socket
import ssl
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

USER, PASSWORD = "alice", "correct horse"


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for loopback; return its file and its key's."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    argv += [
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        names,
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(argv, check=True, capture_output=True)
    return certificate, key


@contextmanager
def docker_registry(
    directory: Path, *, password: bool = False, tls: tuple[Path, Path] | None = None, port: int = 0
) -> Iterator[str]:
    """Run docker-registry with its data in a directory; yields "127.0.0.1:PORT"."""
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if tls is not None:
        config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    if password:
        argv = ["htpasswd", "-Bbn", USER, PASSWORD]
        (directory / "htpasswd").write_bytes(subprocess.run(argv, check=True, capture_output=True).stdout)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    # JSON is YAML.
    (directory / "config.yml").write_text(json.dumps(config))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", directory / "config.yml"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_for_port(port)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def wait_for_port(port: int, timeout: float = 20.0) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def skopeo_copy(source: str, target: str, *options: str) -> None:
    """Copy an image; nothing is verified on loopback."""
    argv = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    done = subprocess.run([*argv, *options, source, target], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def write_auth(path: Path, host: str, user: str = USER, password: str = PASSWORD) -> Path:
    """Write a credentials file."""
    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": secret}}}))
    return path


class Request:
    """What the fake registry was asked, and how to answer."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        self.path = handler.path
        self.method = handler.command
        self.headers = handler.headers
        length = int(handler.headers.get("Content-Length") or 0)
        self.body = handler.rfile.read(length).decode()

    def answer(self, status: int = 200, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        """Send a response; `length` may lie about the body's, and -1 leaves it out."""
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        if length != -1:
            self._handler.send_header("Content-Length", str(len(body) if length is None else length))
        self._handler.end_headers()
        if self.method != "HEAD":
            self.write(body)

    def write(self, data: bytes) -> None:
        """Send more of the body."""
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def hang_up(self) -> None:
        """Close the connection after this."""
        self._handler.close_connection = True

    def reset(self) -> None:
        """Reset the connection once all that was sent has arrived."""
        connection = self._handler.connection
        deadline = time.monotonic() + 20
        while struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0]:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.hang_up()
        self._handler.rfile.close()
        self._handler.wfile.close()
        connection.close()


class FakeRegistry:
    """Serves an OCI layout as repository "image", tag = the layout's; `rules` may answer instead of it.

    A rule gets the request and returns True if it answered. `log` holds "METHOD path" with " auth" if a
    secret came.
    """

    def __init__(self, layout: Path) -> None:
        self.layout = layout
        self.rules: list[Callable[[Request], bool]] = []
        self.log: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.stop = threading.Event()
        self.address = ""

    def serve(self, request: Request) -> None:
        """Answer one request."""
        secret = " auth" if request.headers.get("Authorization") else ""
        self.log.append(f"{request.method} {request.path}{secret}")
        self.headers.append(dict(request.headers))
        if any(rule(request) for rule in list(self.rules)):
            return
        self.serve_truly(request)

    def serve_truly(self, request: Request) -> None:
        """Answer as a registry should."""
        kind, _, name = request.path.removeprefix("/v2/image/").partition("/")
        if kind == "manifests":
            found = self._manifest(name)
            if found is not None:
                data, stated = self._blob(found["digest"]), {"Docker_Content_Digest": found["digest"]}
                request.answer(body=data, Content_Type=found["mediaType"], **stated)
                return
        if kind == "blobs" and (self.layout / "blobs/sha256" / name.removeprefix("sha256:")).exists():
            data = self._blob(name)
            wanted = request.headers.get("Range", "")
            if wanted:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                span = f"bytes {start}-{len(data) - 1}/{len(data)}"
                request.answer(206, data[start:], Content_Range=span)
            else:
                request.answer(body=data)
            return
        body = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such thing"}]}).encode()
        request.answer(404, body)

    def rule(self, part: str, answer: Callable[[Request], None], times: int = 1_000_000) -> None:
        """Answer requests whose path holds `part` this way, so many times."""
        left = [times]

        def apply(request: Request) -> bool:
            if part not in request.path or left[0] == 0:
                return False
            left[0] -= 1
            answer(request)
            return True

        self.rules.append(apply)

    def count(self, part: str) -> int:
        """Return how many requests had this in their line of the log."""
        return sum(part in line for line in self.log)

    def _manifest(self, name: str) -> dict[str, Any] | None:
        if name.startswith("sha256:"):
            path = self.layout / "blobs/sha256" / name.removeprefix("sha256:")
            if not path.exists():
                return None
            return {"digest": name, "mediaType": json.loads(path.read_text())["mediaType"]}
        for entry in json.loads((self.layout / "index.json").read_text())["manifests"]:
            if entry["annotations"]["org.opencontainers.image.ref.name"] == name:
                found: dict[str, Any] = entry
                return found
        return None

    def _blob(self, digest: str) -> bytes:
        return (self.layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are the point of many tests."""


@contextmanager
def fake_registry(
    layout: Path, tls: tuple[Path, Path] | None = None, host: str = "127.0.0.1"
) -> Iterator[FakeRegistry]:
    """Run a fake registry on loopback; its `address` is "127.0.0.1:PORT"."""
    registry = FakeRegistry(layout)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            registry.serve(Request(self))

        def do_HEAD(self) -> None:
            registry.serve(Request(self))

        def do_POST(self) -> None:
            registry.serve(Request(self))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    kind = type("_Server6", (_Server,), {"address_family": socket.AF_INET6}) if ":" in host else _Server
    server = kind((host, 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    registry.address = f"{f'[{host}]' if ':' in host else host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        registry.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
