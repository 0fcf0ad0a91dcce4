"""Every file in examples/ runs as it is, and does what its comment says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dev_run import DEADLINE, ROOT, foreground, left_behind, tank, wait_for

# Example → its phase in the end, and a line that each of its containers prints on the way.
EXPECTED = {
    "hello": ("running", {"counter": "hello, 2 times"}),
    "web": ("running", {"client": "hello from the server"}),
    "worker": ("running", {"worker": "start 1 of a worker as root in /tmp"}),
    "job": ("completed", {"sum": "the sum is 5050"}),
    "nightly": ("scheduled", {}),
    "retry": ("completed", {"migrate": "done"}),
    "configured": ("running", {"reader": "hello, from a file beside the pod file"}),
    "checked": ("running", {"fill": "filled", "reader": "fine since the first start"}),
}


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("examples") / "run"
    with foreground(directory) as process:
        for name, (phase, _) in EXPECTED.items():
            wait_for(process, directory, name, phase)
        yield directory
    assert left_behind(directory) == []


def status(directory: Path, pod: str) -> dict[str, Any]:
    done = tank(directory, "status", pod, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wait_for_line(path: Path, line: str) -> None:
    """Wait until a container's log (k8s-file: time, stream, F or P, text) has a line."""
    deadline = time.monotonic() + DEADLINE
    while True:
        text = path.read_text() if path.exists() else ""
        if line in (entry.split(" ", 3)[-1] for entry in text.splitlines()):
            return
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def test_every_example_is_tested() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.toml")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs(run_directory: Path, name: str) -> None:
    phase, lines = EXPECTED[name]
    for container, line in lines.items():
        wait_for_line(run_directory / f"data/logs/{name}/{container}.log", line)
    found = status(run_directory, name)
    assert found["phase"] == phase
    assert found["error"] is None


def test_the_retried_job_failed_once(run_directory: Path) -> None:
    (container,) = status(run_directory, "retry")["containers"]
    assert container["restarts"] == 1
    assert container["exit"]["code"] == 0


def test_the_nightly_job_runs_by_hand(run_directory: Path) -> None:
    done = tank(run_directory, "run", "nightly")
    assert (done.returncode, done.stdout) == (0, "1 nights so far\n"), done.stderr
    assert tank(run_directory, "logs", "nightly").stdout == done.stdout


def test_the_checked_one_is_healthy_and_good(run_directory: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while (found := status(run_directory, "checked"))["rollout"]["state"] != "good":
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert found["health"] == "healthy"
