"""Run `./dev run` in a directory of its own, talk to its agent, and find what it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tank_agent.linux import mounts
from tank_agent.runtime.limits import cgroup

ROOT = Path(__file__).parents[2]
TANK = Path(sys.executable).parent / "tank"
DEADLINE = 100.0


def left_behind(directory: Path) -> list[str]:
    groups = cgroup.detect(directory / "run")
    return [
        *(f"mount {point}" for point in mounts.mount_points(directory)),
        *(f"cgroup {path}" for path in groups.directories(groups.base)),
        *(f"process {line}" for line in command_lines() if str(directory) in line),
    ]


def command_lines() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            raw = (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield raw.replace(b"\0", b" ").decode(errors="replace")


def environment(directory: Path) -> dict[str, str]:
    return {
        **os.environ,
        "TANK_DEV_RUN": str(directory),
        "TANK_SOCKET": str(directory / "run/tank.sock"),
    }


def type_in(directory: Path, seconds: float, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a shell with what a page says, beside `./dev run` in a directory, for some seconds at most."""
    return subprocess.run(
        argv,
        cwd=ROOT,
        env=environment(directory),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def tank(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TANK, *args],
        env=environment(directory),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def wait_for(process: subprocess.Popen[bytes], directory: Path, pod: str, phase: str = "running") -> None:
    """Wait until a pod of `./dev run` is in a phase; the agent may not even listen yet."""
    deadline = time.monotonic() + DEADLINE
    while True:
        done = tank(directory, "wait", pod, "--for", phase, "--timeout", "30s")
        if done.returncode == 0:
            return
        assert process.poll() is None, (directory.parent / "output").read_text()
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "dev", "run", "--check"],
        env=environment(directory),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@contextmanager
def foreground(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `./dev run` as a terminal would: the leader of a process group, which Ctrl-C goes to."""
    with (directory.parent / "output").open("wb") as output:
        process = subprocess.Popen(
            [ROOT / "dev", "run"],
            env=environment(directory),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
