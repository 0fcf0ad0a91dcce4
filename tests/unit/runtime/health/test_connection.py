"""One attempt of a tcp or http probe, against real servers on the loopback that behave well and badly."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.runtime.health.connection import Connection, ProbeTarget, target_of
from tank_agent.runtime.health.probe import Probe
from tank_agent.runtime.health.result import ProbeResult
from tank_agent.spec.model import HttpProbe
from tests.support.probe_servers import answering, listening, self_signed, serving, silent, with_tls

TIMEOUT = 60.0


def host_socket(family: socket.AddressFamily) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def probe(**kind: Any) -> Probe:
    return Probe(
        interval=1.0,
        timeout=1.0,
        retries=1,
        start_period=0.0,
        start_interval=1.0,
        on_failure="none",
        **kind,
    )


def target(**kind: Any) -> ProbeTarget:
    found = target_of(probe(**kind))
    assert found is not None
    return found


def attempt(aim: ProbeTarget, timeout: float = TIMEOUT) -> ProbeResult:
    """Carry an attempt out as the thread of probes does."""
    connection = Connection(aim, host_socket)
    until = time.monotonic() + timeout
    result = connection.begin()
    while result is None:
        poller = select.epoll()
        poller.register(connection.descriptor, connection.events)
        if not poller.poll(max(0.0, until - time.monotonic())):
            result = connection.expire(timeout)
        else:
            result = connection.go_on()
        poller.close()
    assert connection.descriptor == -1
    return result


def http(port: int, **fields: Any) -> ProbeTarget:
    return target(http=HttpProbe(port=port, **fields))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_port_that_listens_is_good(family: socket.AddressFamily) -> None:
    with listening(family) as listener:
        assert attempt(target(tcp=listener.getsockname()[1])).good


def test_a_port_that_is_closed_is_refused_at_both_addresses() -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
    result = attempt(target(tcp=port))
    assert (result.good, result.ours) == (False, False)
    assert result.message == f"cannot connect to port {port}: Connection refused"


def test_a_full_accept_queue_hangs_until_the_timeout_and_is_a_failure() -> None:
    with listening(backlog=0) as listener, contextlib.ExitStack() as stack:
        port = listener.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(host_socket(socket.AF_INET))
            assert waiting.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
        began = time.monotonic()
        result = attempt(target(tcp=port), 0.3)
        assert result.message == f"no connection to port {port} within 0.3 s"
        assert not result.ours
        assert time.monotonic() - began < TIMEOUT


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 204 No Content\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 399 Odd\r\n\r\n",
        # It is not followed.
        b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 4_000_000,
        b"HTTP/1.1 200 " + b"O" * 3000 + b"\r\n\r\n",
    ],
    ids=lambda answer: answer[:40].decode().strip(),
)
def test_good_answers(answer: bytes) -> None:
    with serving(answering(answer)) as port:
        assert attempt(http(port)).good


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answers 503 Service Unavailable"),
        (b"HTTP/1.1 404 \x1b[31mred\r\n\r\n", "answers 404 \\x1b[31mred"),
        (b"HTTP/1.1 400\r\n\r\n", "answers 400"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "answers 101 Switching Protocols"),
        (b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 500 No\r\n\r\n", "answers 500 No"),
        (b"HTTP/1.1 999 Odd\r\n\r\n", "answers 999 Odd"),
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK", "does not answer in HTTP but with 'HTTP/1.1 200 OK'"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer in HTTP but with 'SSH-2.0-OpenSSH_9.2\\r\\n'"),
        (b"HTTP/1.1 OK\r\n\r\n", "does not answer in HTTP"),
        (b"HTTP/1.1 200 " + b"O" * 5000, "does not answer in HTTP"),
        (b"\0" * 100_000, "does not answer in HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "does not answer in HTTP"),
    ],
    ids=lambda value: value[:30].decode(errors="replace").strip() if isinstance(value, bytes) else "",
)
def test_bad_answers(answer: bytes, message: str) -> None:
    with serving(answering(answer)) as port:
        result = attempt(http(port))
    assert (result.good, result.ours) == (False, False)
    assert message in result.message
    assert result.message.isprintable()


def test_an_answer_in_pieces_is_read_to_the_end_of_its_first_line() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"HTTP/1.1 200 OK\r\n":
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        connection.recv(1)

    with serving(serve) as port:
        assert attempt(http(port)).good


def test_a_server_that_dribbles_is_a_failure_at_the_timeout() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        for byte in b"HTTP/1.1 200" * 100:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    with serving(serve) as port:
        result = attempt(http(port), 0.3)
    assert result.message == f"no answer from port {port} within 0.3 s"


def test_a_server_that_resets_the_connection_is_a_failure() -> None:
    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving(serve) as port:
        result = attempt(http(port))
    assert (result.good, result.ours) == (False, False)
    assert "port" in result.message


def test_the_request() -> None:
    seen: list[bytes] = []
    with serving(answering(b"HTTP/1.1 200 OK\r\n\r\n", seen)) as port:
        assert attempt(http(port)).good
        assert attempt(http(port, path="/a?b=c", headers={"host": "web.lan", "X-Key": "1"})).good
    first, second = (request.decode().split("\r\n") for request in seen)
    wanted = ["GET / HTTP/1.1", "Host: localhost", "User-Agent: tank-probe", "Accept: */*"]
    assert first == [*wanted, "Connection: close", "", ""]
    assert second[:2] == ["GET /a?b=c HTTP/1.1", "host: web.lan"]
    assert "X-Key: 1" in second
    assert "Host: localhost" not in second


def test_a_request_that_the_other_side_does_not_take_at_once() -> None:
    seen = bytearray()

    def serve(connection: socket.socket) -> None:
        while b"\r\n\r\n" not in seen[-8:]:
            seen.extend(connection.recv(100_000))
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with serving(serve) as port:
        assert attempt(http(port, headers={"X-Large": "x" * 20_000_000})).good
    assert len(seen) > 20_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_tls_with_a_certificate_of_nobody(certificate: Path) -> None:
    names: list[str | None] = []
    with serving(with_tls(certificate, answering(b"HTTP/1.1 200 OK\r\n\r\n"), names)) as port:
        assert attempt(http(port, tls=True)).good
        assert attempt(http(port, tls=True, headers={"Host": "web.lan:8443"})).good
        # No names that TLS can send.
        assert attempt(http(port, tls=True, headers={"Host": "127.0.0.1:443"})).good
        assert attempt(http(port, tls=True, headers={"Host": "." + "x" * 300})).good
    assert names == ["localhost", "web.lan", None, None]


def test_tls_and_a_bad_answer(certificate: Path) -> None:
    with serving(with_tls(certificate, answering(b"HTTP/1.1 500 No\r\n\r\n"))) as port:
        assert attempt(http(port, tls=True)).message == f"port {port} answers 500 No"


def test_tls_asked_of_a_server_without_it() -> None:
    with serving(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert attempt(http(port, tls=True)).message.startswith(f"no TLS at port {port}")


def test_a_server_that_is_silent_in_the_handshake() -> None:
    with serving(silent) as port:
        assert attempt(http(port, tls=True), 0.2).message == f"no TLS at port {port} within 0.2 s"
        assert attempt(http(port), 0.2).message == f"no answer from port {port} within 0.2 s"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOENT, errno.EINVAL])
def test_a_socket_that_cannot_be_made_is_an_error_of_ours(number: int) -> None:
    def fail(_family: socket.AddressFamily) -> socket.socket:
        raise OSError(number, os.strerror(number))

    result = Connection(target(tcp=1), fail).begin()
    assert result is not None
    assert (result.good, result.ours) == (False, True)


def test_a_pod_without_ipv6_is_judged_by_its_ipv4() -> None:
    def open_socket(family: socket.AddressFamily) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return host_socket(family)

    with listening() as listener:
        port = listener.getsockname()[1]
    result = Connection(target(tcp=port), open_socket).begin()
    assert result is not None
    assert result.message == f"cannot connect to port {port}: Connection refused"


def test_an_aborted_attempt_leaves_no_socket_behind() -> None:
    """A socket that is closed in order may live on in the kernel, and would keep the pod's network."""
    accepted = threading.Event()

    def serve(connection: socket.socket) -> None:
        accepted.set()
        with pytest.raises(ConnectionResetError):
            while connection.recv(65536):
                pass

    with serving(serve) as port:
        connection = Connection(http(port), host_socket)
        assert connection.begin() is None
        assert accepted.wait(TIMEOUT)
        connection.abort()
        connection.abort()
        assert connection.descriptor == -1
        assert connection.go_on() is None


