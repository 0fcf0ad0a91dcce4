"""Files to and from a running container, by a confined process in it (copy_child.py): the agent's side."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from msgspec import Struct

import tank_agent
from tank_agent.errors import CannotCopy, NotRunning, Retry
from tank_agent.linux import pidfd
from tank_agent.linux.channels import enlarge_pipe, open_pipes
from tank_agent.linux.process import ENVIRONMENT, OWN_UMASK, not_started
from tank_agent.runtime.run import LiveRun
from tank_agent.runtime.session.copy_child import CopyRequest
from tank_agent.runtime.session.exec import Ended

_MOST_AT_ONCE = 20
_SILENCE = 300.0
_DEADLINE = 10.0
_PIPE_SIZE = 1 << 20
_BOOT = (
    "import sys; sys.path[:0] = sys.argv[1:2]; "
    "from tank_agent.runtime.session.copy_child import serve; serve()"
)


class FilesRequest(Struct, frozen=True, kw_only=True):
    """A copy: `read` from the container, else to it.

    `base` is the name that the archive's entries begin with, None if they have any names; `contents` stores
    only what is in it. `owners` keeps owners and set-user-ID bits; `follow` copies what a link leads to.
    """

    path: str
    read: bool
    base: str | None = None
    contents: bool = False
    owners: bool = False
    follow: bool = False


class Copier:
    """Copies files, `most` at once; one in which nothing moves ends after `silence` seconds."""

    def __init__(self, *, most: int = _MOST_AT_ONCE, silence: float = _SILENCE) -> None:
        self.most = most
        self.silence = silence
        self.free = threading.BoundedSemaphore(most)

    def start(self, run: LiveRun, request: FilesRequest) -> Copying:
        """Start a copy.

        Raises:
            NotRunning: the container has gone.
            Retry: too many copies are under way, or no process can be started.
        """
        if not self.free.acquire(blocking=False):
            raise Retry(f"{self.most} copies are under way already", hint="wait for some of them to end")
        try:
            return Copying(self, run, request)
        except BaseException:
            self.free.release()
            raise


class Copying:
    """One copy, which looks to its caller like a command with three pipes (exec.Execution)."""

    terminal: int | None = None

    def __init__(self, copier: Copier, run: LiveRun, request: FilesRequest) -> None:
        self._release = copier.free.release
        self.patience: float | None = copier.silence
        self._name = run.record.name
        self.stdin: int | None
        self.stdout: int | None
        self.stderr: int | None
        pipes = open_pipes(4)
        (stdin, self.stdin), (self.stdout, stdout), (self.stderr, stderr), (self._report, report) = pipes
        try:
            if run.process is None or run.exit is not None:
                raise NotRunning(f"{self._name} is not running")
            process = os.dup(run.process)
            try:
                self._process = self._spawn(copier, run, request, (stdin, stdout, stderr, process, report))
            finally:
                os.close(process)
            self.waiter = os.pidfd_open(self._process.pid)
        except BaseException:
            self._close_streams()
            os.close(self._report)
            raise
        finally:
            for descriptor in (stdin, stdout, stderr, report):
                os.close(descriptor)
        # A process that the kernel can't end at once may still have the report open.
        os.set_blocking(self._report, False)
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)
            enlarge_pipe(descriptor, _PIPE_SIZE)

    def _spawn(
        self, copier: Copier, run: LiveRun, request: FilesRequest, descriptors: tuple[int, int, int, int, int]
    ) -> subprocess.Popen[bytes]:
        stdin, stdout, stderr, process, report = descriptors
        asked = CopyRequest(
            process=process,
            report=report,
            path=request.path,
            read=request.read,
            own_users=run.record.ids is not None,
            root=run.record.root or (),
            base=request.base,
            contents=request.contents,
            owners=request.owners,
            follow=request.follow,
            silence=copier.silence,
        )
        library = os.fspath(Path(tank_agent.__file__).parent.parent)
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, library, json.dumps(asked)],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(process, report),
                env={**ENVIRONMENT, "TZ": "UTC0"},
                cwd="/",
                umask=OWN_UMASK,
                start_new_session=True,
            )
        except OSError as error:
            raise not_started(sys.executable, error) from error

    def begun(self) -> bool:
        """Return True: all output is the copy's own."""
        return True

    def ended(self) -> bool:
        """Return whether it has ended; its last output may still be in the pipes."""
        return pidfd.ended(self.waiter)

    def resize(self, rows: int, columns: int) -> None:
        """Do nothing: there is no terminal."""

    def signal(self, number: int) -> None:
        """End the copy, whatever the signal."""
        # The process inside ends with the one that watches it.
        pidfd.send_signal(self.waiter, signal.SIGKILL)

    def leave(self) -> None:
        """End the copy, which is of no use without its caller."""
        self.hang_up()

    def hang_up(self) -> None:
        """End the copy: nobody waits for it any more."""
        self.signal(signal.SIGKILL)
        self._close_streams()

    def read(self, descriptor: int, size: int) -> bytes:
        """Read from an output."""
        return os.read(descriptor, size)

    def close_stream(self, descriptor: int | None) -> None:
        """Close the input or an output, if it is one of these and open."""
        for name in ("stdin", "stdout", "stderr"):
            if descriptor is not None and descriptor == getattr(self, name):
                os.close(descriptor)
                setattr(self, name, None)

    def result(self) -> Ended:
        """Return the end of the copy; to be called after `ended`.

        Raises:
            CannotCopy: it failed.
        """
        self._process.wait(_DEADLINE)
        report = ""
        with contextlib.suppress(BlockingIOError):
            report = os.read(self._report, 1 << 16).decode(errors="replace")
        # The one that watches may have found a reason to end it a moment later.
        if report.startswith("ok"):
            return Ended(code=0)
        message, _, hint = report.removeprefix("failed ").partition("\0")
        if not report:
            message, hint = "the copying process died", "look for out-of-memory kills in the kernel's log"
        raise CannotCopy(message, where=self._name, hint=hint.split("\0")[0] or None)

    def close(self) -> None:
        """End it if it still runs, and close everything."""
        self._close_streams()
        pidfd.send_signal(self.waiter, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DEADLINE)
        os.close(self.waiter)
        os.close(self._report)
        self._release()

    def _close_streams(self) -> None:
        for descriptor in (self.stdin, self.stdout, self.stderr):
            self.close_stream(descriptor)
