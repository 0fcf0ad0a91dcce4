"""The process that watches a copy, without a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tank_agent.runtime.session import copy_child


def test_a_process_that_the_kernel_can_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda _, number: sent.append(number))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stuck:
        process = os.pidfd_open(stuck.pid)
        copy_child._end(process, 0.05)
        assert sent == [signal.SIGKILL]
        assert stuck.poll() is None
        stuck.kill()
        os.close(process)
