"""Servers on loopback that answer git in ways that no specification has, and proxies."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Let a function answer each connection in a thread of its own, and yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()
    open_ones: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            answer(client)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            if stopped.is_set():
                client.close()
                return
            open_ones.append(client)
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        stopped.set()
        with socket.socket() as poke:
            poke.connect_ex(listener.getsockname())
        thread.join()
        listener.close()
        for client in open_ones:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def head_of(client: socket.socket) -> bytes:
    """Read up to the end of a request's head."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = client.recv(65536)
        if not part:
            break
        head += part
    return head


def saying(reply: bytes) -> Callable[[socket.socket], None]:
    """Answer every request with these bytes, and hang up."""

    def answer(client: socket.socket) -> None:
        head_of(client)
        client.sendall(reply)

    return answer


def silent(client: socket.socket) -> None:
    """Take a request, and say nothing until the caller gives up."""
    while client.recv(65536):
        pass


class Proxy:
    """An HTTP proxy that knows CONNECT; `login` is "user:password", or None for anybody."""

    def __init__(self, login: str | None = None) -> None:
        self._login = login
        self.asked: list[str] = []
        self.refused = 0

    @contextmanager
    def running(self) -> Iterator[str]:
        """Yield the proxy's address without scheme."""
        with serving(self._answer) as port:
            yield f"127.0.0.1:{port}"

    def _answer(self, client: socket.socket) -> None:
        head = head_of(client).decode("latin-1")
        method, target, _ = head.split(" ", 2)
        if self._login is not None:
            proof = "Basic " + base64.b64encode(self._login.encode()).decode()
            if f"proxy-authorization: {proof}".lower() not in head.lower():
                self.refused += 1
                client.sendall(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                    b'Proxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
                )
                return
        assert method == "CONNECT", head
        self.asked.append(target)
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _relay(client, server)


def _relay(client: socket.socket, server: socket.socket) -> None:
    while True:
        for source in select.select([client, server], [], [])[0]:
            data = source.recv(65536)
            if not data:
                return
            (server if source is client else client).sendall(data)
