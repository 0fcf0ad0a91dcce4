"""Check whether this machine can run pods: one function a question, whose answer names a remedy.

`kernel`, `tools`, `places` and their neighbours hold the questions, most as pure functions of what was read;
`examine` asks all that need no agent, and `tank doctor` those about the secrets and devices of pods. Nothing
is changed, and nothing is left behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

Result = Literal["ok", "note", "warn", "fail"]
_SHOWN = 3


class Check(Struct, frozen=True, kw_only=True):
    """An answer: `found` describes the machine; `fix` is the remedy, empty if none is needed."""

    name: str
    result: Result
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Check:
    """Answer that nothing is missing."""
    return Check(name=name, result="ok", found=found)


def note(name: str, found: str, fix: str) -> Check:
    """Answer that all is well, and what may be good to know."""
    return Check(name=name, result="note", found=found, fix=fix)


def warn(name: str, found: str, fix: str) -> Check:
    """Answer that pods run, but with a limitation."""
    return Check(name=name, result="warn", found=found, fix=fix)


def fail(name: str, found: str, fix: str) -> Check:
    """Answer that pods can't run."""
    return Check(name=name, result="fail", found=found, fix=fix)


def fail_of(name: str, wrong: Sequence[str], fix: str) -> Check:
    """Answer with the first of many things that are wrong, and how many more there are."""
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return fail(name, f"{'; '.join(wrong[:_SHOWN])}{more}", fix)
