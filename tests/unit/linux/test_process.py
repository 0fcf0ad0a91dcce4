"""Programs that the agent runs: none outlives its deadline, and why one did not start is said."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import pidfd, process


def parent_of(number: Path) -> int:
    """Return the process whose number a script wrote, once it has."""
    end = time.monotonic() + 20
    while not (number.exists() and number.read_text().strip()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(number.read_text())


def is_gone(pid: int) -> bool:
    descriptor = pidfd.open_process(pid)
    if descriptor is None:
        return True
    try:
        return pidfd.wait(descriptor, 10_000)
    finally:
        os.close(descriptor)


def test_what_a_hung_program_started_ends_with_it(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path / 'child'}; wait"
    with pytest.raises(Retry, match="did not finish within 1 s"):
        process.run(["/bin/sh", "-c", script], timeout=1)
    assert is_gone(parent_of(tmp_path / "child"))


@pytest.mark.parametrize(
    ("content", "mode", "error"),
    [
        (None, 0, "not installed"),
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("nonsense", 0o755, "Exec format"),
    ],
)
def test_a_program_that_cannot_be_run_is_named(
    tmp_path: Path, content: str | None, mode: int, error: str
) -> None:
    program = tmp_path / "program"
    if content is not None:
        program.write_text(content)
        program.chmod(mode)
    with pytest.raises(Stalled, match=rf"cannot run .*program: .*{error}"):
        process.run([str(program)], timeout=10)
    assert process.version(str(program)) == ""


def test_a_tree_of_processes_is_killed_whole_though_its_members_left_the_group(tmp_path: Path) -> None:
    script = f"setsid sh -c 'sleep 1000 & echo $! > {tmp_path / 'child'}; wait' & wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.DEVNULL) as root:
        child = parent_of(tmp_path / "child")
        descriptor = os.pidfd_open(root.pid)
        pidfd.kill_tree(descriptor)
        assert root.wait(10) == -9
        assert pidfd.process_id(descriptor) is None
        pidfd.kill_tree(descriptor)
        os.close(descriptor)
    assert is_gone(child)
