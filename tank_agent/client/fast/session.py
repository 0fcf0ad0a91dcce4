"""The client's side of a session: a terminal or three streams, joined with a command in a container."""

from __future__ import annotations

import contextlib
import os
import select
import time

from tank_agent.api import frames
from tank_agent.client.fast import http, keys, terminal
from tank_agent.client.fast.results import Detached, Exited, OutputLost, Result, Signaled

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from tank_agent.client.fast.streams import Streams

_QUEUE = 256 << 10
_RECEIVE = 256 << 10
# Seconds that the agent may take to confirm a detach.
_GOODBYE = 2.0
# Seconds that restoring the terminal may take when this process is killed.
_LAST_WORD = 0.5
_SIGINT = 2


class Session:
    """Moves bytes until the command ends, the user leaves, or the agent is lost."""

    def __init__(self, path: str, answered: http.Answered, streams: Streams, detach_sequence: bytes) -> None:
        self._path = path
        self._connection = answered.connection
        self._connection.setblocking(False)
        self._decoder = frames.Decoder()
        self._received = answered.received
        self._streams = streams
        self._keys = keys.DetachKeys(detach_sequence)
        self._modes = terminal.Modes()
        self._queue = bytearray()
        # Bytes of input that the agent has not passed on yet, if it confirms.
        self._under_way = 0
        self._confirms = False
        self._reading = True
        self._held_since = 0.0
        self._leave_at: float | None = None
        self._resized = False
        self._interrupted = False
        self._warned = False
        # The first error of writing output; the command continues, since its exit is still wanted.
        self._output_error: OSError | None = None

    def resize(self) -> None:
        """Send the terminal's size, if it is known."""
        rows, columns = self._streams.size()
        if rows:
            self._put(frames.RESIZE, frames.size_payload(rows, columns))

    def run(self, *, raw: bool, interrupts: bool) -> Result:
        """Work until the end, and leave the terminal as it was found.

        Args:
            raw: stdin is a terminal, whose every key goes to the command.
            interrupts: the first SIGINT is passed on to the command; the second one ends this process.
        """
        try:
            with self._signals(raw=raw, interrupts=interrupts) as wake, contextlib.closing(self._connection):
                if raw:
                    # The size may have changed since the request.
                    self.resize()
                result = self._work(wake)
                # The command may have left the screen changed.
                self._restore_screen(new_line=not isinstance(result, Exited))
                if self._output_error is not None:
                    raise OutputLost(self._output_error, result)
                return result
        except terminal.Killed as killed:
            terminal.die(killed.number)

    @contextlib.contextmanager
    def _signals(self, *, raw: bool, interrupts: bool) -> Iterator[int]:
        user = terminal.RawMode(self._streams.stdin) if raw else None
        interrupted = self._note_interrupt if interrupts else None
        with contextlib.ExitStack() as stack:
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, reader)
            stack.callback(os.close, writer)
            stack.enter_context(terminal.signals(writer, user, self._note_resize, interrupted))
            if user is not None:
                stack.callback(user.leave)
            try:
                if user is not None:
                    user.enter()
                yield reader
            except BaseException:
                # Leave the raw mode first, which cannot block: the terminal may take no more output.
                if user is not None:
                    user.leave()
                self._restore_screen(within=_LAST_WORD)
                raise

    def _note_resize(self) -> None:
        self._resized = True

    def _note_interrupt(self) -> None:
        if self._warned:
            raise KeyboardInterrupt
        self._interrupted = self._warned = True

    def _work(self, wake: int) -> Result:
        if self._received and (result := self._take(self._received)) is not None:
            return result
        while True:
            for descriptor, events in self._poll(wake):
                if descriptor == wake:
                    os.read(wake, 4096)
                elif descriptor == self._connection.fileno():
                    if events & select.POLLOUT:
                        self._flush()
                    if events & ~select.POLLOUT and (result := self._receive()) is not None:
                        return result
                elif self._reading:
                    self._read_input()
            self._notice()
            if self._leave_at is not None and time.monotonic() > self._leave_at:
                return Detached()

    def _poll(self, wake: int) -> list[tuple[int, int]]:
        poller = select.poll()
        poller.register(wake, select.POLLIN)
        poller.register(self._connection, select.POLLIN | (select.POLLOUT if self._queue else 0))
        full = len(self._queue) >= _QUEUE or (self._confirms and self._under_way >= frames.WINDOW)
        if self._reading and not full:
            poller.register(self._streams.stdin, select.POLLIN)
        deadlines = [self._held_since + keys.HOLD] if self._keys.held else []
        if self._leave_at is not None:
            deadlines.append(self._leave_at)
        if not deadlines:
            return poller.poll()
        return poller.poll(max(0.0, min(deadlines) - time.monotonic()) * 1000 + 1)

    def _notice(self) -> None:
        """Act on signals and on time that has passed."""
        if self._resized:
            self._resized = False
            self.resize()
        if self._interrupted:
            self._interrupted = False
            self._put(frames.SIGNAL, bytes((_SIGINT,)))
        if self._keys.held and time.monotonic() >= self._held_since + keys.HOLD:
            self._put(frames.STDIN, self._keys.give_up())

    def _read_input(self) -> None:
        try:
            data = os.read(self._streams.stdin, frames.MAX_PAYLOAD)
        except BlockingIOError:
            return
        except OSError:
            # The terminal is gone, or this process is not in its foreground.
            data = b""
        if not data:
            self._reading = False
            self._put(frames.STDIN, self._keys.give_up())
            self._put(frames.EOF)
            return
        passed, leaves = self._keys.feed(data)
        self._held_since = time.monotonic()
        self._put(frames.STDIN, passed)
        if leaves:
            self._reading = False
            self._put(frames.DETACH)
            self._leave_at = time.monotonic() + _GOODBYE

    def _put(self, kind: int, payload: bytes = b"") -> None:
        if kind == frames.STDIN:
            if not payload:
                return
            self._under_way += len(payload)
        self._queue += frames.frame(kind, payload)
        self._flush()

    def _flush(self) -> None:
        while self._queue:
            try:
                del self._queue[: self._connection.send(self._queue)]
            except BlockingIOError:
                return
            except OSError:
                # The last frames of the agent are still to be read.
                self._queue.clear()

    def _receive(self) -> Result | None:
        try:
            data = self._connection.recv(_RECEIVE)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            if self._leave_at is not None:
                return Detached()
            raise http.lost(self._path)
        return self._take(data)

    def _take(self, data: bytes) -> Result | None:
        try:
            received = self._decoder.feed(data)
        except frames.BadFrameError:
            raise http.lost(self._path) from None
        for kind, payload in received:
            if kind == frames.STDOUT:
                self._modes.feed(payload)
                self._print(self._streams.stdout, payload)
            elif kind == frames.STDERR:
                self._print(self._streams.stderr, payload)
            elif kind == frames.EXIT:
                how, number = frames.read_exit(payload)
                return Signaled(number) if how == frames.SIGNALED else Exited(number)
            elif kind == frames.TAKEN:
                self._confirms = True
                self._under_way -= frames.read_count(payload)
            elif kind == frames.DETACH:
                return Detached()
            elif kind == frames.ERROR:
                from tank_agent.api.wire import decode_error

                raise decode_error(500, payload)
        return None

    def _print(self, descriptor: int, payload: bytes) -> None:
        try:
            _write(descriptor, payload)
        except BrokenPipeError:
            # Nobody reads any more, which ends the command, too.
            raise
        except OSError as error:
            self._output_error = self._output_error or error

    def _restore_screen(self, *, new_line: bool = True, within: float | None = None) -> None:
        """Reset the modes of the terminal; `within` limits the seconds for one that may be blocked."""
        if not os.isatty(self._streams.stdout):
            return
        undo = self._modes.undo()
        if new_line and not self._modes.at_line_start:
            undo += b"\r\n"
        # The terminal may be gone.
        with contextlib.suppress(OSError):
            if within is None:
                _write(self._streams.stdout, undo)
            else:
                terminal.write_what_fits(self._streams.stdout, undo, within)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            # Another process that shares the stream has made it non-blocking.
            poller = select.poll()
            poller.register(descriptor, select.POLLOUT)
            poller.poll()
