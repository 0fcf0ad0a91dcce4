"""Run programs by argument lists, with closed descriptors, a fixed environment and a deadline."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from msgspec import Struct

from tank_agent.errors import Retry, Stalled, TankError, shortage
from tank_agent.linux.libc import call

# linux/prctl.h
# Of util-linux, which is essential on Debian.
_PRLIMIT = "/usr/bin/prlimit"
_PR_SET_DUMPABLE = 4

# Nothing of the agent's environment reaches a child: hooks and helpers would inherit it.
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}

# Files that crun makes in a container, such as directories above a mount, are for the container's users; all
# others are for root.
CONTAINER_UMASK = 0o022
OWN_UMASK = 0o077


class Finished(Struct, frozen=True):
    """The end of a program: `code` is negative for a signal; output is decoded leniently."""

    code: int
    stdout: str
    stderr: str


def find(name: str) -> str:
    """Return the path of a program on our own PATH; Stalled if it is not there, or can't be executed."""
    found = shutil.which(name, path=ENVIRONMENT["PATH"])
    if found is None:
        there = shutil.which(name, mode=os.F_OK, path=ENVIRONMENT["PATH"])
        raise Stalled(
            f"{name} is not installed" if there is None else f"{there} cannot be executed",
            hint=f"apt install {name}; `tank doctor` shows what else is missing",
        )
    return found


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    pass_fds: Sequence[int] = (),
    stdin: bytes = b"",
) -> Finished:
    """Run a program, looked up on our own PATH, to its end; a non-zero exit is not an error here.

    Args:
        timeout: seconds after which it is killed, with all that it started (as far as that is in its group).
        env: added to `ENVIRONMENT`.

    Raises:
        Stalled: the program is not installed, or cannot be executed.
        Retry: it did not finish in time, or the machine has no more processes, descriptors or memory.
    """
    process = _start(argv, {**ENVIRONMENT, **(env or {})}, cwd=cwd, pass_fds=pass_fds)
    code, stdout, stderr = _end(process, argv[0], stdin, timeout)
    return Finished(code, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def run_apart(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: bytes,
    user: int | None,
    pass_fds: Sequence[int] = (),
) -> tuple[int, bytes, bytes]:
    """Run a program by its path without a terminal, a PATH or a user's rights; return its code and output.

    `user` is the number of the user, and the group, that it runs as; None: ours. It leaves no core dump.
    Raises as `run`.
    """
    # Programs that it might look for by their names, such as plugins, are not to be found.
    environment = {**ENVIRONMENT, "PATH": "/nonexistent"}
    # Lowered by itself: another user's limits may be lowered only with CAP_SYS_RESOURCE.
    limited = (_PRLIMIT, "--core=0:0", "--", *argv)
    process = _start(limited, environment, cwd="/", pass_fds=pass_fds, apart=True, user=user)
    return _end(process, argv[0], stdin, timeout)


def leave_no_core() -> None:
    """Keep the kernel from writing this process's memory to disk if it crashes; children still may.

    Others than root can't look into it either (PR_SET_DUMPABLE in prctl(2)).
    """
    call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def _start(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    cwd: str | os.PathLike[str] | None,
    pass_fds: Sequence[int],
    apart: bool = False,
    user: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program with pipes, in a group of its own; `apart` in a session of its own."""
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=cwd,
            pass_fds=pass_fds,
            umask=OWN_UMASK,
            process_group=None if apart else 0,
            start_new_session=apart,
            user=user,
            group=user,
            extra_groups=None if user is None else (),
        )
    except OSError as error:
        raise not_started(argv[0], error) from error


def _end(
    process: subprocess.Popen[bytes], name: str, stdin: bytes, timeout: float
) -> tuple[int, bytes, bytes]:
    """Return a program's code and output at its end, and end its group if that is not in time."""
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise Retry(f"{name} did not finish within {timeout:g} s") from error
        finally:
            if process.returncode is None:
                # Not reaped yet, so the number is still its group's.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, stdout, stderr


def start_helper(
    code: str, *arguments: str, channel: socket.socket, output: int = subprocess.DEVNULL, site: bool = True
) -> subprocess.Popen[bytes]:
    """Start a Python process that is to confine itself (`confine`), in a session of its own.

    `channel` is its standard input; its standard output and error go to `output`. Without `site` it loads no
    third-party packages by itself.
    """
    return subprocess.Popen(
        [sys.executable, "-I", *(() if site else ("-S",)), "-c", code, *arguments],
        stdin=channel.fileno(),
        stdout=output,
        stderr=output,
        env=dict(ENVIRONMENT),
        cwd="/",
        start_new_session=True,
    )


def version(program: str) -> str:
    """Return the output of a program for --version; empty if that does not work."""
    try:
        return run([program, "--version"], timeout=10.0).stdout
    except TankError:
        return ""


def not_started(program: str, error: OSError) -> TankError:
    """Return the error to raise when a program could not be started."""
    if isinstance(error, FileNotFoundError):
        return Stalled(f"cannot run {program}: not installed", hint="see `tank doctor`")
    if isinstance(error, PermissionError) or error.errno == errno.ENOEXEC:
        return Stalled(f"cannot run {program}: {error.strerror}", hint="see `tank doctor`")
    lacking = shortage(error)
    return Retry(f"cannot run {program}: {error.strerror}", hint=lacking.hint if lacking else None)


class OwnUse(Struct, frozen=True, kw_only=True):
    """What this process uses: seconds of CPU time, bytes of memory, descriptors; `started` is Unix time."""

    cpu: float
    memory: int
    descriptors: int
    started: float


def own_use() -> OwnUse:
    """Return what this process uses now (proc_pid_stat(5))."""
    with open("/proc/self/stat", "rb") as file:
        # Behind the name, which may hold anything: from the third field on.
        fields = file.read().rpartition(b") ")[2].split()
    times = os.times()
    return OwnUse(
        cpu=times.user + times.system,
        memory=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        # One of them is of this look itself.
        descriptors=sum(1 for _ in os.scandir("/proc/self/fd")) - 1,
        started=_boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK"),
    )


@functools.cache
def _boot_time() -> float:
    """Return the Unix time of the boot."""
    with open("/proc/stat", "rb") as file:
        return next(float(line.split()[1]) for line in file if line.startswith(b"btime "))
