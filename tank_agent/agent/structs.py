"""Build what msgspec knows of our structs, before threads need it.

msgspec does so when a struct is first read, in Python code that gives other threads their turn; another first
reader then finds half of it, and the process crashes (SIGSEGV, seen with 0.22).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


def prepare() -> None:
    """Build it for every struct of ours that is defined by now; to be called before threads are started."""
    for kind in set(_below(msgspec.Struct)):
        if kind.__module__.startswith("tank_agent."):
            msgspec.json.Decoder(kind)


def _below(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for derived in kind.__subclasses__():
        yield derived
        yield from _below(derived)
