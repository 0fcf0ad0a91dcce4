"""The declaration of a call of the API: its request, who answers it, and the client's method that asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from msgspec import Struct

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Call(Struct, Generic[_T], frozen=True, kw_only=True):
    """One thing that can be asked: a request, the service's method that answers it, and the answer's struct.

    `{name}` in the path is one segment, and an argument of that method. `patience` is how many seconds the
    agent may take beyond the usual, `body` how many bytes may be sent.
    """

    request: str
    service: str
    answer: type[_T]
    patience: float = 0.0
    body: int = 0
    upgrade: str = ""

    @property
    def method(self) -> str:
        """Return the method of HTTP."""
        return self.request.partition(" ")[0]

    @property
    def path(self) -> str:
        """Return the path with its placeholders."""
        return self.request.partition(" ")[2]


class Asker(Protocol):
    """What sends a request and decodes its answer."""

    def ask(self, call: Call[_T], **arguments: str) -> _T:
        """Return the answer; raises the TankError that the agent raised."""
        ...


# What `asks` declared, by the names of the methods.
PLAIN: dict[str, Call[Any]] = {}


def asks(
    request: str, answer: type[_T], service: str = "", *, patience: float = 0.0
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Make a method without a body ask the agent: its arguments fill the placeholders of the path."""

    def declare(stub: Callable[_P, _T]) -> Callable[_P, _T]:
        name, code = stub.__name__, stub.__code__
        names = code.co_varnames[1 : code.co_argcount]
        call = PLAIN[name] = Call(request=request, service=service or name, answer=answer, patience=patience)

        @wraps(stub)
        def ask(asker: Asker, *values: str, **named: str) -> _T:
            answer: _T = asker.ask(call, **dict(zip(names, values, strict=False)), **named)
            return answer

        return ask  # type: ignore[return-value]

    return declare
