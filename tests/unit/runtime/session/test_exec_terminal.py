"""The terminal of a command: received from what stands for crun, and sized before the command begins."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tank_agent.errors import Retry
from tank_agent.linux import pidfd, trace
from tank_agent.runtime.session import exec_terminal

SIZE = (33, 101)
# Reads what to run, runs it in a terminal, and sends the terminal when it has begun, if it is not held.
CRUN = """
import os, socket, sys, time
command = sys.stdin.read().split()
master, slave = os.openpty()
if os.fork() == 0:
    if os.fork() == 0:
        for number in range(3):
            os.dup2(slave, number)
        os.execvp(command[0], command)
    os._exit(0)
os.wait()
time.sleep(0.2)
connection = socket.socket(socket.AF_UNIX)
connection.connect("console")
socket.send_fds(connection, [b"x"], [master])
"""


def receive(directory: Path, script: str, command: str, *, late: bool = False) -> int | None:
    with exec_terminal.listening(directory / "console") as listener:
        reader, gate = os.pipe()
        argv = [sys.executable, "-c", script]
        with subprocess.Popen(argv, stdin=reader, cwd=directory) as crun:
            os.close(reader)
            waiter = os.pidfd_open(crun.pid)
            try:
                assert not late or pidfd.wait(waiter, 20_000)
                return exec_terminal.receive_sized(
                    listener, crun.pid, waiter, gate=gate, process=command.encode(), size=SIZE
                )
            finally:
                os.close(waiter)
                crun.kill()


def read_line(terminal: int) -> bytes:
    os.set_blocking(terminal, True)
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(terminal, 100)
    return line


def test_the_size_is_set_before_the_command_looks_for_it(tmp_path: Path) -> None:
    terminal = receive(tmp_path, CRUN, "stty size")
    assert terminal is not None
    assert read_line(terminal) == b"33 101\r\n"
    assert not os.get_inheritable(terminal)
    os.close(terminal)


def test_where_nothing_may_be_traced_the_size_is_set_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "seize", lambda _: False)
    terminal = receive(tmp_path, CRUN, "true")
    assert terminal is not None
    assert termios.tcgetwinsize(terminal) == SIZE
    os.close(terminal)


def test_a_path_may_be_longer_than_an_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    terminal = receive(deep, CRUN, "stty size")
    assert terminal is not None
    os.close(terminal)


def test_who_ends_without_a_terminal_has_none(tmp_path: Path) -> None:
    for late in (False, True):
        assert receive(tmp_path, "import sys; sys.exit(1)", "true", late=late) is None
        (tmp_path / "console").unlink()
    assert receive(tmp_path, "import sys; sys.stdin.read(); sys.exit(1)", "x" * 1_000_000) is None


def test_who_never_answers_is_an_error_and_the_command_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_terminal, "_DEADLINE", 0.5)
    began = time.monotonic()
    with pytest.raises(Retry, match="did not answer"):
        receive(
            tmp_path, CRUN.replace('"console"', '"nowhere"').replace("0.2", "1000"), f"touch {tmp_path}/ran"
        )
    (tmp_path / "console").unlink()
    with pytest.raises(Retry, match="did not answer"):
        receive(tmp_path, "import time; time.sleep(1000)", "true")
    assert time.monotonic() - began < 20
    assert not (tmp_path / "ran").exists()
