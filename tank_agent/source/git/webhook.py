"""A listener for pushes to GitHub, GitLab, Bitbucket, Gitea, Forgejo and Gogs. It only wakes the follower.

So a caller who knows the secret can make us poll once more, and nothing else; of all others only a little is
read. TLS is for the proxy in front; the default address is this machine only.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.server
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tank_agent.errors import Stalled
from tank_agent.retry import RateLimit
from tank_agent.settings.declaration import parse_listen
from tank_agent.settings.git import GitWebhook
from tank_agent.source.git.access import read_file

# GitHub sends up to 25 MiB; a body is hashed as it arrives and never kept.
BODY_LIMIT = 25 << 20
_LENGTH_DIGITS = 12
_SECRET_LIMIT = 4096
_CONNECTIONS = 8
_SECONDS = 10.0
# Headers that sign the raw body, and the prefix of their hexadecimal digits.
_SIGNATURES = (
    ("X-Hub-Signature-256", "sha256="),
    # Bitbucket's; GitHub puts SHA-1 there, beside the one above.
    ("X-Hub-Signature", "sha256="),
    ("X-Gitea-Signature", ""),
    ("X-Forgejo-Signature", ""),
    ("X-Gogs-Signature", ""),
)
_TOKEN = "X-Gitlab-Token"  # noqa: S105 - a header's name
_PROOFS = (*(name for name, _ in _SIGNATURES), _TOKEN)
# The largest body that is read without a proof, and from an address that sent too many wrong requests.
_SMALL_BODY = 64 << 10
_MEDIUM_BODY = 1 << 20
# Behind a proxy all callers have one address, so callers who know the secret are counted apart.
_SIGNED = "signed"


def authentic(secret: bytes, headers: Mapping[str, str], digest: str) -> bool:
    """Return whether a request proves that its sender knows the secret, in the same time for every guess.

    `digest` is the HMAC-SHA256 of the body under the secret, in hexadecimal digits.
    """
    for name, prefix in _SIGNATURES:
        given = headers.get(name)
        if given is not None:
            return hmac.compare_digest(given.encode(), (prefix + digest).encode())
    token = headers.get(_TOKEN)
    return token is not None and hmac.compare_digest(token.encode(), secret)


class WebhookServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Listens for webhooks in a thread.

    Args:
        settings: checked; `listen` and `secret_file` are both set.
        wake: must return at once.

    Raises:
        Stalled: the address is taken, or the secret cannot be used.
    """

    daemon_threads = True
    request_queue_size = 16

    def __init__(
        self, settings: GitWebhook, wake: Callable[[], None], *, limit: RateLimit | None = None
    ) -> None:
        address = parse_listen(settings.listen or "")
        self.secret = _secret(settings.secret_file or "")
        self.wake = wake
        self.limit = limit if limit is not None else RateLimit()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            message = f"cannot listen on {settings.listen}: {error.strerror}"
            raise Stalled(message, hint="see git.webhook") from error
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="git-webhook", daemon=True
        )

    @property
    def port(self) -> int:
        """Return the port, also if `listen` ends in :0 and the system chose it."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; requests that are being answered end within ten seconds."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or hang up if enough are busy already."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # There may be no more threads; the place is free again.
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for another request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: callers hang up, and every other error has a status."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request a connection, within ten seconds."""

    server_version = "tank"
    sys_version = ""
    server: WebhookServer

    def handle(self) -> None:
        """Answer, and hang up on callers who take too long, even if they keep sending."""
        timer = threading.Timer(_SECONDS, self._hang_up)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):
                super().handle()
        finally:
            timer.cancel()

    def do_POST(self) -> None:
        """Check a webhook and wake."""
        status = self._judge()
        if not self.server.limit.allows(_SIGNED if status == 202 else self.client_address[0]):
            status = 429
        if status == 202:
            self.server.wake()
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _judge(self) -> int:
        """Return the status of the answer, without the rate limit."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or "Transfer-Encoding" in self.headers:
            return 411
        # Zeros in front must not hide a large number from the bound, and Python refuses very long ones.
        if len(length) > _LENGTH_DIGITS or int(length) > BODY_LIMIT:
            return 413
        return self._judge_body(int(length))

    def _judge_body(self, left: int) -> int:
        if left > _SMALL_BODY and not any(name in self.headers for name in _PROOFS):
            return 403
        if left > _MEDIUM_BODY and self.server.limit.is_used_up(self.client_address[0]):
            return 429
        digest = hmac.new(self.server.secret, digestmod=hashlib.sha256)
        while left:
            part = self.rfile.read(min(left, 64 << 10))
            if not part:
                return 400
            digest.update(part)
            left -= len(part)
        known = authentic(self.server.secret, self.headers, digest.hexdigest())  # type: ignore[arg-type]
        return 202 if known else 403

    def log_message(self, *_: object) -> None:
        """Log nothing: a caller must not be able to fill a disk."""


def _secret(path: str) -> bytes:
    secret = read_file(path, "webhook.secret_file").strip()
    if not 16 <= len(secret) <= _SECRET_LIMIT:
        message = f"{path} must hold a secret of 16 to {_SECRET_LIMIT} bytes"
        raise Stalled(message, hint="openssl rand -hex 32 makes one")
    return secret
