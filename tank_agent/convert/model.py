"""The input and output of a conversion: values with their places, new pod files, and remarks on the rest."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct, field

from tank_agent.errors import TankError


class SourcePlace(Struct, frozen=True):
    """A line of a file, counted from 1; 0 if it is not known."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class InvalidSource(TankError):
    """A file of another tool can't be converted: it is damaged, or says what that tool does not take.

    Args:
        place: the line of the mistake.
        message: what is wrong there and what would be right, as one sentence without a full stop.
        hint: what to do now, if that needs a line of its own.
    """

    reason = "invalid"
    exit_code = 2

    def __init__(self, place: SourcePlace, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, where=str(place), hint=hint)
        self.place = place


Plain: TypeAlias = "bool | int | float | str | tuple[Value, ...] | dict[str, Value] | None"


class Value(Struct, frozen=True):
    """A value of a file, at the place of its key or, in a list, of the item."""

    plain: Plain
    place: SourcePlace


class Remark(Struct, frozen=True, kw_only=True):
    """A sentence about a key of the source.

    `kind` is "lost" if the pod does not do what the key asks for, "note" if it does all the same, or if the
    key does nothing. `key` is its dotted path in the source, such as "services.web.build". `message` says
    what comes of it and what to do.
    """

    kind: Literal["lost", "note"]
    place: SourcePlace
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.message}"


class NewPodFile(Struct, frozen=True, kw_only=True):
    """A pod file to write: `name` is its stem, `pod` its keys in the form and order of a pod file.

    `beside` are the files that it names, by their path relative to it. `comments` are lines for its head.
    """

    name: str
    pod: dict[str, object]
    beside: dict[str, bytes] = field(default_factory=dict)
    comments: tuple[str, ...] = ()


class Conversion(Struct, frozen=True, kw_only=True):
    """The pod files that a source became, in the source's order, and the remarks on it.

    `keys` is how many keys the source has, 0 if nobody counted them.
    """

    files: tuple[NewPodFile, ...]
    remarks: tuple[Remark, ...] = ()
    keys: int = 0
