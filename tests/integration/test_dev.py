"""`./dev run` keeps its promises: every example runs, Ctrl-C ends it all, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dev_run import DEADLINE, ROOT, check, environment, foreground, left_behind, tank, wait_for

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.toml"))


@pytest.fixture
def run_directory(tmp_path: Path) -> Iterator[Path]:
    """Give `./dev run` a directory of its own, at a path with a space, and check what is left of it."""
    directory = tmp_path / "a b"
    yield directory
    assert left_behind(directory) == []


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
        wait_for(process, run_directory, "hello")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(DEADLINE) == 0, (run_directory.parent / "output").read_text()


def test_a_second_run_is_refused(run_directory: Path) -> None:
    with foreground(run_directory) as process:
        wait_for(process, run_directory, "hello")
        second = check(run_directory)
        assert second.returncode == 1
        assert f"another ./dev run is alive in this checkout (process {process.pid})" in second.stderr
        assert tank(run_directory, "wait", "hello").returncode == 0


def test_a_killed_run_is_cleaned_up_by_the_next(run_directory: Path) -> None:
    with foreground(run_directory) as process:
        wait_for(process, run_directory, "hello")
        process.kill()
        process.wait(DEADLINE)
    assert left_behind(run_directory), "the container should have outlived the agent"
    done = check(run_directory)
    assert done.returncode == 0, done.stdout + done.stderr
