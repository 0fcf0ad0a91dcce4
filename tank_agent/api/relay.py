"""Join a caller's upgraded connection with a command or a terminal, both ways, within fixed memory.

Each session has one thread and one poll. A side that does not keep up makes only the other side wait: a
command whose output nobody reads, or a caller whose input the command does not read. A container's terminal
never waits.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager

from tank_agent.api import frames
from tank_agent.api.request import RawConnection
from tank_agent.api.wire import encode_error, error_body
from tank_agent.errors import NotRunning, Retry, TankError
from tank_agent.runtime.run import LiveRun
from tank_agent.runtime.session.attach import Viewer
from tank_agent.runtime.session.copy import Copying
from tank_agent.runtime.session.exec import Execution

_QUEUE = 256 << 10
_RECEIVE = 256 << 10
_BUFFERS_AT_ONCE = 16
# Seconds that the caller may take to read the last frame.
_LAST_WORD = 2.0
# Seconds until a command that began, or an agent that stops, is noticed, since neither wakes the poll.
_BEGUN_WITHIN = 0.002
_STOP_WITHIN = 0.5
_HIGHEST_SIGNAL = 64
# Seconds until output is seen on a terminal that the command had closed and opened again.
_REOPENED_WITHIN = 0.1
_EXIT_DEADLINE = 5.0
# More than the pipes or the terminal can hold when the command ends.
_MOST_LEFT = 1 << 20


class Caller:
    """The user's connection, as frames; only `wait` and `finish` block.

    Attributes:
        queued: bytes that wait for the caller to read.
        moved_at: when the caller last took some of them, by the monotonic clock.
        gone: no more frames come, because the caller left or the agent stops.
    """

    def __init__(self, raw: RawConnection, *, confirms: bool) -> None:
        self._confirms = confirms
        self._socket = raw.socket
        self._socket.setblocking(False)
        self._decoder = frames.Decoder()
        self._received = raw.received
        self._queue: deque[bytes | memoryview] = deque()
        self.stopping = raw.stopping
        self.queued = 0
        self.gone = False
        self.moved_at = time.monotonic()
        self.confirm(0)

    def confirm(self, taken: int) -> None:
        """Send the number of bytes of input that were passed on, to a caller who asked for it."""
        if self._confirms:
            self.put(frames.TAKEN, frames.count_payload(taken))

    def wait(
        self, masks: Mapping[int, int], patience: float | None = None, *, reading: bool = True
    ) -> tuple[Mapping[int, int], list[tuple[int, bytes]]]:
        """Wait for the caller, or for one of the descriptors to have an event of its mask.

        Returns the descriptors that have events, and the frames that have come; none unless `reading`.

        Args:
            patience: the longest to wait, in seconds.
        """
        mine = self._socket.fileno()
        wanted = select.POLLRDHUP | (select.POLLIN if reading else 0) | (select.POLLOUT if self._queue else 0)
        ready = _poll({mine: wanted, **masks}, patience)
        events = ready.pop(mine, 0)
        if events & select.POLLOUT:
            self._flush()
        if events & select.POLLIN:
            return ready, self.receive()
        if events & (select.POLLHUP | select.POLLRDHUP | select.POLLERR):
            self.gone = True
        return ready, []

    def receive(self) -> list[tuple[int, bytes]]:
        """Return the frames that have come."""
        data, self._received = self._received, b""
        try:
            data = data or self._socket.recv(_RECEIVE)
            if data:
                return self._decoder.feed(data)
        except BlockingIOError:
            return []
        except (OSError, frames.BadFrameError):
            pass
        self.gone = True
        return []

    def put(self, kind: int, payload: bytes = b"") -> None:
        """Queue a frame, or several if it is too long for one, and send what can be sent."""
        view = memoryview(payload)
        for begin in range(0, max(len(payload), 1), frames.MAX_PAYLOAD):
            part = view[begin : begin + frames.MAX_PAYLOAD]
            self._queue.append(frames.head(kind, len(part)))
            self._queue.append(part)
            self.queued += len(part) + len(self._queue[-2])
        self._flush()

    def _flush(self) -> None:
        """Send as much as the connection takes."""
        while self._queue:
            try:
                sent = self._socket.sendmsg([*self._queue][:_BUFFERS_AT_ONCE])
            except BlockingIOError:
                return
            except OSError:
                self.gone = True
                self._queue.clear()
                self.queued = 0
                return
            self.queued -= sent
            self.moved_at = time.monotonic()
            while self._queue and sent >= len(self._queue[0]):
                sent -= len(self._queue.popleft())
            if sent:
                self._queue[0] = memoryview(self._queue[0])[sent:]

    def finish(self, kind: int, payload: bytes = b"") -> None:
        """Send the last frame, and wait for it to be read, but not for ever."""
        self.put(kind, payload)
        deadline = time.monotonic() + _LAST_WORD
        while self._queue and (left := deadline - time.monotonic()) > 0:
            _poll({self._socket.fileno(): select.POLLOUT}, left)
            self._flush()

    def finish_with_exit(self, code: int | None, signal: int | None) -> None:
        """Send how the command ended: by a signal, or with an exit code."""
        how, number = (frames.EXITED, code or 0) if signal is None else (frames.SIGNALED, signal)
        self.finish(frames.EXIT, frames.exit_payload(how, number))

    def fail(self, error: TankError) -> None:
        """Send why there is no result."""
        self.finish(frames.ERROR, encode_error(error_body(error)))


@contextmanager
def _caller(raw: RawConnection, *, confirms: bool) -> Iterator[Caller]:
    """Make the connection's caller, and send it an error that the block raises."""
    caller = Caller(raw, confirms=confirms)
    try:
        yield caller
    except TankError as error:
        caller.fail(error)


