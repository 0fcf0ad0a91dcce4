"""Agents that need not be imported any more: a process imports the agent once, and forks one for each call.

Start of the interpreter and imports are half of what an agent costs that has little to do, and each of some
two thousand tests ends with one that stops what the test left. The agent under test is never one of these.

python -m tests.support.prepared    # the process that forks: a request a line, answered by pid and exit code
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tank_agent.linux.libc import CLONE_NEWNET, call

_ROOT = Path(__file__).parents[2]
# What a process of a test may have changed for itself, and what is forked would not have.
_SAME = ("mnt", "pid", "user", "uts", "ipc", "cgroup")


class ForkedAgent:
    """A running agent, in the words of subprocess.Popen."""

    def __init__(self, pid: int, forker: _Forker) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._forker = forker

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = self._forker.exit_code(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raise TimeoutExpired if there is none in so many seconds."""
        if self.returncode is None:
            self.returncode = self._forker.exit_code(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("tank agent", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Forker:
    """The process that forks, of one process of tests; one agent at a time."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.prepared"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = self._process.pid

    def fork(self, request: Mapping[str, Any]) -> int:
        """Fork an agent, and return its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return self._line()

    def exit_code(self, timeout: float | None) -> int | None:
        """Return how the agent has ended; the next may begin then."""
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return None
        code = self._line()
        self.free.release()
        return code

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait(30)

    def _line(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process that forks agents is gone: {self._process.wait(30)}"
        return int(line)


_forkers: dict[int, _Forker] = {}


def forked_agent(arguments: Sequence[str], env: Mapping[str, str], log: Path) -> ForkedAgent | None:
    """Start `tank` with these arguments as if by its program; None where it would not be the same.

    It gets this thread's network and this process's directory and umask.
    """
    forker = _forkers.get(os.getpid())
    if forker is None:
        forker = _forkers[os.getpid()] = _Forker()
        atexit.register(forker.close)
    task = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns"
    request = {
        "arguments": list(arguments),
        "env": dict(env),
        "log": str(log),
        "cwd": os.getcwd(),  # noqa: PTH109
        "umask": _umask(),
        "network": f"{task}/net",
    }
    if _world(task) != _world(f"/proc/{forker.pid}/ns"):
        return None
    if not forker.free.acquire(blocking=False):
        return None
    return ForkedAgent(forker.fork(request), forker)


def _world(directory: str) -> list[str]:
    return [os.readlink(f"{directory}/{name}") for name in _SAME]  # noqa: PTH115


def _umask() -> int:
    # os.umask() would change it for a moment, under other threads.
    status = Path("/proc/self/status").read_text()
    return int(status.split("Umask:")[1].split()[0], 8)


def _serve() -> None:
    from tank_agent.agent import lifecycle
    from tank_agent.cli.verbs import agent

    assert lifecycle and agent
    gc.collect()
    gc.freeze()
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        entered, enters = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become(request)
        # The thread that asks, whose network it takes, is there until it has its answer.
        os.close(enters)
        os.read(entered, 1)
        os.close(entered)
        os.write(1, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(request: Mapping[str, Any]) -> NoReturn:
    from tank_agent.cli.main import main

    with (
        open(request["log"], "ab", buffering=0) as log,
        open(os.devnull, "rb") as nothing,
        open(request["network"], "rb") as network,
    ):
        call("setns", network.fileno(), CLONE_NEWNET)
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        os.dup2(nothing.fileno(), 0)
    # The end of the pipe with them: that is seen.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(request["env"])
    # As the interpreter would do at its start.
    sys.path[1:1] = list(filter(None, request["env"].get("PYTHONPATH", "").split(":")))
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    sys.argv = ["tank", *request["arguments"]]
    sys.exit(main())


if __name__ == "__main__":
    _serve()
