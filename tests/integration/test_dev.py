"""`./dev run` keeps its promises: every example runs, Ctrl-C ends it all, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tank_agent.linux import mounts
from tank_agent.runtime import cgroup

ROOT = Path(__file__).parents[2]
TANK = Path(sys.executable).parent / "tank"
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.toml"))
DEADLINE = 100.0

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def run_directory(tmp_path: Path) -> Iterator[Path]:
    """Give `./dev run` a directory of its own, at a path with a space, and check what is left of it."""
    directory = tmp_path / "a b"
    yield directory
    assert left_behind(directory) == []


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


def tank(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TANK, *args],
        env=environment(directory),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def wait_for(directory: Path, pod: str) -> None:
    """Wait until a pod runs; the agent may not even listen yet."""
    deadline = time.monotonic() + DEADLINE
    while True:
        done = tank(directory, "wait", pod, "--timeout", "30s")
        if done.returncode == 0:
            return
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


def test_check_runs_every_example(run_directory: Path) -> None:
    done = check(run_directory)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()}
    assert set(EXAMPLES) <= lines.keys()


def test_check_fails_when_an_example_does_not_run(run_directory: Path) -> None:
    # An image directory that is there is taken as it is.
    image = run_directory / "images/busybox"
    image.mkdir(parents=True)
    (image / "index.json").write_text("{}")
    done = subprocess.run(
        [ROOT / "dev", "run", "--check"],
        env={**environment(run_directory), "TANK_DEV_CHECK_SECONDS": "3"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the log of the agent" in done.stderr


def test_ctrl_c_ends_agent_and_pods(run_directory: Path) -> None:
    with foreground(run_directory) as process:
        wait_for(run_directory, "hello")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(DEADLINE) == 0, (run_directory.parent / "output").read_text()


def test_a_second_run_is_refused(run_directory: Path) -> None:
    with foreground(run_directory) as process:
        wait_for(run_directory, "hello")
        second = check(run_directory)
        assert second.returncode == 1
        assert f"another ./dev run is alive in this checkout (process {process.pid})" in second.stderr
        assert tank(run_directory, "wait", "hello").returncode == 0


def test_a_killed_run_is_cleaned_up_by_the_next(run_directory: Path) -> None:
    with foreground(run_directory) as process:
        wait_for(run_directory, "hello")
        process.kill()
        process.wait(DEADLINE)
    assert left_behind(run_directory), "the container should have outlived the agent"
    done = check(run_directory)
    assert done.returncode == 0, done.stdout + done.stderr
