"""All questions at once, and the verb on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tank_agent.doctor.examine import examine
from tests.support.fake_service import FakeService, serving

TANK = Path(sys.executable).with_name("tank")


def test_everything_is_asked_once(tmp_path: Path) -> None:
    names = [check.name for check in examine(tmp_path, tmp_path, tmp_path)]
    # Of obstacles on the way to pods there may be several.
    names = [name for name in names if name != "way to pods"]
    assert len(names) == len(set(names)) == 24


def run_doctor(*argv: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [TANK, "doctor", *argv],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.machine
def test_the_verb(tmp_path: Path) -> None:
    arguments = [f"--{kind}-dir={tmp_path / kind}" for kind in ("data", "run", "pods")]
    with serving(FakeService(), tmp_path / "run" / "tank.sock"):
        code, stdout = run_doctor(*arguments)
    assert code == 0, stdout
    assert "ok    agent               version 0.1.0, pid 17" in stdout.splitlines()
    code, stdout = run_doctor(*arguments, "-o", "json")
    checks = json.loads(stdout)
    assert code == 0
    assert {tuple(check) for check in checks} == {("name", "result", "found", "fix")}
    assert checks[-1]["result"] == "warn"
    assert "not running" in checks[-1]["found"]


def test_the_verb_fails_with_a_failed_check(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("data_dri = 1\n")
    code, stdout = run_doctor("--config", str(config), TANK_SOCKET=str(tmp_path / "none"))
    assert code == 1
    assert "fail  configuration" in stdout
    assert "data_dri" in stdout
