"""The receivers of notifications, and what a message to one of them looks like.

A receiver's address holds secrets: it has a name that tells nothing of them, and what a receiver says is
shown without any part of its address.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import unquote

from msgspec import Struct

from tank_agent.linux.clock import rfc3339
from tank_agent.linux.paths import NotReadableError
from tank_agent.outward.notify.memory import Message, Note
from tank_agent.spec.printable import escape

# Characters of what a receiver says that are shown.
_SAID = 300
# Shorter parts of an address are no secrets, but words such as "v1".
_SECRET = 3
_MENTION = re.compile(r"@(?=everyone|channel|here|all\b)", re.IGNORECASE)
_NO_WIDTH = "\u200b"


class Delivery(Struct, frozen=True, kw_only=True):
    """The end of a try: `error` is empty if the receiver took the message.

    `wait` is for how many seconds it wants to be left alone. `refused`: it will never take this message.
    """

    error: str = ""
    wait: float = 0.0
    refused: bool = False


class Receiver(Protocol):
    """One receiver; `name` is for people, and the same as long as its place in the configuration is."""

    name: str

    def send(self, body: Body) -> Delivery:
        """Send a message, and return within the deadline of the receiver's kind."""


class Body(Struct, frozen=True, kw_only=True):
    """A message as receivers get it; `at` is RFC 3339. Control characters are written as escapes."""

    host: str
    pod: str
    container: str
    kind: str
    event: str
    state: str
    title: str
    message: str
    at: str
    revision: str
    file: str

    @property
    def text(self) -> str:
        """Return title and message, for receivers that take one text."""
        return f"{self.title}\n{self.message}".strip()


def body_of(message: Message, host: str) -> Body:
    """Return what receivers get of a message."""
    note = message.note
    lines = [note.message]
    if message.dropped:
        lines.append(f"{message.dropped} older notifications could not be sent, and were dropped")
    return body_of_note(note, host, "\n".join(line for line in lines if line))


def body_of_note(note: Note, host: str, message: str) -> Body:
    """Return what receivers get of a note with this message."""
    found = Body(
        host=host,
        pod=note.pod,
        container=note.container,
        kind=note.kind,
        event=note.event,
        state=note.state,
        title=f"{host}: {note.title}",
        message=message,
        at=rfc3339(round(note.at, 3)),
        revision=note.revision,
        file=note.file,
    )
    return Body(**{name: harmless(getattr(found, name)) for name in Body.__struct_fields__})


def harmless(text: str) -> str:
    """Return a text that steers no terminal, and mentions no room full of people."""
    return _MENTION.sub(f"@{_NO_WIDTH}", escape(text, keep="\n"))


def without_address(text: str, addresses: Sequence[str]) -> str:
    """Return what was said, on one line and without any part of the addresses."""
    secrets: set[str] = set()
    for address in addresses:
        _, _, rest = address.partition("://")
        for part in re.split(r"[/@:?&=#,\s]+", rest):
            secrets |= {part, unquote(part)}
        secrets |= {rest, rest.rstrip("/")}
    for secret in sorted((one for one in secrets if len(one) >= _SECRET), key=len, reverse=True):
        text = text.replace(secret, "…")
    text = escape(" ".join(text.split()))
    return f"{text[: _SAID - 1]}…" if len(text) > _SAID else text


def unreadable(error: Exception, file: str) -> str:
    """Return why a file of secrets can't be used, as a sentence that names it."""
    if isinstance(error, OSError):
        return f"{file} can't be read: {error.strerror}"
    return f"{file} {error if isinstance(error, NotReadableError) else 'is no text'}"