def test_only_probes_by_the_network_have_a_target() -> None:
    assert target_of(probe(exec=("/check",))) is None
    assert target(tcp=5).request == b""


class ScriptedSocket:
    """A socket that is connected at once, and gives out chunks: an empty list is the end of the stream."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks, self.given, self.closed = list(chunks), 0, False

    def connect_ex(self, _address: object) -> int:
        return 0

    def send(self, data: bytes) -> int:
        return len(data)

    def recv(self, size: int) -> bytes:
        if not self.chunks:
            return b""
        data, self.chunks[0] = self.chunks[0][:size], self.chunks[0][size:]
        if not self.chunks[0]:
            del self.chunks[0]
        if not data:
            raise BlockingIOError
        self.given += len(data)
        return data

    def fileno(self) -> int:
        return -1 if self.closed else 9

    def setsockopt(self, *_: object) -> None:
        pass

    def close(self) -> None:
        self.closed = True


PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 ",
        b"200",
        b"100",
        b" ",
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"HTTP/",
        b"\0",
        b"",
    ]
)


@given(st.lists(st.one_of(PIECES, st.binary(max_size=50), st.just(b"x" * 5000)), max_size=30))
def test_any_answer_has_a_result(chunks: list[bytes]) -> None:
    scripted = ScriptedSocket(chunks)
    connection = Connection(http(80), lambda _: cast("socket.socket", scripted))
    result = connection.begin()
    for _ in range(len(chunks) + 2):
        if result is not None:
            break
        result = connection.go_on()
    assert result is not None
    assert not result.ours
    assert scripted.closed
    assert scripted.given <= 4096
    assert result.message.isprintable()
    assert len(result.message.encode()) <= 4096
    whole = b"".join(chunks)[:4096]
    if result.good:
        assert re.search(rb"HTTP/\d\.\d [23]\d\d", whole)
