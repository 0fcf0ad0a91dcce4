"""`tank metrics`: the text as it is, samples as JSON, and an agent of a version that has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tank_agent.api.routes import ROUTES
from tank_agent.api.types import METRICS
from tank_agent.cli.main import main
from tests.support.fake_service import SAMPLES, FakeService, serving


def run(home: Path, *words: str, **options: Any) -> int:
    with serving(FakeService(), home / "tank.sock", **options):
        return main(["--socket", str(home / "tank.sock"), "metrics", *words])


def test_it_prints_what_the_agent_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    assert capsys.readouterr() == (SAMPLES, "")


def test_samples_as_json_have_their_labels_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "tank_pod_ready", "labels": {"pod": "web"}, "value": 1},
        {
            "name": "container_threads",
            "labels": {"pod": "web", "container": "app", "image": 'a"b\\n\n,}c'},
            "value": 2.5,
        },
        {"name": "tank_reconcile_duration_seconds_bucket", "labels": {"le": "+Inf"}, "value": "+Inf"},
    ]


def test_an_agent_without_metrics_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older = {call: handler for call, handler in ROUTES.items() if call is not METRICS}
    assert run(tmp_path, routes=older) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "/metrics: this agent has no such function" in err
    assert "tank version" in err


def test_wrong_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "web"]) == 2
    assert "web" in capsys.readouterr().err
