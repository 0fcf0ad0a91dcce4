"""One attempt of an exec probe: a command in the container, as the user of its main process."""

from __future__ import annotations

from pathlib import Path

from tank_agent.errors import CannotRun, CommandNotFound, TankError
from tank_agent.linux.channels import readable
from tank_agent.runtime.container.launch import Tools
from tank_agent.runtime.health.result import GOOD, MESSAGE_SIZE, ProbeResult, bad, ours, printable_end
from tank_agent.runtime.run import LiveRun
from tank_agent.runtime.session.exec import ExecRequest, Execution, Executor

# Commands of probes that run at once, beside those of people.
PROBES_AT_ONCE = 4
# Commands that were killed and do not end, as in a container that is frozen: they keep no other waiting.
STUCK_AT_ONCE = 60
_DIRECTORY = "probes"
# The rest of a message says how the command ended.
_SHOWN = MESSAGE_SIZE - 100
_CHUNK = 64 << 10
_CHUNKS_AT_ONCE = 4
# A health check that prints more is out of order, and reading it would cost more than the check.
_MOST_PRINTED = 1 << 20


class ProbeCommand:
    """One attempt. One thread works on it, and waits for the `descriptors`.

    It has the variables and the directory of the container's main process, too. What it printed last is part
    of the result. Once it is killed, it may take a while to be `over`: a process can wait for a disk.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._printed, self._size = b"", 0
        self._killed = False
        self.over = False
        # A command that reads its input finds the end of it.
        execution.close_stream(execution.stdin)
        self.descriptors = tuple(
            found for found in (execution.waiter, execution.stdout, execution.stderr) if found is not None
        )

    @classmethod
    def begin(cls, executor: Executor, run: LiveRun, command: tuple[str, ...]) -> ProbeCommand | ProbeResult:
        """Start a command; return the result if that failed."""
        try:
            return cls(executor.start(run, ExecRequest(argv=command)))
        except (TankError, OSError) as error:
            return ours(f"cannot run the command: {error}")

    def go_on(self, descriptor: int) -> ProbeResult | None:
        """Go on after an event of a descriptor; return the result once it is known."""
        execution = self._execution
        if descriptor != execution.waiter:
            self._read(descriptor)
            if self._size <= _MOST_PRINTED or self._killed:
                return None
            self.kill()
            return bad(f"the command printed more than {_MOST_PRINTED >> 20} MiB and was killed")
        for left in (execution.stdout, execution.stderr):
            if left is not None:
                self._read(left)
        result = self._final_result()
        # Also what it left in the background, which would become more with each probe.
        execution.kill()
        self.close()
        return None if self._killed else result

    def expire(self, timeout: float) -> ProbeResult:
        """Kill it, with all that it started, since its time is over."""
        begun = self._execution.begun()
        self.kill()
        if not begun:
            return ours(f"the container runtime did not start the command within {timeout:g} s")
        return bad(f"the command did not end within {timeout:g} s{self._said()}")

    def kill(self) -> None:
        """Kill it, with all that it started; this can be repeated."""
        self._killed = True
        self._execution.kill()

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False if it has not ended in time."""
        return self.over or readable(self._execution.waiter, timeout)

    def close(self) -> None:
        """Let go of it."""
        if not self.over:
            self.over = True
            self._execution.close()

    def _read(self, descriptor: int) -> None:
        execution = self._execution
        for _ in range(_CHUNKS_AT_ONCE):
            try:
                data = execution.read(descriptor, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                execution.close_stream(descriptor)
                return
            self._size += len(data)
            self._printed = (self._printed + data)[-MESSAGE_SIZE:]

    def _final_result(self) -> ProbeResult:
        try:
            end = self._execution.result()
        except (CommandNotFound, CannotRun) as error:
            return bad(str(error))
        except TankError as error:
            return ours(str(error))
        if end.code == 0:
            return GOOD
        how = f"ended with code {end.code}" if end.signal is None else f"was ended by signal {end.signal}"
        return bad(f"the command {how}{self._said()}")

    def _said(self) -> str:
        # Its end says what went wrong, as in a traceback.
        text = printable_end(self._printed.decode(errors="replace").strip(), _SHOWN)
        return f": {text}" if text else ""


def probe_executor(tools: Tools, run_dir: Path) -> Executor:
    """Return what runs the commands of probes: beside those of people, and with files of its own."""
    most = PROBES_AT_ONCE + STUCK_AT_ONCE
    return Executor(tools.crun, run_dir, tools.cgroups, name=_DIRECTORY, most=most)
