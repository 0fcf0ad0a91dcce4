"""The commands of a killed agent, ended by the next one."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path
from typing import cast

import pytest

from tank_agent.runtime.container.crun import Crun
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.session import exec as exec_module
from tank_agent.runtime.session.exec import Executor


def executor(run_dir: Path) -> Executor:
    """Return one that starts nothing."""
    return Executor(cast("Crun", None), run_dir, cast("CgroupHost", None))


def test_a_command_that_was_just_being_started_is_waited_for_and_hung_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The timer may be late.
    monkeypatch.setattr(exec_module, "_BEGINS_WITHIN", 60.0)
    monkeypatch.setattr(exec_module, "_SAME_MOMENT", 60.0)
    swept = executor(tmp_path)
    file = tmp_path / "exec" / "0123" / "pid"
    file.parent.mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as command:
        # crun writes it whole, a moment after its agent was killed.
        writing = threading.Timer(0.2, file.write_text, (str(command.pid),))
        writing.start()
        try:
            swept.sweep(lambda: {command.pid})
            assert command.wait(10) == -signal.SIGHUP
        finally:
            command.kill()
    assert list((tmp_path / "exec").iterdir()) == []


def test_another_process_of_that_number_is_left_alone(tmp_path: Path) -> None:
    swept = executor(tmp_path)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as other:
        for name in ("one", "two"):
            (tmp_path / "exec" / name).mkdir(parents=True)
            (tmp_path / "exec" / name / "pid").write_text(str(other.pid))
        # Not in a container.
        swept.sweep(set)
        assert other.poll() is None
        other.kill()
    assert list((tmp_path / "exec").iterdir()) == []
