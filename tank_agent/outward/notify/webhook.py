"""The webhook: a message as JSON by POST. Nothing of its address is in a message, a log or an error."""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

import msgspec

from tank_agent import __version__
from tank_agent.errors import TankError
from tank_agent.linux.paths import NotReadableError
from tank_agent.outward.notify.channels import Body, Delivery, unreadable, without_address
from tank_agent.outward.post import Post
from tank_agent.retry import retry_after
from tank_agent.runtime.secrets.identities import read_key

# Seconds for a message in all.
_SECONDS = 15.0
# The longest that a receiver may ask to be left alone, in seconds.
_WAIT_MAX = 3600.0
_REFUSED = frozenset((400, 413, 415, 422))
_FULL = frozenset((429, 503))


class Webhook:
    """Sends to one address; `token_file` and `ca_file` are read again for each message."""

    name = "webhook"

    def __init__(self, url: str, token_file: str | None, ca_file: str | None) -> None:
        self._url, self._token_file, self._ca_file = url, token_file, ca_file

    def send(self, body: Body) -> Delivery:
        """Send a message; a redirect is an error, since the next place has no right to the secrets."""
        headers = {"Content-Type": "application/json", "User-Agent": f"tank-agent/{__version__}"}
        secrets = [self._url]
        if self._token_file is not None:
            try:
                token = read_key(self._token_file).decode("ascii").strip()
            except (OSError, NotReadableError, UnicodeDecodeError) as error:
                return Delivery(error=f"webhook_token_file: {unreadable(error, self._token_file)}")
            headers["Authorization"] = f"Bearer {token}"
            secrets.append(f"token://{token}")
        if self._ca_file is not None and not Path(self._ca_file).is_file():
            return Delivery(error=f"webhook_ca_file: {self._ca_file} is not there")
        post = Post(seconds=_SECONDS, ca=self._ca_file, setting="webhook_ca_file", alone=True)
        try:
            status, answered, said = post.send(self._url, headers, payload(body))
        except TankError as error:
            return Delivery(error=error.message)
        return _judged(status, answered, said.decode(errors="replace"), secrets)


def payload(body: Body) -> bytes:
    """Return the JSON of a message; `text` has the form in which Slack and Mattermost take it.

    Slack: &, < and > are written as entities, so that nothing in a text becomes a mention or a link
    (api.slack.com/reference/surfaces/formatting, "Escaping text").
    """
    text = body.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    fields = {name: getattr(body, name) for name in Body.__struct_fields__}
    return msgspec.json.encode({"text": text, **fields})


def _judged(code: int, headers: Mapping[str, str], said: str, secrets: list[str]) -> Delivery:
    if 200 <= code < 300:
        return Delivery()
    if 300 <= code < 400:
        message = "it answers with another address, which is not followed: write that one (HTTP {})"
        return Delivery(error=message.format(code))
    phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else ""
    words = without_address(said, secrets)
    error = f"HTTP {code} {phrase}".strip() + (f": {words}" if words else "")
    wait = retry_after(headers.get("retry-after", ""), time.time(), _WAIT_MAX) if code in _FULL else None
    return Delivery(error=error, wait=wait or 0.0, refused=code in _REFUSED)
