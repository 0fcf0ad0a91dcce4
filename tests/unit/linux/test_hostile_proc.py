"""What others name, as /proc shows it: a process its name, a user with FUSE a mount."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tank_agent.doctor import kernel, places
from tank_agent.linux import mounts
from tank_agent.runtime.container import conmon
from tank_agent.runtime.container.adopt import _end, _main_process
from tank_agent.runtime.limits.cgroup import CgroupHost

_NAMED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, os.fsencode(sys.argv[1]), 0, 0, 0)
if os.fork():
    os.write(1, b"named\\n")
sys.stdin.read()
"""


class _Group(CgroupHost, frozen=True, kw_only=True):
    pids: frozenset[int]

    def processes(self, path: str) -> frozenset[int]:
        return self.pids


@contextmanager
def _container(name: bytes) -> Iterator[frozenset[int]]:
    """Yield the processes of a PID namespace, two that call themselves something."""
    argv = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", _NAMED, os.fsdecode(name)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as unshare:
        assert unshare.stdout is not None
        assert unshare.stdout.readline() == b"named\n"
        (first,) = _children(unshare.pid)
        yield frozenset({first, *_children(first)})
        unshare.kill()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\x0cNSpid:\t7\t1", b"\rNSpid:\t1", b"a\x85b\x1cc"])
@pytest.mark.machine
def test_the_main_process_is_found_whatever_processes_call_themselves(name: bytes) -> None:
    with _container(name) as pids:
        for asked in (pids, pids - {min(pids)}):
            group = _Group(mode="unified", hierarchies=(), base="/tank", pids=asked)
            assert _main_process("/tank/web/one", group) == (min(pids) if min(pids) in asked else None)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a\rb", "one"),
        ("none", "a\rb"),
        ("none", "ü b"),
        ("none", "\udcff c"),
        ("none", "\\040"),
        ("\udcff", "d"),
    ],
)
@pytest.mark.machine
def test_mounts_are_found_whatever_users_call_theirs(tmp_path: Path, source: str, name: str) -> None:
    point = tmp_path / name
    point.mkdir()

    mounts.mount(source, point, "tmpfs")
    try:
        mounts.mount(source, point, "ramfs")
        mount_info = kernel.read("/proc/self/mountinfo")
        found = mounts.mount_points(tmp_path)
    finally:
        mounts.unmount_all(point)
    assert mount_info is not None
    assert (found, places.file_system(mount_info, point)) == ({point}, "ramfs")


@pytest.mark.machine
def test_a_program_in_a_container_is_nobodys_monitor(tmp_path: Path) -> None:
    said = "exec -a conmon sh -c 'echo named; read line' conmon -b " + str(tmp_path / "web-app-0123456789")
    for argv in (["unshare", "--pid", "--fork", "--kill-child"], []):
        with subprocess.Popen(
            [*argv, "bash", "-c", said], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as it:
            assert it.stdout is not None
            assert it.stdout.readline() == b"named\n"
            found = conmon.monitors(tmp_path)
            it.kill()
        assert found == ({} if argv else {"web-app-0123456789": it.pid})


def test_a_number_that_became_another_process_is_not_ended() -> None:
    group = _Group(mode="unified", hierarchies=(), base="/tank", pids=frozenset())
    with subprocess.Popen(["sleep", "60"]) as innocent:
        _end(innocent.pid, "/tank/web/one", group)
        assert innocent.poll() is None
        own = next(line for line in Path(f"/proc/{innocent.pid}/cgroup").read_text().splitlines())
        _end(innocent.pid, own.split(":", 2)[2], group)
        assert innocent.wait(10) == -signal.SIGKILL
