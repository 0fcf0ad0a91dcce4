"""Requests to the webhook listener: only the secret wakes, whatever else is sent, and each has an answer."""

from __future__ import annotations

import hashlib
import hmac
import random
import socket
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from tank_agent.retry import RateLimit
from tank_agent.settings.git import GitWebhook
from tank_agent.source.git.webhook import WebhookServer
from tests.fuzz.rounds import repeat

_SECRET = "0123456789abcdef0123456789abcdef"
_HEADERS = (
    "X-Hub-Signature-256",
    "X-Hub-Signature",
    "X-Gitea-Signature",
    "X-Gitlab-Token",
    "X-Gogs-Signature",
)
_VALUES = ("", "sha256=", "sha1=", "x", "\xff", _SECRET[:-1], f"{_SECRET}0", "sha256=" + "0" * 64, "0" * 64)
_LENGTHS = ("", "-1", "x", "0", "00002", "9" * 30, "2, 2", "\xb2", "1_0")


def once(rng: random.Random, port: int, woken: SimpleNamespace) -> None:
    """Send one request; it wakes if and only if it is signed."""
    body = rng.randbytes(rng.randrange(40))
    digest = hmac.new(_SECRET.encode(), body, hashlib.sha256).hexdigest()
    signed = rng.random() < 0.3
    proofs = [("X-Hub-Signature-256", f"sha256={digest}"), ("X-Gitea-Signature", digest)]
    proof = rng.choice([*proofs, ("X-Gitlab-Token", _SECRET)])
    name, value = proof if signed else (rng.choice(_HEADERS), rng.choice(_VALUES))
    length = str(len(body)) if signed or rng.random() < 0.7 else rng.choice(_LENGTHS)
    method = "POST" if signed else rng.choice(("POST", "GET", "PUT", "\0", "POST /"))
    lines = [f"{method} /{'x' * rng.randrange(50)} HTTP/1.1", f"{name}: {value}", f"Content-Length: {length}"]
    request = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    before = woken.count
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        caller.sendall(request)
        caller.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := caller.recv(4096):
            answer += piece
    assert answer, request
    assert (woken.count - before, b" 202 " in answer) == ((1, True) if signed else (0, False)), (
        request,
        answer,
    )


def fuzz(seed: int, seconds: float | None, rounds: int | None) -> None:
    """Fuzz the webhook listener."""
    woken = SimpleNamespace(count=0)

    def wake() -> None:
        woken.count += 1

    with tempfile.TemporaryDirectory(prefix="tank-fuzz-") as directory:
        secret = Path(directory) / "secret"
        secret.write_text(_SECRET)
        settings = GitWebhook(listen="127.0.0.1:0", secret_file=str(secret))
        server = WebhookServer(settings, wake, limit=RateLimit(burst=10**9))
        server.start()
        try:
            repeat(seed, seconds, rounds, partial(once, port=server.port, woken=woken))
        finally:
            server.stop()
