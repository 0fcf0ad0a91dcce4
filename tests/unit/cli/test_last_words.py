"""The lines about containers that ended badly: each with its own command, if there are several."""

from __future__ import annotations

from typing import Any

from tank_agent.api.reports import ContainerReport, ExitReport, JobReport, PodReport
from tank_agent.cli.last_words import last_words


def container(name: str, phase: str = "backing-off", line: str | None = None, **end: Any) -> ContainerReport:
    fields = {"code": 1, "signal": None, "oom": False, "at": None, **end}
    exit_ = ExitReport(**fields)
    return ContainerReport(
        name=name, phase=phase, pid=None, restarts=1, image="x", exit=exit_, last_line=line
    )


def lines(*containers: ContainerReport) -> list[str]:
    return [*last_words(PodReport(name="web", phase="degraded", containers=containers))]


def test_of_several_containers_each_that_is_down_is_named_with_its_own_log() -> None:
    assert lines(
        container("app", line="no database"),
        container("side", "running", line="an old line"),
        container("done", "completed", code=0),
        container("quiet", "failed", code=None, signal=9),
        container("asked", "stopped", code=143),
    ) == [
        "app: printed last: no database; see `tank logs web/app`",
        "quiet: see `tank logs web/quiet`",
    ]


def test_a_pod_of_one_container_needs_no_name_of_it() -> None:
    assert lines(container("app", line="boom")) == ["app: printed last: boom; see `tank logs web`"]
    assert lines(container("app", "running")) == []


def test_a_job_tells_of_its_runs() -> None:
    job = JobReport(schedule="@daily", time_zone="UTC", next_run=None)
    assert [*last_words(PodReport(name="web", phase="failed", job=job, containers=(container("app"),)))] == []
