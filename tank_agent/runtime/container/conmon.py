"""conmon, the small monitor that holds a container's output and exit code while agents come and go.

Its protocol is described in conmon(8); tried with 2.1.6 and 2.1.12.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from tank_agent.errors import Retry
from tank_agent.linux import pidfd
from tank_agent.linux.channels import readable
from tank_agent.linux.fault import point
from tank_agent.linux.paths import Closing
from tank_agent.linux.process import CONTAINER_UMASK, ENVIRONMENT, find, not_started
from tank_agent.runtime.container.crun import Crun, clean_message, program_of, read_log, refused
from tank_agent.runtime.container.launch import Tools
from tank_agent.runtime.container.oci import HOOKS_LOG
from tank_agent.runtime.run import LiveRun, RunRecord

_DEADLINE = 30.0
# A killed process ends within this, unless the kernel holds it.
ENDS_WITHIN_MS = 3000
CONTAINER_PID = "container.pid"
MONITOR_PID = "conmon.pid"
EXIT = "exit"
OUT_OF_MEMORY = "oom"
_CRUN_LOG = "crun.log"
_SYNC = "sync"
_CONTROL = "ctl"
_GAP = 0.05
_REOPEN_LOG = b"2 0 0\n"


class _Message(Struct):
    """One line on conmon's sync pipe."""

    data: int
    message: str = ""