def _poll(masks: Mapping[int, int], patience: float | None) -> dict[int, int]:
    """Wait `patience` seconds at most; return the descriptors that have events, and these."""
    poller = select.poll()
    for descriptor, mask in masks.items():
        poller.register(descriptor, mask)
    return dict(poller.poll(None if patience is None else patience * 1000))


def serve_exec(raw: RawConnection, start: Callable[[], Execution | Copying], *, confirms: bool) -> None:
    """Start a command or a copy, and join it with the caller until one of the two ends."""
    with _caller(raw, confirms=confirms) as caller, ExitStack() as stack:
        execution = start()
        stack.callback(execution.close)
        if _ExecSession(caller, execution).run():
            stack.pop_all()
            # The connection's thread is the API's, which counts them.
            threading.Thread(
                target=_finish_alone, args=(execution, raw.stopping), name="exec-alone", daemon=True
            ).start()


def _outputs(execution: Execution | Copying) -> dict[int, int]:
    """Return the descriptors of a command's open outputs, and the kinds of their frames."""
    kinds = {
        execution.terminal: frames.STDOUT,
        execution.stdout: frames.STDOUT,
        execution.stderr: frames.STDERR,
    }
    return {descriptor: kind for descriptor, kind in kinds.items() if descriptor is not None}


