"""docs/python.md: every block runs as it stands, one after the other, and is typed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tank_agent
from tests.support.agent import Agent, running_agent

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
# There is no registry here: what the images of the page stand for is a directory with a program that waits.
STAND_INS = (
    ('"image": "docker.io/library/nginx:1.27"', '"rootfs": {rootfs!r}, "command": ["/bin/sleep", "1000"]'),
    ('image="docker.io/library/nginx:1.27"', 'rootfs={rootfs!r}, command=("/bin/sleep", "1000")'),
)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("python")) as started:
        yield started


def test_every_block_runs(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANK_SOCKET", str(agent.run / "tank.sock"))
    code = "\n".join(BLOCKS)
    for image, stand_in in STAND_INS:
        assert image in code
        code = code.replace(image, stand_in.format(rootfs=str(agent.rootfs)))
    code = code.replace("/tmp/listing", str(agent.home / "listing"))
    exec(compile(code, "docs/python.md", "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert printed.startswith("running ")
    assert "containers[0].imaeg unknown key; did you mean image?\n" in printed
    assert "shop created 1\n" in printed
    assert "passwd" in (agent.home / "listing").read_text()
    assert agent.client.status() == []


def test_every_block_is_typed(tmp_path: Path) -> None:
    file = tmp_path / "page.py"
    file.write_text("\n".join(BLOCKS))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=500, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (
        0,
        ["Success: no issues found in 1 source file"],
    ), done.stdout


def test_the_table_has_the_errors_that_are_public() -> None:
    rows = {
        name for line in PAGE.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line)
    }
    errors = {
        name
        for name in dir(tank_agent)
        if isinstance(found := getattr(tank_agent, name), type) and issubclass(found, tank_agent.TankError)
    }
    assert errors - rows == {"TankError", "SecretError"}
