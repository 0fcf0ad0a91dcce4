"""The terminal of a further command: crun makes it in the container, and sends us its master by a socket.

crun runs the command without waiting until the terminal's size is set, in every version up to 1.29 at least.
So the command is held at its first instruction until the size is set.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from tank_agent.errors import Retry
from tank_agent.linux import trace
from tank_agent.linux.channels import resize_terminal
from tank_agent.linux.fault import point
from tank_agent.linux.paths import Closing

_log = structlog.get_logger()
_DEADLINE = 10.0


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen at a path, however long it is, for crun's connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        with Closing(os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
            listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        listener.listen(1)
        yield listener


def receive_sized(
    listener: socket.socket, crun: int, waiter: int, *, gate: int, process: bytes, size: tuple[int, int]
) -> int | None:
    """Send crun its process document, and return the terminal, which has its size before the command begins.

    It is the master, non-blocking; None if crun ended without one.

    Args:
        crun: our child, which waits for the document.
        waiter: its pidfd.
        gate: the writing end of the pipe from which it reads the document; is closed.
        process: the document.
        size: rows and columns; zeros if they are not known.
    """
    deadline = time.monotonic() + _DEADLINE
    # Every child of crun is traced from the first, since crun does not know yet what to run.
    traced = trace.seize(crun)
    if not traced:
        _log.warning("a terminal may have no size for a moment, since ptrace is not permitted")
    # It may have failed already; its log has the reason.
    with contextlib.suppress(BrokenPipeError), os.fdopen(gate, "wb") as writer:
        writer.write(process)
    try:
        held = trace.run_to_exec(crun, deadline) if traced else None
    except TimeoutError:
        raise _silent() from None
    point("exec:held")
    try:
        terminal = _receive(listener, waiter, deadline)
        if terminal is not None:
            set_size(terminal, *size)
        return terminal
    except BaseException:
        if held is not None:
            os.kill(held, signal.SIGKILL)
        raise
    finally:
        if held is not None:
            trace.release(held)


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Set a terminal's size, if it is known; the kernel sends the command SIGWINCH."""
    if rows and columns:
        # The other end may have gone.
        with contextlib.suppress(OSError):
            resize_terminal(terminal, rows, columns)


def _receive(listener: socket.socket, waiter: int, deadline: float) -> int | None:
    if not _wait_for(listener, waiter, deadline):
        return None
    connection, _ = listener.accept()
    with connection:
        if not _wait_for(connection, waiter, deadline):
            return None
        descriptors = array.array("i")
        size = socket.CMSG_SPACE(4 * descriptors.itemsize)
        # Python sets the close-on-exec flag only through recvmsg's own flag.
        _, ancillary, _, _ = connection.recvmsg(1024, size, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    for descriptor in descriptors[1:]:
        os.close(descriptor)
    if not descriptors:
        return None
    os.set_blocking(descriptors[0], False)
    return descriptors[0]


def _wait_for(waited: socket.socket, waiter: int, deadline: float) -> bool:
    poller = select.poll()
    poller.register(waited, select.POLLIN)
    poller.register(waiter, select.POLLIN)
    ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
    if not ready:
        raise _silent()
    return any(descriptor == waited.fileno() for descriptor, _ in ready)


def _silent() -> Retry:
    return Retry(f"the container runtime did not answer within {_DEADLINE:g} s")