class _ExecSession:
    """A command and its caller."""

    def __init__(self, caller: Caller, execution: Execution | Copying) -> None:
        self._caller = caller
        self._execution = execution
        self._input = bytearray()
        self._input_ended = False
        self._detached = False
        self._ended = False
        # Nothing has the terminal open, which poll would report without end. It stays open here: closing it
        # would hang up a command that only has redirected its streams, and it can open /dev/tty again.
        self._unused = False
        self._left = _MOST_LEFT

    def run(self) -> bool:
        """Work until the end; True if the command continues without its caller."""
        caller, execution = self._caller, self._execution
        self._take(caller.receive())
        # What came with the request may be all that ever comes.
        self._feed()
        while not self._detached:
            if caller.gone:
                if caller.stopping.is_set():
                    hint = "run it again when the agent is back"
                    caller.fail(Retry("the agent stops, which ends the command", hint=hint))
                execution.hang_up()
                return True
            if self._ended and self._drained():
                result = execution.result()
                caller.finish_with_exit(result.code, result.signal)
                return False
            self._wait()
        # The keys that were typed before the detach, such as a command and Enter.
        self._feed()
        execution.leave()
        caller.finish(frames.DETACH)
        return True

    def _wait(self) -> None:
        execution, caller = self._execution, self._caller
        begun = execution.begun()
        masks: dict[int, int] = {}
        patience = execution.patience if self._ended else None
        if not self._ended:
            masks[execution.waiter] = select.POLLIN
            if begun and caller.queued < _QUEUE and not self._unused:
                masks.update(dict.fromkeys(_outputs(execution), select.POLLIN))
            target = self._target()
            if self._input and target is not None and not self._unused:
                masks[target] = masks.get(target, 0) | select.POLLOUT
            if not begun:
                patience = _BEGUN_WITHIN
            elif self._unused:
                patience = _REOPENED_WITHIN
        # Input that a terminal does not take is dropped beyond a bound, so that a detach gets through.
        reading = execution.terminal is not None or len(self._input) < _QUEUE
        ready, received = caller.wait(masks, patience, reading=reading)
        self._take(received)
        if self._ended and patience is not None and time.monotonic() - caller.moved_at >= patience:
            # Nothing ends a caller that was suspended, and what it holds is one of few.
            caller.gone = True
        if execution.waiter in ready:
            self._ended = True
        if begun:
            self._pump()
        self._feed()

    def _target(self) -> int | None:
        return self._execution.stdin if self._execution.terminal is None else self._execution.terminal

    def _drained(self) -> bool:
        """Return whether all output of the command is read; processes that it left behind may write on."""
        while self._left > 0 and self._caller.queued < _QUEUE and (moved := self._pump()):
            self._left -= moved
        return not self._caller.queued

    def _pump(self) -> int:
        """Pass on the command's output as far as the caller keeps up; return the number of bytes."""
        moved = 0
        if not self._execution.begun():
            return 0
        for descriptor, kind in _outputs(self._execution).items():
            if self._caller.queued >= _QUEUE:
                break
            try:
                data = self._execution.read(descriptor, frames.MAX_PAYLOAD)
            except BlockingIOError:
                self._unused = False
                continue
            except OSError:
                # EIO: every process has closed the terminal.
                self._unused = True
                continue
            if data:
                self._unused = False
                self._caller.put(kind, data)
                moved += len(data)
            else:
                self._execution.close_stream(descriptor)
        return moved

    def _take(self, received: list[tuple[int, bytes]]) -> None:
        for kind, payload in received:
            if kind == frames.STDIN:
                room = self._execution.terminal is None or len(self._input) < _QUEUE
                if room and not self._input_ended:
                    self._input += payload
            elif kind == frames.EOF:
                self._input_ended = True
            elif kind == frames.RESIZE:
                self._execution.resize(*frames.read_size(payload))
            elif kind == frames.DETACH:
                self._detached = True
            elif kind == frames.SIGNAL and payload and 0 < payload[0] <= _HIGHEST_SIGNAL:
                self._execution.signal(payload[0])

    def _feed(self) -> None:
        """Pass on the caller's input as far as the command keeps up."""
        before = len(self._input)
        target = self._target()
        while self._input and target is not None:
            try:
                del self._input[: os.write(target, self._input)]
            except BlockingIOError:
                break
            except OSError:
                # The command does not read any more, but may still run.
                self._execution.close_stream(self._execution.stdin)
                target = None
        if target is None:
            self._input.clear()
        if self._input_ended and not self._input:
            self._execution.close_stream(self._execution.stdin)
        if taken := before - len(self._input):
            self._caller.confirm(taken)


