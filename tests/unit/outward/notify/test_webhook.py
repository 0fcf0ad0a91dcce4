"""The webhook against servers that answer well, badly, and never; no error has its address."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.outward.notify import webhook
from tank_agent.outward.notify.channels import body_of_note
from tank_agent.outward.notify.memory import Note
from tank_agent.outward.notify.webhook import Webhook
from tests.support.probe_servers import serving
from tests.support.receivers import Answer, Receiver, certificate, receiver

BODY = body_of_note(Note(at=1.0, kind="test", state="info", title="a title"), "edge-1", "a message")
ELSEWHERE = "it answers with another address, which is not followed: write that one (HTTP 302)"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def sent(hook: Receiver, answer: Answer = (200, {}), token: Path | None = None) -> webhook.Delivery:
    hook.default = answer
    found = Webhook(f"{hook.url}/T0/canary", str(token) if token else None, None).send(BODY)
    assert "canary" not in found.error and str(hook.port) not in found.error
    return found


def test_it_is_one_post_of_json(hook: Receiver) -> None:
    assert sent(hook).error == ""
    [one] = hook.received
    assert one.path == "/T0/canary" and one.headers["content-type"] == "application/json"
    assert one.json["title"] == "edge-1: a title" and "authorization" not in one.headers


@pytest.mark.parametrize(
    ("answer", "error", "refused"),
    [
        ((500, {}), "HTTP 500 Internal Server Error: {}", False),
        ((404, {}), "HTTP 404 Not Found: {}", False),
        ((400, {}), "HTTP 400 Bad Request: {}", True),
        ((799, {}), "HTTP 799: {}", False),
        ((302, {"Location": "http://127.0.0.1:1/canary"}), ELSEWHERE, False),
        ("close", "it can't be reached (ConnectionError)", False),
    ],
)  # fmt: skip
def test_what_does_not_work_is_told(hook: Receiver, answer: Answer, error: str, refused: bool) -> None:
    found = sent(hook, answer)
    assert (found.error, found.refused) == (error, refused)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", 7), ("9999999", 3600), ("-3", 0), ("x", 0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0)],
)
def test_a_receiver_says_how_long_it_is_left_alone(hook: Receiver, given: str, seconds: float) -> None:
    assert sent(hook, (429, {"Retry-After": given})).wait == seconds
    assert sent(hook, (500, {"Retry-After": given})).wait == 0


@pytest.mark.parametrize("answer", ["hang", "drip"])
def test_one_that_never_answers_is_given_up(
    hook: Receiver, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(webhook, "_SECONDS", 0.7)
    begin = time.monotonic()
    assert sent(hook, answer).error == "it did not answer within 0.7 s"
    assert time.monotonic() - begin < 10.0


def test_one_that_sends_a_byte_every_few_seconds_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time; all of them would take for ever."""
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not ended.wait(2.0):
            connection.sendall(b"x")

    monkeypatch.setattr(webhook, "_SECONDS", 5.0)
    with serving(serve) as port:
        begin = time.monotonic()
        found = Webhook(f"http://127.0.0.1:{port}/canary", None, None).send(BODY)
        took = time.monotonic() - begin
        ended.set()
    assert found.error == "it did not answer within 5 s" and 4.5 < took < 30.0


def test_nobody_there_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/canary"
        assert Webhook(url, None, None).send(BODY).error == "it can't be reached: Connection refused"


def test_a_certificate_is_looked_at_and_may_be_of_a_private_authority(tmp_path: Path) -> None:
    cert = certificate(tmp_path)
    with receiver(tls=cert) as secure:
        found = Webhook(secure.url, None, None).send(BODY)
        assert found.error.startswith("its certificate is not to be trusted: ") and not secure.received
        assert Webhook(secure.url, None, str(cert[0])).send(BODY).error == "" and len(secure.received) == 1
        missing = Webhook(secure.url, None, "/nowhere/ca.pem").send(BODY)
        assert missing.error == "webhook_ca_file: /nowhere/ca.pem is not there"
        plain = Webhook(secure.url.replace("https", "http"), None, None).send(BODY)
        assert plain.error


def test_a_token_is_sent_and_its_file_must_be_closed(
    hook: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    file = tmp_path / "token"
    file.write_text("t0ken-canary\n")
    file.chmod(0o600)
    assert sent(hook, token=file).error == ""
    assert hook.received[0].headers["authorization"] == "Bearer t0ken-canary"
    file.chmod(0o644)
    assert sent(hook, token=file).error == f"webhook_token_file: {file} is open to others: chmod 600 {file}"
    file.unlink()
    assert (
        sent(hook, token=file).error == f"webhook_token_file: {file} can't be read: No such file or directory"
    )