def create(tools: Tools, run: LiveRun, log: Path) -> int:
    """Start conmon, let it create the container, and return the container's process id.

    Args:
        run: its directory is the bundle, and conmon's working directory.
        log: the output is appended to it, in k8s-file format.

    Raises:
        StartFailed: the runtime refused; the message is its own, or names the sysctl that the kernel refused.
        Stalled: conmon or crun is not installed.
        Retry: it did not answer within 30 s; it may go on, see `end_unstarted`.
    """
    program = find(tools.conmon)
    sync = run.directory / _SYNC
    os.mkfifo(sync, 0o600)
    with Closing(os.open(sync, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as reader:
        _spawn([program, *_arguments(tools.crun, run.directory, run.record, log)], tools, run.directory)
        point("runtime:conmon-spawned")
        answer = _answer(reader)
    if answer is not None and answer.data > 0:
        return answer.data
    message = read_log(run.directory / _CRUN_LOG) or (answer.message if answer else "")
    text = clean_message(message)
    if "hook" in text:
        # The runtime names only what it ran, which is a shell.
        text += "".join(f": {line}" for line in read_log(run.directory / HOOKS_LOG).splitlines()[-1:])
    raise refused(text, run.record.sysctls, program_of(run.directory))


def monitors(directory: Path) -> dict[str, int]:
    """Return the conmon processes of the runs in a directory, by run id, from their own arguments.

    Only root's outside of containers: anybody may start a program with these arguments.
    """
    found = {}
    prefix = f"{directory}/"
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and _is_roots(entry):
            arguments = pidfd.command_line(int(entry.name))
            if len(arguments) > 2 and Path(arguments[0]).name == "conmon" and "-b" in arguments:
                bundle = arguments[arguments.index("-b") + 1]
                if bundle.startswith(prefix):
                    found[bundle.removeprefix(prefix)] = int(entry.name)
    return found


def end_unstarted(directory: Path) -> None:
    """Kill the monitor of a run that never began, and the runtime that may hang below it."""
    number = monitors(directory.parent).get(directory.name)
    if number is not None and (monitor := pidfd.open_process(number)) is not None:
        with Closing(monitor):
            kill_monitor(monitor)


def kill_monitor(monitor: int) -> None:
    """Kill a monitor, by its pidfd, with the runtime below it, and wait for its end."""
    pidfd.kill_tree(monitor)
    pidfd.wait(monitor, ENDS_WITHIN_MS)


class ConmonControl:
    """Writes to the control FIFOs of all conmons, from any thread, without blocking.

    There is one writer, which leaves time between two lines to one container, since conmon 2.1.6 handles only
    the first of two lines that it reads together. Its methods return 0 if they have written, else the seconds
    after which to try again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: dict[Path, float] = {}

    def resize(self, directory: Path, rows: int, columns: int) -> float:
        """Set the size of the terminal of the run in `directory`."""
        return self._write(directory, b"1 %d %d\n" % (rows, columns))

    def reopen_log(self, directory: Path) -> float:
        """Make conmon open its log file by name again."""
        return self._write(directory, _REOPEN_LOG)

    def forget(self, directory: Path) -> None:
        """Forget a run that is gone."""
        with self._lock:
            self._written.pop(directory, None)

    def _write(self, directory: Path, line: bytes) -> float:
        with self._lock:
            now = time.monotonic()
            left = self._written.get(directory, 0.0) + _GAP - now
            if left > 0:
                return left
            # A conmon that ended takes no lines; its end is handled elsewhere.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                with Closing(os.open(directory / _CONTROL, flags)) as fifo:
                    os.write(fifo, line)
            except BlockingIOError:
                return _GAP
            except OSError:
                return 0.0
            self._written[directory] = now
            return 0.0


def _is_roots(process: os.DirEntry[str]) -> bool:
    try:
        return process.stat().st_uid == 0 and len(pidfd.numbers(int(process.name))) == 1
    except FileNotFoundError:
        return False


def _spawn(argv: list[str], tools: Tools, directory: Path) -> None:
    # Opened for reading, too: conmon 2.1.6 dies of a broken pipe if the agent dies before conmon reports, but
    # holds the reading end itself, so that the pipe cannot break.
    writer = os.open(directory / _SYNC, os.O_RDWR | os.O_CLOEXEC)
    output = os.open(directory / "conmon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # conmon waits here for a byte before it forks. If the agent dies first, it reads the end and goes on.
    may_start, start = os.pipe2(os.O_CLOEXEC)
    # Relative to its working directory: conmon cuts the path of a terminal's socket at 107 bytes.
    own = {"TMPDIR": ".", "_OCI_SYNCPIPE": str(writer), "_OCI_STARTPIPE": str(may_start)}
    try:
        process = subprocess.Popen(
            argv,
            env={**ENVIRONMENT, **tools.crun.environment, **own},
            cwd=directory,
            pass_fds=(writer, may_start),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            umask=CONTAINER_UMASK,
        )
        try:
            tools.cgroups.place_monitor(process.pid)
            os.write(start, b"\0")
        except OSError as error:
            process.kill()
            process.wait()
            raise Retry(f"cannot put conmon into its control group: {error.strerror}") from error
    except OSError as error:
        raise not_started(argv[0], error) from error
    finally:
        for descriptor in (writer, output, may_start, start):
            os.close(descriptor)
    # The first process only forks the real monitor and ends.
    try:
        process.wait(_DEADLINE)
    except subprocess.TimeoutExpired as error:
        with Closing(os.pidfd_open(process.pid)) as descriptor:
            pidfd.kill_tree(descriptor)
        process.wait()
        raise Retry(f"conmon did not start within {_DEADLINE:g} s") from error


def _arguments(crun: Crun, directory: Path, record: RunRecord, log: Path) -> list[str]:
    runtime, options = crun.create_command(directory / _CRUN_LOG)
    return [
        *("--api-version", "-c", record.id, "-u", record.id, "-n", record.id, "-r", runtime),
        *("-b", str(directory), "-p", str(directory / CONTAINER_PID), "-P", str(directory / MONITOR_PID)),
        *("--persist-dir", str(directory), "--full-attach", "-l", f"k8s-file:{log}"),
        *("--no-sync-log", "--log-level", "warning"),
        *(f"--runtime-arg={option}" for option in options),
        *(("-t",) if record.terminal else ()),
    ]


def _answer(reader: int) -> _Message | None:
    """Read one line; None if every writer has gone without one."""
    received = b""
    while b"\n" not in received:
        if not readable(reader, _DEADLINE):
            raise Retry(f"the container runtime did not answer within {_DEADLINE:g} s")
        if not (chunk := os.read(reader, 4096)):
            return None
        received += chunk
    return msgspec.json.decode(received.partition(b"\n")[0], type=_Message)
