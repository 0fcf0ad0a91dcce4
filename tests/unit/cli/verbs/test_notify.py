"""`tank notify test` prints a line for each receiver, and ends with 1 if one was not reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tank_agent.api.reports import TestedReceiver
from tank_agent.cli.main import main
from tests.support.fake_service import FakeService, serving


@pytest.mark.parametrize(
    ("error", "code", "said"), [("", 0, "sent"), ("HTTP\x1b[2J 500", 1, "failed: HTTP\\x1b[2J 500")]
)
def test_a_line_for_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: str, code: int, said: str
) -> None:
    service, socket = FakeService(), tmp_path / "tank.sock"
    broken = TestedReceiver(name="webhook", error=error)
    service.notices.tested = [broken, TestedReceiver(name="ntfy (line 1)")]
    with serving(service, socket):
        assert main(["notify", "test", "--socket", str(socket)]) == code
        # Before these, the server in this process logs who asked.
        assert capsys.readouterr().out.splitlines()[-2:] == [f"webhook        {said}", "ntfy (line 1)  sent"]
        assert main(["notify", "test", "-o", "json", "--socket", str(socket)]) == code
        out = capsys.readouterr().out
        assert json.loads(out[out.index("\n[") :] if not out.startswith("[") else out)[0] == {
            "name": "webhook",
            "error": error,
        }
    assert service.calls[-1][0] == "test"
