"""The `[notify]` table of agent.toml: its keys, and their checks. Times are in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from tank_agent.settings.declaration import file_path, seconds
from tank_agent.spec.findings import show
from tank_agent.spec.keys import declare
from tank_agent.spec.network_values import is_loopback

# What `events` may name, in the order of the documentation.
KINDS = ("update", "unhealthy", "failing", "job", "git", "source", "disk", "agent")


def parse_webhook(text: str) -> SplitResult:
    """Return the parts of a webhook's address.

    Raises:
        ValueError: it is no address of HTTP. The message holds nothing of it but its scheme.
    """
    if any(char.isspace() or not char.isprintable() for char in text):
        raise ValueError("is no address: it has spaces or control characters in it")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("https", "http") or not host:
        raise ValueError('is no address of a web server; write one such as "https://hooks.example/T0/B0/x"')
    return parts


def _webhook(value: str) -> str:
    parse_webhook(value)
    return value


def _kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"{show(value)} is none of them; they are {', '.join(KINDS)}")
    return value


# A key stays on as few lines as its words need.
# fmt: off
class NotifySettings(Struct, frozen=True, kw_only=True):
    """Notifications: who is told when this machine needs a person, and when it no longer does."""

    urls_file: Annotated[str | None, file_path(
        "A file of apprise's URLs, one a line: root's, and not open to others, since they hold secrets.",
        "/etc/tank/notify.urls")] = None
    webhook: Annotated[str | None, declare(
        "An address that gets each notification as JSON by POST, as Slack and Mattermost take it.",
        "https://hooks.example/T0/B0/x", check=_webhook)] = None
    webhook_token_file: Annotated[str | None, file_path(
        "Holds a token, which is sent to the webhook as `Authorization: Bearer`.",
        "/etc/tank/webhook.token")] = None
    webhook_ca_file: Annotated[str | None, file_path(
        "Certificates of a private authority for the webhook, in PEM.", "/etc/tank/ca.pem")] = None
    webhook_insecure: Annotated[bool, declare(
        "Send to a webhook of another machine over http://, which others on the way can read.", True)] = False
    events: Annotated[tuple[str, ...], declare(
        f"What is told: {', '.join(KINDS)}.", ["update", "failing"], each=_kind)] = KINDS
    after: Annotated[float, seconds(
        "How long a pod must be unhealthy, or fail, or git, before that is told, 1s to 24h.", "10m", 1, 86_400
    )] = 300.0
    pause: Annotated[float, seconds(
        "How long what follows about the same pod is collected into one notification, 0s to 24h.", "10m", 0,
        86_400)] = 300.0


# fmt: on
def problems(settings: NotifySettings) -> Iterator[tuple[str, str]]:
    """Yield the errors that need a view of all settings, as (key, sentence)."""
    if settings.urls_file is None and settings.webhook is None:
        yield "urls_file", "is needed, or webhook: nobody would be told"
    if not settings.events:
        yield "events", "names nothing; remove it to be told of everything, or remove [notify]"
    if settings.webhook is None:
        for key in ("webhook_token_file", "webhook_ca_file"):
            if getattr(settings, key) is not None:
                yield key, "does nothing without webhook"
        return
    parts = parse_webhook(settings.webhook)
    plain = parts.scheme == "http" and not is_loopback(parts.hostname or "")
    if plain and not settings.webhook_insecure:
        message = "anybody on the way could read what goes over http://; use https://"
        yield "webhook", f"{message}, or set webhook_insecure = true for a network that is yours alone"
    if parts.scheme == "http" and settings.webhook_ca_file is not None:
        yield "webhook_ca_file", "does nothing for an address that begins with http://"
