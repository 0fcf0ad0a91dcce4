"""`tank doctor` asks the agent about [web], or looks itself."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.api.reports import WebReport
from tank_agent.cli.main import main
from tank_agent.cli.verbs import doctor
from tests.support.fake_service import FakeService, serving


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    service = FakeService()
    service.add("web")
    with serving(service, tmp_path / "tank.sock"):
        yield service


def examined(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> list[tuple[str, str]]:
    config = tmp_path / "agent.toml"
    config.write_text(text)
    capsys.readouterr()
    main(["doctor", "--config", str(config), "--socket", str(tmp_path / "tank.sock"), "-o", "json"])
    out = capsys.readouterr().out
    checks = json.loads(out[out.index("[\n") :] if "[\n" in out else out[out.index('[{"') :])
    return [(one["result"], one["found"]) for one in checks if one["name"] == "web"]


def test_doctor_asks_the_agent_or_looks_itself(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_examine", lambda _: ())
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        table = f'[web]\nlisten = "{listen}"\n'
        service.sources.web = lambda: WebReport(listen=listen)
        assert examined(tmp_path, capsys, table) == [("ok", f"the agent listens on {listen}")]
        service.sources.web = lambda: None
        [(result, found)] = examined(tmp_path, capsys, table)
        assert result == "warn" and f"cannot listen on {listen}: Address already in use" in found
        assert examined(tmp_path, capsys, "") == []
    token = f'{table}token_file = "{tmp_path / "no"}"\n'
    assert examined(tmp_path, capsys, token) == [
        ("warn", f"web.token_file: {tmp_path / 'no'} can't be read: No such file or directory"),
        ("warn", "the agent that runs was started before [web] was written"),
    ]


def test_doctor_looks_without_an_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_examine", lambda _: ())
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        [(result, found)] = examined(tmp_path, capsys, f'[web]\nlisten = "{listen}"\n')
    assert result == "warn" and "listens there" in found
