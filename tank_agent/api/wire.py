"""Errors as JSON, {"error": {"reason", "message", "where", "hint", "problems": [...]}}, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from tank_agent.api.types import Envelope, ErrorBody
from tank_agent.errors import (
    AgentUnreachable,
    ImageInUse,
    InvalidSpec,
    NotATty,
    NotRunning,
    OwnedElsewhere,
    PodNotFound,
    Problem,
    Retry,
    Stalled,
    TankError,
    VolumeInUse,
)
from tank_agent.spec.printable import to_json

_T = TypeVar("_T")

DEFAULT_GROUP = "tank"
JOIN_GROUP = "use sudo, or `sudo usermod -aG {group} USER` and log in again"

_STATUS: tuple[tuple[type[TankError], int], ...] = (
    (InvalidSpec, 422),
    (PodNotFound, 404),
    (OwnedElsewhere, 409),
    (VolumeInUse, 409),
    (ImageInUse, 409),
    (NotRunning, 409),
    (NotATty, 409),
    # The same request is refused until a person changes something.
    (Stalled, 409),
    (Retry, 503),
)


def http_status(error: TankError) -> int:
    """Return the HTTP status code that an error of the agent travels with."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_body(error: TankError) -> ErrorBody:
    """Return an error as it is on the wire."""
    return ErrorBody(
        reason=error.reason,
        message=error.message,
        where=error.where,
        hint=error.hint,
        problems=error.problems if isinstance(error, InvalidSpec) else (),
    )


def encode_error(body: ErrorBody) -> bytes:
    """Encode an error answer as JSON."""
    return to_json(Envelope(body))


def decode_error(status: int, content: bytes) -> TankError:
    """Turn an error answer back into the error that the agent raised."""
    try:
        body = msgspec.json.decode(content, type=Envelope).error
    except msgspec.DecodeError:
        return TankError(f"the agent answered with HTTP status {status} and no explanation")
    return raised_error(body, status)


def raised_error(body: ErrorBody, status: int = 500) -> TankError:
    """Return the error that the agent raised; an unknown reason becomes a class that fits the status."""
    kind = next((kind for kind in subclasses(TankError) if kind.reason == body.reason), None)
    if kind is not None and issubclass(kind, InvalidSpec):
        return kind(body.problems)
    # A class with a constructor of its own has attributes that are not on the wire.
    if kind is None or kind.__init__ is not TankError.__init__:
        kind = {403: AgentUnreachable, 503: Retry}.get(status, TankError)
    return kind(body.message, where=body.where, hint=body.hint)


def decode_text(content: bytes, file: str) -> str:
    """Decode the text of a pod file.

    Raises:
        InvalidSpec: it is not UTF-8, as TOML has to be.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{content[error.start]:02x} is not valid UTF-8; save the file as UTF-8"
        raise InvalidSpec((Problem(file, line, "", message),)) from None


def subclasses(kind: type[_T]) -> Iterator[type[_T]]:
    """Yield the classes that are derived from a class, also over others."""
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)
