"""`tank status` says what is wrong besides pods, until it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.api.reports import WebReport
from tank_agent.cli.main import main
from tank_agent.client.client import Client
from tests.support.fake_service import FakeService, serving

ERROR = "cannot listen on 127.0.0.1:9470: no\x1b[2J way"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    service = FakeService()
    service.add("web")
    with serving(service, tmp_path / "tank.sock"):
        yield service


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (WebReport(listen="h", error=ERROR, hint="see it"), f"{ERROR}; see it"),
        (WebReport(listen="h", error=ERROR), f"{ERROR}; see `tank doctor`"),
        (WebReport(listen="h"), None),
        (None, None),
    ],
)
def test_status_has_a_line_while_it_is_not_served(
    service: FakeService,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    report: WebReport | None,
    line: str | None,
) -> None:
    service.sources.web = lambda: report
    path = str(tmp_path / "tank.sock")
    assert main(["status", "--socket", path]) == 0
    lines = [one for one in capsys.readouterr().out.splitlines() if one.startswith("web:")]
    said = f"web: the page is not served: {line}".replace("\x1b", "\\x1b")
    assert lines == ([said] if line is not None else [])
    assert Client(path).sources().web == report
