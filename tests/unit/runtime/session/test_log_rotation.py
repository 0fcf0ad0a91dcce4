"""The choice of logs to rotate, on files as conmon writes them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import structlog

from tank_agent.runtime.session.log_reader import log_files
from tank_agent.runtime.session.log_rotation import Rotation


class Machine:
    """Pods of one container each; whose logs are told to be opened again is kept."""

    def __init__(self, directory: Path, *pods: str) -> None:
        self.directory = directory
        self.names = pods
        self.reopened: list[str] = []
        self.control = self

    def pods(self) -> tuple[str, ...]:
        return self.names

    def runs(self, pod: str) -> list[Any]:
        record = SimpleNamespace(container="app", pod=pod, job_run=0)
        return [SimpleNamespace(record=record, started=True, monitor=17, directory=Path(pod))]

    def log(self, pod: str, container: str, job_run: int = 0) -> Path:
        return self.directory / pod / f"{container}.log"

    def reopen_log(self, directory: Path) -> float:
        self.reopened.append(directory.name)
        return 0.0


def test_a_log_that_cannot_be_rotated_keeps_no_other_from_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "bad", "good")
    for pod in machine.names:
        log = machine.log(pod, "app")
        log.parent.mkdir()
        log.write_bytes(b"x" * 1000)
    # Nothing that could be removed like a file.
    (tmp_path / "bad" / "app.log.9").mkdir()
    part = cast("Any", machine)
    rotation = Rotation(part, max_size=100, max_files=3)
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            rotation.check()
    # It is looked at every second, and told once.
    assert [(line["pod"], "exc_info" in line) for line in lines] == [("bad", False)]
    good = machine.log("good", "app")
    assert [path.name for path, _ in log_files(good)] == ["app.log.1"]
    assert set(machine.reopened) == {"good"}
