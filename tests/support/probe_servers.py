"""Servers for tests of probes, which behave as a test says: on the host's loopback, or on a pod's."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tank_agent.linux.namespaces import in_network_namespace

Serve = Callable[[socket.socket], None]
DEADLINE = 60.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.contextmanager
def listening(
    family: socket.AddressFamily = socket.AF_INET,
    *,
    port: int = 0,
    backlog: int = 16,
    netns: Path | None = None,
) -> Iterator[socket.socket]:
    """Listen on the loopback, of the namespace pinned at `netns` if one is given."""

    def make() -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM)

    with make() if netns is None else in_network_namespace(netns, make) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        listener.listen(backlog)
        yield listener


@contextlib.contextmanager
def serving(
    serve: Serve,
    family: socket.AddressFamily = socket.AF_INET,
    *,
    port: int = 0,
    netns: Path | None = None,
) -> Iterator[int]:
    """Serve one connection at a time, and return the port."""
    with listening(family, port=port, netns=netns) as listener:

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE)
        assert not thread.is_alive()


def answering(answer: bytes, seen: list[bytes] | None = None) -> Serve:
    """Return a server that reads a request, answers, and closes."""

    def serve(connection: socket.socket) -> None:
        request = connection.recv(65536)
        if seen is not None:
            seen.append(request)
        connection.sendall(answer)

    return serve


def silent(connection: socket.socket) -> None:
    """Read until the other side closes, and answer nothing."""
    connection.settimeout(DEADLINE)
    while connection.recv(65536):
        pass


def self_signed(directory: Path) -> Path:
    """Make a file with a key and a certificate that nobody signed, for another name."""
    file = directory / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-days", "1", "-subj", "/CN=other"),
            *("-keyout", str(file), "-out", f"{file}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    with file.open("a") as both:
        both.write(Path(f"{file}.crt").read_text())
    return file


def with_tls(certificate: Path, serve: Serve, names: list[str | None] | None = None) -> Serve:
    """Return a server that talks TLS, and notes the names that it is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(certificate)
    if names is not None:
        context.sni_callback = lambda _socket, name, _context: names.append(name)

    def secured(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inner:
            serve(inner)

    return secured
