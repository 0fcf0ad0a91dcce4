"""Counts what code does instead of timing it: the same on a loaded machine as on an idle one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import tank_agent

# The rooms of audit events that stand for system calls, or for a longer start.
_OPENS = ("import", "open", "os", "socket", "ctypes", "subprocess", "glob", "pathlib", "fcntl", "shutil")
PACKAGE = str(Path(tank_agent.__file__).parent)


def operations(do: Callable[[], object]) -> int:
    """Return how many byte code instructions of our package `do` takes in this thread."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(before)
    return count


def assert_linear(measure: Callable[[int], int], few: int = 40) -> None:
    """Fail if four times as many take clearly more than four times as much."""
    small, large = measure(few), measure(4 * few)
    assert small > few, f"{small} operations for {few}: nothing was counted"
    assert large < 5 * small, f"{small} operations for {few}, {large} for {4 * few}"


_audit = threading.local()


def audited(do: Callable[[], object]) -> list[str]:
    """Return the names of what `do` opens, imports, connects or starts in this thread (audit events)."""
    if not hasattr(_audit, "seen"):
        # A hook can't be taken away again.
        _audit.seen = None
        thread = threading.get_ident()

        def note(event: str, _: object) -> None:
            if threading.get_ident() == thread and _audit.seen is not None:
                _audit.seen.append(event)

        sys.addaudithook(note)
    seen: list[str] = []
    _audit.seen = seen
    try:
        do()
    finally:
        _audit.seen = None
    return [event for event in seen if event.partition(".")[0] in _OPENS]
