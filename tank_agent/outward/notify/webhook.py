"""The webhook: a message as JSON by POST. Nothing of its address is in a message, a log or an error."""

from __future__ import annotations

import errno
import os
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

import msgspec
import requests

from tank_agent import __version__
from tank_agent.linux.paths import NotReadableError
from tank_agent.outward.notify.channels import Body, Delivery, unreadable, without_address
from tank_agent.runtime.secrets.identities import read_key

# Seconds for a connection, and between two pieces of an answer.
_TIMEOUT = (5.0, 10.0)
# Bytes of an answer that are read.
_ANSWER = 2048
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
        try:
            with requests.Session() as session:
                # No ~/.netrc, which would take the token's place.
                session.trust_env = False
                session.proxies.update(requests.utils.get_environ_proxies(self._url))
                with session.post(
                    self._url,
                    data=payload(body),
                    headers=headers,
                    timeout=_TIMEOUT,
                    verify=self._ca_file or True,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    said = response.raw.read(_ANSWER, decode_content=True) or b""
                    return _judged(response, said.decode(errors="replace"), secrets)
        except (requests.RequestException, OSError, ValueError) as error:
            return Delivery(error=_reason(error, secrets))
        except Exception as error:
            # Of urllib3, while an answer is read; its text may have the address.
            return Delivery(error=f"its answer can't be read ({type(error).__name__})")


def payload(body: Body) -> bytes:
    """Return the JSON of a message; `text` has the form in which Slack and Mattermost take it.

    Slack: &, < and > are written as entities, so that nothing in a text becomes a mention or a link
    (api.slack.com/reference/surfaces/formatting, "Escaping text").
    """
    text = body.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    fields = {name: getattr(body, name) for name in Body.__struct_fields__}
    return msgspec.json.encode({"text": text, **fields})


def _judged(response: requests.Response, said: str, secrets: list[str]) -> Delivery:
    code = response.status_code
    if 200 <= code < 300:
        return Delivery()
    if 300 <= code < 400:
        message = "it answers with another address, which is not followed: write that one (HTTP {})"
        return Delivery(error=message.format(code))
    phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else ""
    words = without_address(said, secrets)
    error = f"HTTP {code} {phrase}".strip() + (f": {words}" if words else "")
    wait = _retry_after(response.headers.get("Retry-After", "")) if code in _FULL else 0.0
    return Delivery(error=error, wait=wait, refused=code in _REFUSED)


def _retry_after(text: str) -> float:
    """Return the seconds that a Retry-After header asks for (RFC 9110 section 10.2.3)."""
    try:
        seconds = (
            float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
        )
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, min(seconds, _WAIT_MAX))


def _reason(error: BaseException, secrets: list[str]) -> str:
    """Return what went wrong; texts of requests have the address in them."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {_TIMEOUT[0]:g} s"
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {_TIMEOUT[1]:g} s"
    found = (_of_cause(cause, secrets) for cause in _causes(error))
    return next((text for text in found if text), f"it can't be reached ({type(error).__name__})")


def _of_cause(cause: BaseException, secrets: list[str]) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {without_address(cause.verify_message, secrets)}"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS with it: {without_address(cause.reason or 'it failed', secrets)}"
    if type(cause).__name__ in ("NameResolutionError", "gaierror"):
        return "its name can't be resolved"
    if isinstance(cause, OSError) and cause.errno in errno.errorcode:
        return f"it can't be reached: {os.strerror(cause.errno or 0)}"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it was made of."""
    left, seen = [error], set[int]()
    while left and len(seen) < 20:
        found = left.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
        left += [one for one in inner if isinstance(one, BaseException)]
