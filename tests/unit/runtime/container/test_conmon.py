"""Monitors are told apart from programs of the same name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tank_agent.runtime.container import conmon


@pytest.mark.machine
def test_a_program_in_a_container_is_nobodys_monitor(tmp_path: Path) -> None:
    said = "exec -a conmon sh -c 'echo named; read line' conmon -b " + str(tmp_path / "web-app-0123456789")
    for argv in (["unshare", "--pid", "--fork", "--kill-child"], []):
        with subprocess.Popen(
            [*argv, "bash", "-c", said], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as it:
            assert it.stdout is not None
            assert it.stdout.readline() == b"named\n"
            found = conmon.monitors(tmp_path)
            it.kill()
        assert found == ({} if argv else {"web-app-0123456789": it.pid})
