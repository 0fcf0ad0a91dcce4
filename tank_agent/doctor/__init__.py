"""Look whether this machine can run pods: one small function a question, each with an answer that helps.

`kernel`, `tools` and `places` hold the questions, most as pure functions of what was read; `examine` asks all
of them. Nothing is changed, and nothing is left behind.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Result = Literal["ok", "warn", "fail"]


class Check(Struct, frozen=True, kw_only=True):
    """An answer: `found` describes the machine, and `fix` the remedy, empty when all is well."""

    name: str
    result: Result
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Check:
    """Answer that all is well."""
    return Check(name=name, result="ok", found=found)


def warn(name: str, found: str, fix: str) -> Check:
    """Answer that pods run, but something is worse than it could be."""
    return Check(name=name, result="warn", found=found, fix=fix)


def fail(name: str, found: str, fix: str) -> Check:
    """Answer that pods can't run like this."""
    return Check(name=name, result="fail", found=found, fix=fix)
