"""The end of one attempt of a probe."""

from __future__ import annotations

from msgspec import Struct

from tank_agent.spec.printable import escape

MESSAGE_SIZE = 4 << 10
_CUT = "…"


class ProbeResult(Struct, frozen=True, kw_only=True):
    """The end of an attempt.

    Either it is `good`, or `message` says why not. `ours`: it failed by an error of ours, so it says nothing
    about the container.
    """

    good: bool = False
    ours: bool = False
    message: str = ""


GOOD = ProbeResult(good=True)


def bad(message: str) -> ProbeResult:
    """Return the end of an attempt that the container failed."""
    return ProbeResult(message=printable(message))


def ours(message: str) -> ProbeResult:
    """Return the end of an attempt that came to nothing by an error of ours."""
    return ProbeResult(ours=True, message=printable(message))


def printable(text: str) -> str:
    """Return a text that steers no terminal and takes at most 4 KiB as UTF-8."""
    safe = escape(text).encode(errors="replace")
    if len(safe) <= MESSAGE_SIZE:
        return safe.decode()
    return safe[: MESSAGE_SIZE - len(_CUT.encode())].decode(errors="ignore") + _CUT


def printable_end(text: str, size: int) -> str:
    """Return the end of a text that takes at most `size` bytes, and steers no terminal."""
    safe = escape(text).encode(errors="replace")
    if len(safe) <= size:
        return safe.decode()
    return _CUT + safe[len(_CUT.encode()) - size :].decode(errors="ignore")