def _finish_alone(execution: Execution | Copying, stopping: threading.Event) -> None:
    """Discard a command's output until it ends, since a full pipe would stop it."""
    deadline: float | None = None
    # A terminal that nothing has open; see _ExecSession.
    unused = False
    with closing(execution):
        while not execution.ended():
            if stopping.is_set() and deadline is None:
                execution.hang_up()
                deadline = time.monotonic() + _LAST_WORD
            if deadline is not None and time.monotonic() > deadline:
                return
            # A terminal that the command has not opened yet looks like one that it has closed.
            begun = execution.begun()
            outputs = _outputs(execution) if begun and not unused else ()
            masks = dict.fromkeys((execution.waiter, *outputs), select.POLLIN)
            unused = False
            for descriptor in _poll(masks, _STOP_WITHIN if begun else _BEGUN_WITHIN).keys() & outputs:
                try:
                    data = os.read(descriptor, frames.MAX_PAYLOAD)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data and descriptor == execution.terminal:
                    unused = True
                elif not data:
                    execution.close_stream(descriptor)


def serve_attach(raw: RawConnection, run: LiveRun, view: Callable[[], Viewer], *, confirms: bool) -> None:
    """Join a container's terminal with the caller until one of the two ends."""
    with _caller(raw, confirms=confirms) as caller, closing(view()) as viewer:
        _AttachSession(caller, run, viewer).run()


class _AttachSession:
    """A container's terminal and its viewer."""

    def __init__(self, caller: Caller, run: LiveRun, viewer: Viewer) -> None:
        self._caller = caller
        self._run = run
        self._viewer = viewer
        self._input = b""
        self._detached = False

    def run(self) -> None:
        """Work until the end."""
        caller, viewer = self._caller, self._viewer
        self._take(caller.receive())
        while not self._detached:
            if caller.gone:
                if caller.stopping.is_set():
                    hint = "it goes on; attach again when the agent is back"
                    raise Retry("the agent stops, which ends the attachment", hint=hint)
                return
            if viewer.gone:
                if data := viewer.take():
                    caller.put(frames.STDOUT, data)
                # A caller who has not read all of it yet may take long, and still gets the exit code.
                if not caller.queued:
                    self._send_exit()
                    return
            masks = {viewer.ready: select.POLLIN} if caller.queued < _QUEUE else {}
            if self._input and not viewer.gone:
                masks[viewer.input] = select.POLLOUT
            ready, received = caller.wait(masks)
            self._take(received)
            if viewer.ready in ready and (data := viewer.take()):
                caller.put(frames.STDOUT, data)
            self._feed()
        # The keys that were typed before the detach.
        self._feed()
        caller.finish(frames.DETACH)

    def _feed(self) -> None:
        """Type the caller's input as far as the terminal takes it."""
        before = len(self._input)
        while self._input and (written := self._viewer.write(self._input)):
            self._input = self._input[written:]
        if taken := before - len(self._input):
            self._caller.confirm(taken)

    def _take(self, received: list[tuple[int, bytes]]) -> None:
        for kind, payload in received:
            if kind == frames.STDIN and len(self._input) < _QUEUE:
                self._input += payload
            elif kind == frames.RESIZE:
                rows, columns = frames.read_size(payload)
                if rows and columns:
                    self._viewer.resize(rows, columns)
            elif kind == frames.DETACH:
                self._detached = True

    def _send_exit(self) -> None:
        """Wait for the exit code, which is known a moment after the terminal has gone."""
        deadline = time.monotonic() + _EXIT_DEADLINE
        while self._run.exit is None and time.monotonic() < deadline:
            time.sleep(0.005)
        exit_ = self._run.exit
        if exit_ is not None and (exit_.code is not None or exit_.signal is not None):
            self._caller.finish_with_exit(exit_.code, exit_.signal)
            return
        reason = exit_.reason if exit_ is not None else "its terminal was closed"
        raise NotRunning(f"{self._run.record.name} is not running: {reason}")
