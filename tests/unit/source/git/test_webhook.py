"""The webhook listener, over real sockets: who may wake the agent, and what others cost it."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import socketserver
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.retry import RateLimit
from tank_agent.settings.git import GitWebhook
from tank_agent.source.git import webhook
from tank_agent.source.git.webhook import WebhookServer, authentic

SECRET = "0123456789abcdef0123456789abcdef"


class Listener:
    def __init__(self, base: Path, limit: RateLimit | None = None) -> None:
        (base / "secret").write_text(SECRET + "\n")
        self.woken = 0
        settings = GitWebhook(listen="127.0.0.1:0", secret_file=str(base / "secret"))
        self.server = WebhookServer(settings, self.wake, limit=limit)
        self.server.start()

    def wake(self) -> None:
        self.woken += 1

    def send(self, headers: dict[str, str], body: bytes = b"{}", method: str = "POST") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request(method, "/", body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def raw(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
            connection.sendall(request)
            return connection.recv(4096)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(tmp_path)
    yield made
    made.server.stop()


def sign(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


BODY = b'{"ref": "refs/heads/main"}'


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Hub-Signature-256": "sha256=" + sign(BODY), "X-GitHub-Event": "push"},
        {"X-Gitea-Signature": sign(BODY)},
        {"X-Forgejo-Signature": sign(BODY)},
        {"X-Gitlab-Token": SECRET},
        # Bitbucket; Gogs; and Gitea, which sends the signatures of its ancestors along.
        {"X-Hub-Signature": "sha256=" + sign(BODY)},
        {"X-Gogs-Signature": sign(BODY)},
        {"X-Hub-Signature": "sha1=" + "0" * 40, "X-Hub-Signature-256": "sha256=" + sign(BODY)},
    ],
)
def test_each_kind_of_host_wakes(listener: Listener, headers: dict[str, str]) -> None:
    assert listener.send(headers, BODY) == 202
    assert listener.woken == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Hub-Signature-256": sign(BODY)},
        {"X-Hub-Signature-256": "sha256=" + sign(BODY + b" ")},
        {"X-Hub-Signature-256": "sha256=" + sign(BODY, "other")},
        {"X-Hub-Signature-256": "sha256=", "X-Gitlab-Token": SECRET},
        {"X-Hub-Signature-256": "sha1=" + sign(BODY)},
        {"X-Hub-Signature": "sha1=" + sign(BODY)},
        {"X-Hub-Signature": sign(BODY)},
        {"X-Gogs-Signature": "sha256=" + sign(BODY)},
        {"X-Gitea-Signature": ""},
        {"X-Gitlab-Token": SECRET[:-1]},
        {"X-Gitlab-Token": "\u00fc".encode().decode("latin-1")},
    ],
)
def test_who_does_not_know_the_secret_wakes_nobody(listener: Listener, headers: dict[str, str]) -> None:
    assert listener.send(headers, BODY) == 403
    assert listener.woken == 0


def test_only_bounded_posts_are_read(listener: Listener) -> None:
    assert listener.send({}, b"", method="GET") == 501
    head = b"POST / HTTP/1.1\r\nHost: x\r\n"
    for lines, status in (
        (b"", b"411"),
        (b"Transfer-Encoding: chunked\r\n", b"411"),
        (b"Content-Length: -1\r\n", b"411"),
        (b"Content-Length: %d\r\n" % (26 << 20), b"413"),
        (b"Content-Length: %s\r\n" % (b"9" * 300), b"413"),
        (b"Content-Length: %s9\r\n" % (b"0" * 12), b"413"),
        (b"Content-Length: %s9\r\n" % (b"0" * 5000), b"413"),
        (b"X: " + b"y" * 70_000 + b"\r\n", b"431"),
    ):
        assert b" " + status + b" " in listener.raw(head + lines + b"\r\n").split(b"\r\n")[0]
    assert listener.woken == 0


def test_a_large_body_is_hashed_not_kept(listener: Listener) -> None:
    body = b"x" * (8 << 20)
    assert listener.send({"X-Gitea-Signature": sign(body)}, body) == 202


def test_callers_are_limited(tmp_path: Path) -> None:
    now = [0.0]
    listener = Listener(tmp_path, RateLimit(burst=3, rate=1, clock=lambda: now[0]))
    try:
        right = {"X-Gitlab-Token": SECRET}
        assert [listener.send(right) for _ in range(5)] == [202, 202, 202, 429, 429]
        now[0] = 2.0
        assert [listener.send(right) for _ in range(3)] == [202, 202, 429]
    finally:
        listener.server.stop()


def test_strangers_from_the_same_proxy_switch_nobody_off(tmp_path: Path) -> None:
    listener = Listener(tmp_path, RateLimit(burst=3, rate=0, clock=lambda: 0.0))
    try:
        wrong = [listener.send(headers, BODY) for headers in [{}, {"X-Gogs-Signature": "0" * 64}] * 3]
        assert wrong == [403, 403, 403, 429, 429, 429]
        # GitHub's documented example has such a body, real pushes have some hundred kilobytes.
        body = b"x" * (512 << 10)
        assert listener.send({"X-Hub-Signature-256": "sha256=" + sign(body)}, body) == 202
        assert listener.woken == 1
        # They cost a bounded read each: of large bodies, and of those without any proof, nothing is read.
        head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n%s\r\n"
        assert b" 429 " in listener.raw(head % (2 << 20, b"X-Gogs-Signature: 0\r\n"))
        assert b" 429 " in listener.raw(head % (2 << 20, b""))
    finally:
        listener.server.stop()


def test_a_body_without_any_proof_is_not_read(listener: Listener) -> None:
    answer = listener.raw(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (2 << 20))
    assert b" 403 " in answer.split(b"\r\n")[0]


def test_who_drips_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_SECONDS", 0.2)
    listener = Listener(tmp_path)
    try:
        slow = [socket.create_connection(("127.0.0.1", listener.server.port), timeout=10) for _ in range(8)]
        for connection in slow:
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nx")
        for connection in slow:
            assert len(connection.recv(4096)) >= 0
            connection.close()
        # Others have their time, as this test may be held up, too.
        monkeypatch.setattr(webhook, "_SECONDS", 60.0)
        assert listener.send({"X-Gitlab-Token": SECRET}) == 202
    finally:
        listener.server.stop()


def test_the_rate_limit_forgets_the_oldest() -> None:
    limit = RateLimit(burst=1, rate=0, clock=lambda: 0.0)
    assert limit.allows("first")
    assert not limit.allows("first")
    for number in range(1024):
        limit.allows(str(number))
    assert limit.allows("first")


def test_comparison_takes_every_header_as_it_is() -> None:
    assert not authentic(SECRET.encode(), {"X-Gitea-Signature": "\u00fc"}, sign(BODY))


@pytest.mark.parametrize(
    ("listen", "secret", "words"),
    [
        ("192.0.2.1:0", SECRET, "cannot listen"),
        ("127.0.0.1:0", "short", "16 to 4096"),
        ("127.0.0.1:0", None, "secret_file"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, listen: str, secret: str | None, words: str) -> None:
    file = tmp_path / "secret"
    if secret is not None:
        file.write_text(secret)
    with pytest.raises(Stalled, match=words):
        WebhookServer(GitWebhook(listen=listen, secret_file=str(file)), lambda: None)


def test_a_machine_short_of_threads_silences_it_for_no_longer_than_that(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short:
        short.setattr(socketserver.ThreadingMixIn, "process_request", refuse)
        for _ in range(20):
            with pytest.raises((OSError, http.client.HTTPException)):
                listener.send({"X-Gitlab-Token": SECRET})
    assert listener.send({"X-Gitlab-Token": SECRET}) == 202
