"""The kernel is called by `linux` alone: no other room goes past Python's own functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tank_agent

PACKAGE = Path(tank_agent.__file__).parent
ELSEWHERE = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "linux")
MODULES = ("ctypes", "cffi", "tank_agent.linux.libc")
# Of fcntl and socket: what asks the kernel for something with a number and a struct, or holds a lock.
NAMES = {
    "ioctl",
    "F_SETLEASE",
    "F_SETPIPE_SZ",
    "flock",
    "lockf",
    "SO_PEERCRED",
    "SO_PEERGROUPS",
    "fsync",
    "setrlimit",
    "unshare",
    "setns",
}


@pytest.mark.parametrize("path", ELSEWHERE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_room_calls_the_kernel_by_itself(path: Path) -> None:
    wrong = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            if isinstance(node, ast.Attribute) and node.attr in NAMES:
                wrong.append(f"line {node.lineno}: {node.attr}")
            continue
        wrong += [f"line {node.lineno}: {name}" for name in names if name.startswith(MODULES)]
    assert not wrong
