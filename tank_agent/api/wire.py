"""Errors as JSON, {"error": {"reason", "message", "where", "hint", "problems": [...]}}, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from tank_agent import errors
from tank_agent.api.types import Envelope, ErrorBody
from tank_agent.spec.printable import to_json

_T = TypeVar("_T")

DEFAULT_GROUP = "tank"
JOIN_GROUP = "use sudo, or `sudo usermod -aG {group} USER` and log in again"

_STATUS: dict[tuple[type[errors.TankError], ...], int] = {
    (errors.InvalidSpec,): 422,
    (errors.PodNotFound,): 404,
    # The same request is refused until a person changes something.
    (errors.OwnedElsewhere, errors.VolumeInUse, errors.ImageInUse): 409,
    (errors.NotRunning, errors.NotATty, errors.Stalled, errors.CannotCopy): 409,
    (errors.Retry,): 503,
}


def http_status(error: errors.TankError) -> int:
    """Return the HTTP status code that an error of the agent travels with."""
    return next((status for kinds, status in _STATUS.items() if isinstance(error, kinds)), 500)


def error_body(error: errors.TankError) -> ErrorBody:
    """Return an error as it is on the wire."""
    return ErrorBody(
        reason=error.reason,
        message=error.message,
        where=error.where,
        hint=error.hint,
        problems=error.problems if isinstance(error, errors.InvalidSpec) else (),
    )


def encode_error(body: ErrorBody) -> bytes:
    """Encode an error answer as JSON."""
    return to_json(Envelope(body))


def decode_error(status: int, content: bytes) -> errors.TankError:
    """Turn an error answer back into the error that the agent raised."""
    try:
        body = msgspec.json.decode(content, type=Envelope).error
    except msgspec.DecodeError:
        return errors.TankError(f"the agent answered with HTTP status {status} and no explanation")
    return raised_error(body, status)


def raised_error(body: ErrorBody, status: int = 500) -> errors.TankError:
    """Return the error that the agent raised; an unknown reason becomes a class that fits the status."""
    kind = next((kind for kind in subclasses(errors.TankError) if kind.reason == body.reason), None)
    if kind is not None and issubclass(kind, errors.InvalidSpec):
        return kind(body.problems)
    # A class with a constructor of its own has attributes that are not on the wire.
    if kind is None or kind.__init__ is not errors.TankError.__init__:
        kind = {403: errors.AgentUnreachable, 503: errors.Retry}.get(status, errors.TankError)
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
        raise errors.InvalidSpec((errors.Problem(file, line, "", message),)) from None


def subclasses(kind: type[_T]) -> Iterator[type[_T]]:
    """Yield the classes that are derived from a class, also over others."""
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)
