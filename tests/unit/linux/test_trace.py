"""A program is held at its first instruction, and let go whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tank_agent.linux import trace
from tests.support.agent import wait_for


@contextmanager
def shell(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a shell that waits for a line before it runs the script, and is traced from then on."""
    argv = ["/bin/sh", "-c", f"read go; {script}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert trace.seize(process.pid)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
        process.stdin = None
        yield process


def soon() -> float:
    return time.monotonic() + 20


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_grandchild_is_held_until_it_is_released(tmp_path: Path) -> None:
    # Two forks, as crun does it.
    with shell(f"((exec /bin/cat {tmp_path}/made); :); exit 3") as process:
        held = trace.run_to_exec(process.pid, soon())
        assert held not in (None, process.pid)
        assert held is not None
        assert Path(f"/proc/{held}/cmdline").read_bytes().startswith(b"/bin/cat\0")
        assert state(held) == "t"
        (tmp_path / "made").write_text("in time")
        trace.release(held)
        assert process.communicate(timeout=20) == (b"in time", None)
        assert process.returncode == 3


def test_who_ends_before_it_runs_a_program_holds_up_nobody() -> None:
    with shell("(exit 4); exit $?") as process:
        assert trace.run_to_exec(process.pid, soon()) is None
        assert process.wait(20) == 4
    with shell("exit 5") as process:
        assert trace.run_to_exec(process.pid, soon()) is None
        assert process.wait(20) == 5


def test_a_process_that_is_killed_while_it_is_held_is_let_go() -> None:
    with shell("/bin/sleep 1000; exit $?") as process:
        held = trace.run_to_exec(process.pid, soon())
        assert held is not None
        os.kill(held, signal.SIGKILL)
        trace.release(held)
        assert process.wait(20) == 128 + signal.SIGKILL


def test_signals_pass_through() -> None:
    with shell("trap 'exec /bin/true' USR1; (kill -USR1 $$); while :; do :; done") as process:
        # The newest process ends after its kill, without a program.
        assert trace.run_to_exec(process.pid, soon()) is None
        assert process.wait(20) == 0


def test_who_takes_too_long_is_killed() -> None:
    with shell("(while :; do :; done); exit $?") as process:
        with pytest.raises(TimeoutError):
            trace.run_to_exec(process.pid, time.monotonic() + 0.3)
        # Its parent hears of it when its tracer waits for it, or ends.
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert os.waitpid(int(child), 0)[1] == signal.SIGKILL
        assert process.wait(20) == 128 + signal.SIGKILL


def test_a_tracer_that_is_killed_lets_go(tmp_path: Path) -> None:
    tracer = (
        "import os, subprocess, time; from tank_agent.linux import trace\n"
        f"p = subprocess.Popen(['/bin/sh', '-c', 'read go; (exec /bin/touch {tmp_path}/ran); :'],"
        " stdin=subprocess.PIPE)\n"
        "assert trace.seize(p.pid); p.stdin.close()\n"
        "assert trace.run_to_exec(p.pid, time.monotonic() + 20)\n"
        f"assert not os.path.exists('{tmp_path}/ran'); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", tracer], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    wait_for((tmp_path / "ran").exists, "it goes on")


def test_who_has_ended_is_not_traced() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait(20)
        assert not trace.seize(process.pid)
