"""A further command in a running container: `crun exec`, run directly, with a terminal or with three pipes.

The command gets the main process's ids, capabilities, limits and no_new_privileges from the container's own
config.json; crun puts it into the container's namespaces, cgroup and seccomp filter, and looks PATH up there.
Only crun's pid file shows whether the command began: until there is one, all output is an error of crun.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from tank_agent.errors import CannotRun, CommandNotFound, NotRunning, Retry, TankError
from tank_agent.linux import pidfd
from tank_agent.linux.channels import enlarge_pipe, open_pipes
from tank_agent.linux.process import CONTAINER_UMASK, ENVIRONMENT
from tank_agent.linux.trees import remove_tree
from tank_agent.runtime.container.crun import Crun, clean_message, read_log
from tank_agent.runtime.container.exits import killed_by
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.run import LiveRun, read_number
from tank_agent.runtime.session import exec_terminal
from tank_agent.spec.paths import is_kernel_path, normal_path

_log = structlog.get_logger()
_DEADLINE = 10.0
_MOST_AT_ONCE = 200
_PIPE_SIZE = 256 << 10
_SAME_MOMENT = 10.0
# How long an agent waits for the commands that a former one was starting when it ended, in seconds.
_BEGINS_WITHIN = 1.0
_LOOK = 0.02
# A command that starts processes as fast as they are killed is killed so often.
_KILLS = 10
_MISSING = re.compile(r"not found|no such file", re.IGNORECASE)
_REFUSED = re.compile(
    r"permission denied|operation not permitted|exec format error|is a directory|not executable",
    re.IGNORECASE,
)
# The kernel's errors for a file that it does not run, as crun prints them in the command's place.
_EXEC_ERRORS = frozenset(
    os.strerror(number)
    for number in (
        *(errno.E2BIG, errno.EACCES, errno.EINVAL, errno.EIO, errno.ELIBBAD, errno.ELOOP, errno.ENOENT),
        *(errno.ENOEXEC, errno.ENOMEM, errno.ENOTDIR, errno.EPERM, errno.ETXTBSY),
    )
)
_COMPLAINT = re.compile(rb"(?:\x1b\[1;31m)?exec: ([ -~]+?)(?:\x1b\[0m)?\r?\n")
_COMPLAINT_SIZE = 200
_GONE = re.compile(r"not running|does not exist|stopped container|no such process", re.IGNORECASE)
_STREAMS = ("terminal", "stdin", "stdout", "stderr")


class ExecRequest(Struct, frozen=True, kw_only=True):
    """A command to run.

    `env` is NAME=VALUE strings that win over the container's own; `cwd` None is the container's own. `term`
    is the name of the user's terminal, `rows` and `columns` its first size; 0 means that it is not known.
    """

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str | None = None
    terminal: bool = False
    term: str = ""
    rows: int = 0
    columns: int = 0


class Ended(Struct, frozen=True, kw_only=True):
    """The end of a command: either the code or the signal is set."""

    code: int | None = None
    signal: int | None = None


class _Config(Struct, frozen=True):
    process: dict[str, Any]


class Executor:
    """Runs commands in containers, `most` at once; their files are in the directory `run_dir/<name>`."""

    def __init__(
        self, crun: Crun, run_dir: Path, cgroups: CgroupHost, *, name: str = "exec", most: int = _MOST_AT_ONCE
    ) -> None:
        self.directory = run_dir / name
        self.crun = crun
        self.cgroups = cgroups
        self.most = most
        self.free = threading.BoundedSemaphore(most)

    def start(self, run: LiveRun, request: ExecRequest) -> Execution:
        """Start a command.

        Raises:
            CannotRun: the working directory or a variable is not allowed.
            NotRunning: the container has gone.
            Retry: too many commands run, or the runtime did not answer.
        """
        process = msgspec.json.encode(self._process(run, request))
        if not self.free.acquire(blocking=False):
            raise Retry(f"{self.most} commands run in containers already", hint="end some of them first")
        directory = self.directory / secrets.token_hex(8)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
            return Execution(self, run, directory, request, process)
        except BaseException:
            remove_tree(directory)
            self.free.release()
            raise

    def sweep(self, inside: Callable[[], Collection[int]], number: int = signal.SIGHUP) -> None:
        """Hang up the commands that a killed agent has left, or send another signal, and remove their files.

        `inside` returns the processes that live in our containers now, without the main ones.
        """
        until = time.monotonic() + _BEGINS_WITHIN
        for directory in self.directory.iterdir() if self.directory.is_dir() else ():
            file = directory / "pid"
            # crun may write it a moment after its agent ended.
            fresh = time.time() - directory.stat().st_mtime < _SAME_MOMENT
            while (pid := read_number(file)) is None and fresh and time.monotonic() < until:
                time.sleep(_LOOK)
            if pid is not None and pid in inside() and _began_with(pid, file):
                _signal_group(pid, inside, number)
            remove_tree(directory)

    def _process(self, run: LiveRun, request: ExecRequest) -> dict[str, Any]:
        cwd = request.cwd
        if cwd is not None and (not cwd.startswith("/") or is_kernel_path(cwd)):
            hint = "give an absolute path, outside of /proc, /sys and /dev"
            raise CannotRun(f"cannot run in {cwd}", hint=hint)
        try:
            content = (run.directory / "config.json").read_bytes()
        except FileNotFoundError:
            raise NotRunning(f"{run.record.name} is not running") from None
        process = msgspec.json.decode(content, type=_Config).process
        process |= {"args": list(request.argv), "terminal": request.terminal}
        process["env"] = merge_environment(process["env"], request)
        if cwd is not None:
            process["cwd"] = normal_path(cwd)
        if request.terminal and request.rows and request.columns:
            process["consoleSize"] = {"height": request.rows, "width": request.columns}
        return process


def merge_environment(own: list[str], request: ExecRequest) -> list[str]:
    """Return the container's variables with TERM added, and the request's over them."""
    merged = dict(_pair(entry) for entry in own)
    merged.setdefault("TERM", request.term or "xterm")
    merged.update(_pair(entry) for entry in request.env)
    return [f"{name}={value}" for name, value in merged.items()]


def _pair(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not name or not equals or "\0" in entry:
        raise CannotRun(f"{entry!r} is not a variable", hint="write NAME=VALUE")
    return name, value


class Execution:
    """One command in a container. One thread works with it, and must close it once it has ended.

    Attributes:
        terminal: the master of its pseudo-terminal, or None.
        stdin, stdout, stderr: our ends of its pipes; None with a terminal, and once closed.
        waiter: a pidfd of crun, readable when the command has ended.
        patience: seconds that the caller may pause in reading what is left at the end; None for any time.

    All descriptors are non-blocking.
    """

    patience: float | None = None

    def __init__(
        self, executor: Executor, run: LiveRun, directory: Path, request: ExecRequest, process: bytes
    ) -> None:
        self._directory = directory
        self._inside = partial(executor.cgroups.processes, run.record.cgroup)
        self._inside_one = partial(executor.cgroups.processes_of_one, run.record.cgroup)
        self._release = executor.free.release
        self._container = run.record.name
        self._command = request.argv[0]
        self._process: int | None = None
        self._pid = 0
        self._session: int | None = None
        self._owed: list[int] = []
        self._printed = b""
        self.terminal: int | None = None
        self.stdin: int | None = None
        self.stdout: int | None = None
        self.stderr: int | None = None
        argv = [*executor.crun.exec_command("log"), "--pid-file=pid"]
        self._environment = {**ENVIRONMENT, **executor.crun.environment}
        if request.terminal:
            self._start_with_terminal(argv, run.record.id, request, process)
        else:
            self._start_with_pipes(argv, run.record.id, process)

    def _start_with_pipes(self, argv: list[str], run: str, process: bytes) -> None:
        (self._directory / "process.json").write_bytes(process)
        (stdin, self.stdin), (self.stdout, stdout), (self.stderr, stderr) = open_pipes(3)
        try:
            self._spawn([*argv, "--process=process.json", run], stdin, stdout, stderr)
        except BaseException:
            self._close_streams()
            raise
        finally:
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)
            enlarge_pipe(descriptor, _PIPE_SIZE)

    def _start_with_terminal(self, argv: list[str], run: str, request: ExecRequest, process: bytes) -> None:
        # The address of a socket is limited, so it is relative to crun's working directory.
        argv = [*argv, "--process=/dev/stdin", "--tty", "--console-socket=console", run]
        with exec_terminal.listening(self._directory / "console") as listener:
            reader, gate = os.pipe()
            try:
                self._spawn(argv, reader, subprocess.DEVNULL, subprocess.DEVNULL)
            except BaseException:
                os.close(gate)
                raise
            finally:
                os.close(reader)
            try:
                size = (request.rows, request.columns)
                self.terminal = exec_terminal.receive_sized(
                    listener, self._crun.pid, self.waiter, gate=gate, process=process, size=size
                )
            except BaseException:
                self._kill_waiter()
                os.close(self.waiter)
                raise

    def _spawn(self, argv: list[str], stdin: int, stdout: int, stderr: int) -> None:
        self._crun = subprocess.Popen(
            argv,
            env=self._environment,
            cwd=self._directory,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            # The command gets a process group that is not ours.
            start_new_session=True,
            umask=CONTAINER_UMASK,
        )
        # Only this process reaps it, so the number is still its own.
        self.waiter = os.pidfd_open(self._crun.pid)

    def begun(self) -> bool:
        """Return whether the command runs or ran; before that, output is crun's."""
        if not self._pid and (pid := read_number(self._directory / "pid")):
            self._pid, self._process = pid, pidfd.open_process(pid)
            self._session = _session(pid) if self._process is not None else None
            for number in self._owed:
                self.signal(number)
        return self._pid != 0

    def ended(self) -> bool:
        """Return whether the command has ended; its last output may still be in the pipes."""
        return pidfd.ended(self.waiter)

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size, if it has one."""
        if self.terminal is not None:
            exec_terminal.set_size(self.terminal, rows, columns)

    def signal(self, number: int) -> None:
        """Send a signal to the command and its process group, once it has begun; nothing if it has ended."""
        if not self.begun():
            # Each of them once, since a caller could send any number of signals.
            if number not in self._owed:
                self._owed.append(number)
        elif self._process is not None and not pidfd.ended(self._process):
            _signal_group(self._pid, self._inside, number)

    def kill(self) -> None:
        """Kill the command, and what it left: its descendants, and every process of its session.

        One that began a session of its own, and whose parent has ended, is a daemon that nothing tells from
        those of the container's program. It is the container's from then on: it counts against its limits,
        and ends with it.
        """
        begun = self.begun()
        if self._crun.returncode is None:
            pidfd.kill_tree(self.waiter)
        if self._process is not None:
            pidfd.kill_tree(self._process)
        for _ in range(_KILLS if begun else 0):
            # They may start others meanwhile.
            if not self._left():
                return
            pidfd.signal_all(self._left, signal.SIGKILL)

    def _left(self) -> set[int]:
        """Return the processes in the container that are in the command's session."""
        if self._session is not None:
            return {pid for pid in self._inside_one() if _session(pid) == self._session}
        # It ended before we looked. Without a terminal, its session is that of a helper of crun, which was
        # outside of the container, and began after crun and before the command.
        possible = range(self._crun.pid, self._pid)
        return {
            pid
            for pid in self._inside_one()
            if _session(pid) in possible and pidfd.session_numbers(pid)[-1:] == (0,)
        }

    def read(self, descriptor: int, size: int) -> bytes:
        """Read from the terminal or an output."""
        data = os.read(descriptor, size)
        # Only a short text can be an error of crun.
        if len(self._printed) <= _COMPLAINT_SIZE:
            self._printed += data[: _COMPLAINT_SIZE + 1]
        return data

    def close_stream(self, descriptor: int | None) -> None:
        """Close the terminal, the input or an output, if it is one of these and open."""
        for name in _STREAMS:
            if descriptor is not None and descriptor == getattr(self, name):
                os.close(descriptor)
                setattr(self, name, None)

    def leave(self) -> None:
        """Go on without the caller."""

    def hang_up(self) -> None:
        """Take the command's terminal or pipes away and send it SIGHUP; it may go on if it wants to."""
        self._close_streams()
        self.signal(signal.SIGHUP)

    def result(self) -> Ended:
        """Return the end of the command; to be called after `ended`.

        Raises:
            CommandNotFound, CannotRun: it never began.
            NotRunning: the container has gone meanwhile.
            TankError: the runtime failed otherwise.
        """
        code = self._crun.wait(_DEADLINE)
        if not self.begun():
            raise self._failure(code)
        if code == 1 and (error := self._logged_error() or complaint(self._printed)):
            # crun found a file, but the kernel did not run it.
            return Ended(code=127 if _MISSING.search(error) else 126)
        number = -code if code < 0 else killed_by(code, self._process) if code > 128 else None
        return Ended(code=code) if number is None else Ended(signal=number)

    def close(self) -> None:
        """Close everything; a command that still runs is left to the next agent's `sweep`."""
        self._close_streams()
        if self._crun.poll() is None and not self.begun():
            # The runtime hangs, and nothing else would end it.
            self._kill_waiter()
        if self._crun.poll() is None:
            _log.warning("a command outlives its session", container=self._container, command=self._command)
        else:
            remove_tree(self._directory)
        for descriptor in (self.waiter, self._process):
            if descriptor is not None:
                os.close(descriptor)
        self._release()

    def _failure(self, code: int) -> TankError:
        error = self._logged_error()
        if error.startswith("chdir"):
            return CannotRun(f"cannot run {self._command}: {error}", hint="give another --cwd")
        if _GONE.search(error):
            return NotRunning(f"{self._container} is not running")
        if _MISSING.search(error):
            return CommandNotFound(f"{self._command}: not found in the container", where=self._container)
        if _REFUSED.search(error):
            return CannotRun(f"{self._command} cannot be executed: {error}", where=self._container)
        return TankError(f"the container runtime failed with code {code}: {error or 'it said nothing'}")

    def _logged_error(self) -> str:
        """Return the last error that crun wrote to its log; empty if there is none."""
        errors = [line for line in read_log(self._directory / "log").splitlines() if '"error"' in line]
        return clean_message(errors[-1]) if errors else ""

    def _kill_waiter(self) -> None:
        pidfd.kill_tree(self.waiter)
        self._crun.wait(_DEADLINE)

    def _close_streams(self) -> None:
        for name in _STREAMS:
            self.close_stream(getattr(self, name))


def complaint(printed: bytes) -> str:
    """Return why the kernel did not run a command, if that is all that was printed; else nothing."""
    # From 1.14.1 on, crun has closed its log by then, so it can only write to the command's output.
    found = _COMPLAINT.fullmatch(printed)
    text = found[1].decode() if found is not None else ""
    return text if text in _EXEC_ERRORS else ""


def _signal_group(leader: int, inside: Callable[[], Collection[int]], number: int) -> None:
    """Send a signal to a process and to the others of its group, but only to those in the container."""
    # crun is in the group, too, unless the command has a terminal, and would pass the signal on again.
    if (group := _group(leader)) is not None:
        pidfd.signal_all(lambda: {pid for pid in inside() if _group(pid) == group}, number)


def _group(pid: int) -> int | None:
    """Return a process's group; None if it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _session(pid: int) -> int | None:
    """Return a process's session; None if it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _began_with(pid: int, file: Path) -> bool:
    """Return whether a process began when its pid file was written: the number may be another's by now."""
    ticks = pidfd.start_time(pid)
    if ticks is None:
        return False
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    began = booted + ticks / os.sysconf("SC_CLK_TCK")
    return abs(began - file.stat().st_mtime) < _SAME_MOMENT
