"""The terminals of containers with `tty = true`: one thread drains them all, and any number of users watch.

conmon stops a container that writes while a client of its attach socket does not read. So the agent is the
only client, reads always, and keeps a bounded part: the last output of each terminal, and a backlog for each
viewer.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
import time
from collections import deque
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from tank_agent.linux.paths import Closing
from tank_agent.runtime.container.conmon import ConmonControl

_log = structlog.get_logger()
_SOCKET = "attach"
# One message is a byte that names the stream and at most 8192 bytes (conmon's STDIO_BUF_SIZE).
_MESSAGE = 8193
_MESSAGES_AT_ONCE = 64
# conmon reads into a buffer of this size, and takes input that fills it for truncated.
_MOST_INPUT = 8191
_KEPT = 64 << 10
_SHOWN = 16 << 10
_BACKLOG = 1 << 20
_STOP_DEADLINE = 5.0
_CONNECT_DEADLINE = 2.0
_AFTER_A_BUG = 0.1
# Questions to a terminal: shown again, the terminal would type its answer into the container.
_QUERIES = re.compile(
    rb"\x1b\[[?>=!]?[0-9;]*[cn]|\x1b\[[0-9;]*t|\x1b\[[?>=<][0-9;]*[uq]|\x1b\[\?[0-9;]*\$p|\x1bZ|\x05|\x07"
    rb"|\x1b\][^\x07\x1b]*\?(?:\x07|\x1b\\)|\x1bP[^\x1b]*\x1b\\"
)


class Viewer:
    """One user at a terminal: output waits here, up to a bound, until the user's thread takes it.

    Attributes:
        ready: readable while there is output to take, or when the terminal is gone.
        input: writable while `write` would take something; only for polling.
    """

    def __init__(self, console: _Console, shown: bytes) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._chunks: deque[bytes] = deque([shown] if shown else [])
        self._size = len(shown)
        self._skipped = 0
        self.gone = False
        self.ready = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.input = os.dup(console.connection.fileno())

    def push(self, data: bytes) -> None:
        """Add output; the oldest is dropped when the user does not keep up. Called by the draining thread."""
        with self._lock:
            self._chunks.append(data)
            self._size += len(data)
            while self._size > _BACKLOG:
                dropped = len(self._chunks.popleft())
                self._size -= dropped
                self._skipped += dropped
            self._announce()

    def leave(self) -> None:
        """Mark the terminal as gone."""
        with self._lock:
            self.gone = True
            self._announce()

    def _announce(self) -> None:
        if self.ready >= 0:
            os.eventfd_write(self.ready, 1)

    def take(self) -> bytes:
        """Return the output that waits, with a note where some was dropped."""
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.ready)
            data = b"".join(self._chunks)
            self._chunks.clear()
            skipped, self._size, self._skipped = self._skipped, 0, 0
        if skipped:
            return b"\r\n[tank: %d bytes of output skipped]\r\n%b" % (skipped, data)
        return data

    def write(self, data: bytes | memoryview) -> int:
        """Write what a user types; return how many bytes were taken, which may be none."""
        try:
            return os.write(self.input, data[:_MOST_INPUT])
        except BlockingIOError:
            return 0
        except OSError:
            # The terminal has gone; `gone` follows.
            return len(data)

    def resize(self, rows: int, columns: int) -> None:
        """Ask for another size of the terminal; of several viewers, the last to ask wins."""
        self._console.hub.resize(self._console, rows, columns)

    def close(self) -> None:
        """Stop watching; the container goes on."""
        self._console.hub.drop(self._console, self)
        with self._lock:
            os.close(self.ready)
            os.close(self.input)
            self.ready = self.input = -1


class _Console(Struct, eq=False):
    """One container's terminal. The hub's lock guards it.

    `was_used` means that a user of a former agent may have set a size that we do not know.
    """

    hub: Consoles
    directory: Path
    connection: socket.socket
    kept: bytearray
    was_used: bool
    viewers: list[Viewer] = []
    size: tuple[int, int] | None = None
    wanted: deque[tuple[int, int]] = msgspec.field(default_factory=deque)
    due: float = 0.0


class Consoles:
    """Drains the terminals of all containers, and sets their sizes by `control`."""

    def __init__(self, control: ConmonControl) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._consoles: dict[Path, _Console] = {}
        self._by_descriptor: dict[int, _Console] = {}
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="consoles", daemon=True)
        self._thread.start()

    def open(self, directory: Path, shown: bytes | None = None) -> bool:
        """Attach to a container's terminal; False if that fails. `shown` was printed before this agent."""
        with self._lock:
            if directory in self._consoles:
                return True
        kept, was_used = bytearray(shown or b""), shown is not None
        try:
            with contextlib.ExitStack() as stack:
                connection = stack.enter_context(_connect(directory))
                with self._lock:
                    if directory in self._consoles:
                        return True
                    # Fails where root in a container has used up what the kernel grants root of these.
                    self._epoll.register(connection.fileno(), select.EPOLLIN)
                    stack.pop_all()
                    console = _Console(self, directory, connection, kept, was_used)
                    self._consoles[directory] = self._by_descriptor[connection.fileno()] = console
        except OSError as error:
            _log.warning("cannot attach to a container's terminal", bundle=str(directory), error=str(error))
            return False
        return True

    def view(self, directory: Path) -> Viewer | None:
        """Return a viewer of a container's terminal, with what was printed last; None if there is none."""
        with self._lock:
            if (console := self._consoles.get(directory)) is None:
                return None
            viewer = Viewer(console, last_output(bytes(console.kept)))
            console.viewers.append(viewer)
            return viewer

    def close(self, directory: Path) -> None:
        """Close the connection to a container's terminal, which ends its viewers."""
        with self._lock:
            if (console := self._consoles.get(directory)) is not None:
                self._remove(console)
        self._control.forget(directory)

    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the thread. Containers go on."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self._thread.join(_STOP_DEADLINE)
        with self._lock:
            for console in list(self._consoles.values()):
                self._remove(console)
        self._epoll.close()
        os.close(self._wake)

    def resize(self, console: _Console, rows: int, columns: int) -> None:
        """Set a size soon; of several requests that come close together, only the last counts."""
        size = (rows, columns)
        with self._lock:
            # A client sends its size again when it has taken its terminal over.
            if not console.wanted or console.wanted[-1] != size:
                nudge = console.size == size or (console.size is None and console.was_used)
                # A program redraws only when its size changes, so a user who comes back needs two changes.
                # The last line is written twice, in case conmon misses the first.
                console.wanted = deque([(rows + 1, columns), size, size] if nudge else [size, size])
        if not self._stopping:
            os.eventfd_write(self._wake, 1)

    def drop(self, console: _Console, viewer: Viewer) -> None:
        """Forget a viewer."""
        with self._lock, contextlib.suppress(ValueError):
            console.viewers.remove(viewer)

    def _run(self) -> None:
        timeout = -1.0
        while not self._stopping:
            try:
                for descriptor, _ in self._epoll.poll(timeout):
                    if descriptor == self._wake:
                        os.eventfd_read(self._wake)
                    else:
                        self._drain(descriptor)
                timeout = self._set_sizes()
            except Exception:
                # A terminal that is not drained stops its container, so the thread goes on for the others.
                _log.exception("a terminal could not be served")
                timeout = _AFTER_A_BUG

    def _drain(self, descriptor: int) -> None:
        with self._lock:
            if (console := self._by_descriptor.get(descriptor)) is None:
                return
            output, gone = [], False
            try:
                for _ in range(_MESSAGES_AT_ONCE):
                    message = console.connection.recv(_MESSAGE)
                    if not message:
                        raise ConnectionResetError
                    output.append(message[1:])
            except BlockingIOError:
                pass
            except OSError:
                gone = True
            if data := b"".join(output):
                console.kept += data
                if len(console.kept) > 2 * _KEPT:
                    del console.kept[:-_KEPT]
                for viewer in console.viewers:
                    viewer.push(data)
            if gone:
                self._remove(console)

    def _set_sizes(self) -> float:
        """Write the sizes that are due; return in how many seconds the next one is, -1 if there is none."""
        now = time.monotonic()
        waits = []
        with self._lock:
            for console in self._consoles.values():
                if not console.wanted:
                    continue
                left = console.due - now
                if left <= 0:
                    left = self._control.resize(console.directory, *console.wanted[0])
                    if left == 0:
                        console.size = console.wanted.popleft()
                        # Twice the gap, so that a slow conmon reads the repetition alone.
                        left = 0.1
                if console.wanted:
                    console.due = now + left
                    waits.append(left)
        return min(waits, default=-1.0)

    def _remove(self, console: _Console) -> None:
        del self._consoles[console.directory], self._by_descriptor[console.connection.fileno()]
        self._epoll.unregister(console.connection.fileno())
        console.connection.close()
        for viewer in console.viewers:
            viewer.leave()
        console.viewers.clear()


def last_output(kept: bytes) -> bytes:
    """Return the last of what a terminal printed, from the beginning of a line, without questions to it."""
    shown = kept[-_SHOWN:]
    if len(shown) < len(kept):
        shown = shown[shown.find(b"\n") + 1 :]
    return _QUERIES.sub(b"", shown)


def _connect(directory: Path) -> socket.socket:
    with Closing(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as bundle:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(_CONNECT_DEADLINE)
            # Short, whatever the length of run_dir.
            connection.connect(f"/proc/self/fd/{bundle}/{_SOCKET}")
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
    return connection
