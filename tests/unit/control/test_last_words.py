"""The last line of a container in a status: bounded, printable, and no secret."""

from __future__ import annotations

from typing import Any

import pytest

from tank_agent.api.reports import ContainerReport, ExitReport
from tank_agent.control.last_words import is_due, shown
from tank_agent.spec.model import Container, Pod, Secret


def container(phase: str = "backing-off", **end: Any) -> ContainerReport:
    fields = {"code": 1, "signal": None, "oom": False, "at": None, **end}
    return ContainerReport(
        name="app", phase=phase, pid=None, restarts=1, image="x", exit=ExitReport(**fields)
    )


@pytest.mark.parametrize(
    ("report", "due"),
    [
        (container(), True),
        (container("pending", code=None, signal=9), True),
        (container("running"), False),
        (container("stopped", code=143), False),
        (container("completed", code=0), False),
        (container(code=0), False),
        (ContainerReport(name="app", phase="failed", pid=None, restarts=0, image="x"), False),
    ],
)
def test_it_is_shown_after_a_bad_end(report: ContainerReport, due: bool) -> None:
    assert is_due(report) is due


def test_it_is_bounded_printable_and_no_secret() -> None:
    env = {"DB_PASSWORD": "hunter2!", "LEVEL": "debug", "API_KEY": "x"}
    pod = Pod(name="web", containers=(Container(name="app", image="x", env=env),))
    assert shown("cannot bind 0.0.0.0:80\x1b[2J", pod, "app") == "cannot bind 0.0.0.0:80\\x1b[2J"
    assert shown("login x:hunter2!@db failed, debug", pod, "app") == "login x:***@db failed, debug"
    assert shown("hunter2! of another container", pod, "side") == "hunter2! of another container"
    assert shown("x" * 5000, pod, "app") == "x" * 199 + "…"
    assert shown("  ", pod, "app") is None
    secret = Secret(name="s", age="-----BEGIN AGE ENCRYPTED FILE-----")
    sealed = Pod(name="web", containers=pod.containers, secrets=(secret,))
    assert shown("anything", sealed, "app") is None
