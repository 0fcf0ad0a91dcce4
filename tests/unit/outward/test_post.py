"""A POST request to servers that are slow, closed, large, moved, or not who they say they are."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.outward.post import ANSWER_MAX, Post
from tests.support.agent import wait_for
from tests.support.git import free_port, make_certificate
from tests.support.probe_servers import OK, serving, with_tls


def send(port: int, post: Post | None = None, scheme: str = "http") -> tuple[int, dict[str, str], bytes]:
    return (post or Post(named=True)).send(
        f"{scheme}://127.0.0.1:{port}/x", {"Authorization": "token T"}, b"{}"
    )


def whole(connection: socket.socket) -> bytes:
    """Read a whole request: what is closed with bytes unread is reset, and the answer may be lost."""
    found = b""
    while not found.endswith(b"{}") and (part := connection.recv(65536)):
        found += part
    return found


def well(connection: socket.socket) -> None:
    whole(connection)
    connection.sendall(OK)


def test_an_answer_comes_back_and_no_more_than_its_begin() -> None:
    asked = list[bytes]()

    def serve(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(
            b"HTTP/1.1 201 Created\r\nX-One: 1\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000
        )

    with serving(serve) as port:
        status, headers, body = send(port)
    assert (status, headers["x-one"], len(body)) == (201, "1", ANSWER_MAX)
    assert asked[0].startswith(b"POST /x HTTP/1.1\r\n") and b"Authorization: token T\r\n" in asked[0]


def test_a_redirect_is_not_followed() -> None:
    calls = list[bytes]()
    body = b"x" * 50_000

    def serve(connection: socket.socket) -> None:
        calls.append(whole(connection))
        # What belongs to it has no end; it is not read.
        connection.sendall(
            b"HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 999999999\r\n\r\n" + body
        )
        connection.recv(1)

    with serving(serve) as port:
        status, _, said = send(port)
        assert (status, len(said)) == (307, ANSWER_MAX)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("scheme", "part"),
    [
        ("http", b"H"),
        ("http", b"HTTP/1.1 200 OK\r\nX: "),
        ("http", b"HTTP/1.1 200 OK\r\n\r\n"),
        # A long record of TLS's handshake.
        ("https", b"\x16\x03\x03\x3f\xff"),
    ],
)
def test_who_sends_a_byte_now_and_then_is_cut_off(scheme: str, part: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(part)
        while True:
            time.sleep(0.05)
            connection.sendall(b"x")

    with serving(serve) as port:
        begin = time.monotonic()
        within = "did not answer within 1 s" if scheme == "http" else r"no connection within 0\.5 s"
        with pytest.raises(Retry, match=within):
            send(port, Post(seconds=1.0), scheme)
        assert time.monotonic() - begin < 10.0


def test_who_hangs_up_or_is_not_there_or_speaks_otherwise() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1)

    with serving(serve) as port, pytest.raises(Retry, match=rf"^127\.0\.0\.1:{port}: it can't be reached"):
        send(port)
    with pytest.raises(Retry, match="Connection refused"):
        send(free_port())

    def noise(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

    with serving(noise) as port, pytest.raises(Retry):
        send(port)


# Over TLS, it waits for the server's part in the handshake.
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_agent_ends_a_request_that_is_under_way(scheme: str) -> None:
    asked = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        asked.set()
        connection.recv(65536)

    post, errors = Post(seconds=600.0), list[Exception]()

    def ask(port: int) -> None:
        try:
            send(port, post, scheme)
        except Retry as error:
            errors.append(error)

    with serving(serve) as port:
        thread = threading.Thread(target=ask, args=(port,))
        thread.start()
        wait_for(asked.is_set, "the request is under way")
        post.cut()
        thread.join(20.0)
        assert not thread.is_alive() and errors
        with pytest.raises(Retry):
            send(port, post)


def test_certificates_are_checked(tmp_path: Path) -> None:
    ca, server = make_certificate(tmp_path)
    with serving(with_tls(server, well)) as port:
        with pytest.raises(Stalled, match="its certificate is not to be trusted") as caught:
            send(port, scheme="https")
        assert "ca_file" in (caught.value.hint or "")
        with pytest.raises(Stalled) as caught:
            send(port, Post(), scheme="https")
        assert "127" not in str(caught.value) and str(port) not in str(caught.value)
        assert send(port, Post(ca=str(ca)), scheme="https")[0] == 200

    def drip(connection: socket.socket) -> None:
        whole(connection)
        while True:
            connection.sendall(b"H")
            time.sleep(0.05)

    with serving(with_tls(server, drip)) as port, pytest.raises(Retry, match="did not answer within 1 s"):
        send(port, Post(seconds=1.0, ca=str(ca)), scheme="https")
    (tmp_path / "none.pem").write_text("none")
    with pytest.raises(Stalled, match=r"git\.ca_file: .* holds no certificate in PEM"):
        send(1, Post(ca=str(tmp_path / "none.pem")), scheme="https")


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[bytes]()

    def serve(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    with serving(serve) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://ann:pw@127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "")
        with pytest.raises(Retry, match=r"^it can't be reached: the proxy answers 403$"):
            Post().send("https://git.example/x", {"Authorization": "token T"}, b"{}")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        with serving(well) as direct:
            assert send(direct)[0] == 200
    assert len(asked) == 1
    assert asked[0].startswith(b"CONNECT git.example:443") and b"token T" not in asked[0]
