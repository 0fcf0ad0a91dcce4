"""Check whether this machine can run pods: one function a question, whose answer names a remedy.

`kernel`, `tools` and `places` hold the questions, most as pure functions of what was read; `examine` asks all
of them. Nothing is changed, and nothing is left behind.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Result = Literal["ok", "warn", "fail"]


class Check(Struct, frozen=True, kw_only=True):
    """An answer: `found` describes the machine; `fix` is the remedy, empty if none is needed."""

    name: str
    result: Result
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Check:
    """Answer that nothing is missing."""
    return Check(name=name, result="ok", found=found)


def warn(name: str, found: str, fix: str) -> Check:
    """Answer that pods run, but with a limitation."""
    return Check(name=name, result="warn", found=found, fix=fix)


def fail(name: str, found: str, fix: str) -> Check:
    """Answer that pods can't run."""
    return Check(name=name, result="fail", found=found, fix=fix)
