"""Joins a caller's upgraded connection with a command or a terminal, both ways, within fixed memory.

One thread and one poll for each session. Who does not keep up makes only the other side wait: a command whose
output nobody reads, or a caller whose input the command does not read. A container's terminal never waits.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from tank_agent.api import frames
from tank_agent.api.request import RawConnection
from tank_agent.api.wire import encode_error, error_body
from tank_agent.errors import NotRunning, Retry, TankError
from tank_agent.runtime.run import LiveRun
from tank_agent.runtime.session.attach import Viewer
from tank_agent.runtime.session.exec import Ended, Execution

_QUEUE = 256 << 10
_RECEIVE = 256 << 10
_BUFFERS_AT_ONCE = 16
# How long the last frame may take to be read, in seconds.
_LAST_WORD = 2.0
# How soon a command that began, or an agent that stops, is noticed where nothing wakes us, in seconds.
_BEGUN_WITHIN = 0.002
_STOP_WITHIN = 0.5
_HIGHEST_SIGNAL = 64
# How soon output is seen on a terminal that the command had closed and opened again, in seconds.
_REOPENED_WITHIN = 0.1
_EXIT_DEADLINE = 5.0
# More than the pipes or the terminal can hold when the command ends.
_MOST_LEFT = 1 << 20


class Caller:
    """The user's connection, as frames; nothing here blocks.

    Attributes:
        queued: bytes that wait for the caller to read.
        gone: nothing more comes from there: the caller left, or the agent stops.
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
        self.confirm(0)

    def confirm(self, taken: int) -> None:
        """Say how much of the input was passed on, to a caller who asked for that."""
        if self._confirms:
            self.put(frames.TAKEN, frames.count_payload(taken))

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def interest(self, *, reading: bool) -> int:
        """Return what to poll for; that the caller left, always."""
        wanted = select.POLLRDHUP
        if reading:
            wanted |= select.POLLIN
        return wanted | select.POLLOUT if self._queue else wanted

    def receive(self) -> list[tuple[int, bytes]]:
        """Return the frames that have come."""
        data, self._received = self._received, b""
        if not data:
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return []
            except OSError:
                data = b""
        if not data:
            self.gone = True
            return []
        try:
            return self._decoder.feed(data)
        except frames.BadFrameError:
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
        self.flush()

    def flush(self) -> None:
        """Send what the connection takes."""
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
            while self._queue and sent >= len(self._queue[0]):
                sent -= len(self._queue.popleft())
            if sent:
                self._queue[0] = memoryview(self._queue[0])[sent:]

    def finish(self, kind: int, payload: bytes = b"") -> None:
        """Send the last frame, and wait for it to be read, but not for ever."""
        self.put(kind, payload)
        deadline = time.monotonic() + _LAST_WORD
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        while self._queue and (left := deadline - time.monotonic()) > 0:
            poller.poll(left * 1000)
            self.flush()

    def fail(self, error: TankError) -> None:
        """Say why there is no result."""
        self.finish(frames.ERROR, encode_error(error_body(error)))


def serve_exec(raw: RawConnection, start: Callable[[], Execution], *, confirms: bool) -> None:
    """Start a command, and join it with the caller until one of the two ends."""
    caller = Caller(raw, confirms=confirms)
    try:
        execution = start()
    except TankError as error:
        caller.fail(error)
        return
    goes_on = False
    try:
        goes_on = _ExecSession(caller, execution).run()
    finally:
        if not goes_on:
            execution.close()
    if goes_on:
        # The connection's thread is the API's, which counts them.
        threading.Thread(
            target=_finish_alone, args=(execution, raw.stopping), name="exec-alone", daemon=True
        ).start()


class _ExecSession:
    """A command and its caller."""

    def __init__(self, caller: Caller, execution: Execution) -> None:
        self._caller = caller
        self._execution = execution
        self._input: deque[bytes] = deque()
        self._waiting = 0
        self._input_ended = False
        self._detached = False
        self._over = False
        # Nothing has the terminal open, which poll would report without end. It stays open here: closing it
        # would hang up a command that only has redirected its streams, and it can open /dev/tty again.
        self._unused = False
        self._left = _MOST_LEFT

    def run(self) -> bool:
        """Work until the end; True if the command goes on without its caller."""
        self._take_all()
        while True:
            if self._detached:
                # What was typed before the keys that leave, such as a command and Enter.
                self._feed()
                self._caller.finish(frames.DETACH)
                return True
            if self._caller.gone:
                return self._leave()
            if self._over and self._drained():
                self._say_result()
                return False
            self._poll()

    def _poll(self) -> None:
        execution, caller = self._execution, self._caller
        begun = execution.begun()
        # What the terminal does not take is dropped beyond a bound, so that a detach gets through.
        reading = execution.terminal is not None or self._waiting < _QUEUE
        masks = {caller.fileno(): caller.interest(reading=reading)}
        if not self._over:
            masks[execution.waiter] = select.POLLIN
            if begun and caller.queued < _QUEUE and not self._unused:
                masks.update(dict.fromkeys((fd for _, fd in self._outputs()), select.POLLIN))
            target = execution.terminal if execution.terminal is not None else execution.stdin
            if self._input and target is not None and not self._unused:
                masks[target] = masks.get(target, 0) | select.POLLOUT
        poller = select.poll()
        for descriptor, mask in masks.items():
            poller.register(descriptor, mask)
        ready = dict(poller.poll(self._patience(begun=begun)))
        events = ready.pop(caller.fileno(), 0)
        if events & select.POLLOUT:
            caller.flush()
        if events & select.POLLIN and reading:
            self._take_all()
        elif events & (select.POLLHUP | select.POLLRDHUP | select.POLLERR):
            caller.gone = True
        if execution.waiter in ready:
            self._over = True
        if begun:
            self._pump()
        self._feed()

    def _patience(self, *, begun: bool) -> float | None:
        """Return after how many milliseconds to look, though nothing woke us; None for never."""
        if self._over:
            return None
        if not begun:
            return _BEGUN_WITHIN * 1000
        return _REOPENED_WITHIN * 1000 if self._unused else None

    def _drained(self) -> bool:
        """Return whether all that the command itself wrote has been read; what it left behind may go on."""
        while self._left > 0 and self._caller.queued < _QUEUE and (moved := self._pump()):
            self._left -= moved
        return not self._caller.queued

    def _outputs(self) -> list[tuple[int, int]]:
        """Return the command's outputs that are open: the frame's kind, and the descriptor."""
        execution = self._execution
        outputs = [(frames.STDOUT, execution.terminal), (frames.STDOUT, execution.stdout)]
        outputs.append((frames.STDERR, execution.stderr))
        return [(kind, descriptor) for kind, descriptor in outputs if descriptor is not None]

    def _pump(self) -> int:
        """Pass on what the command wrote, as far as the caller keeps up; return how much it was."""
        moved = 0
        if not self._execution.begun():
            return 0
        for kind, descriptor in self._outputs():
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

    def _take_all(self) -> None:
        for kind, payload in self._caller.receive():
            self._take(kind, payload)

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == frames.STDIN:
            room = self._execution.terminal is None or self._waiting < _QUEUE
            if payload and room and not self._input_ended:
                self._input.append(payload)
                self._waiting += len(payload)
        elif kind == frames.EOF:
            self._input_ended = True
        elif kind == frames.RESIZE:
            self._execution.resize(*frames.read_size(payload))
        elif kind == frames.DETACH:
            self._detached = True
        elif kind == frames.SIGNAL and payload and 0 < payload[0] <= _HIGHEST_SIGNAL:
            self._execution.signal(payload[0])

    def _feed(self) -> None:
        """Pass on what the caller wrote, as far as the command keeps up."""
        waited = self._waiting
        self._pass_on()
        if taken := waited - self._waiting:
            self._caller.confirm(taken)

    def _pass_on(self) -> None:
        execution = self._execution
        target = execution.terminal if execution.terminal is not None else execution.stdin
        while self._input and target is not None:
            try:
                written = os.write(target, self._input[0])
            except BlockingIOError:
                return
            except OSError:
                # The command does not read any more; it may well go on.
                execution.close_stream(execution.stdin)
                target = None
                break
            self._waiting -= written
            if written == len(self._input[0]):
                self._input.popleft()
            else:
                self._input[0] = self._input[0][written:]
        if target is None:
            self._input.clear()
            self._waiting = 0
        if self._input_ended and not self._input:
            execution.close_stream(execution.stdin)

    def _leave(self) -> bool:
        """End the session of a caller who left without a word, or because the agent stops."""
        if self._caller.stopping.is_set():
            self._caller.fail(
                Retry("the agent stops, which ends the command", hint="run it again when the agent is back")
            )
        self._execution.hang_up()
        return True

    def _say_result(self) -> None:
        try:
            self._caller.finish(frames.EXIT, _exit(self._execution.result()))
        except TankError as error:
            self._caller.fail(error)


def _finish_alone(execution: Execution, stopping: threading.Event) -> None:
    """Read a command's output for nobody until it ends, since a full pipe would stop it."""
    deadline: float | None = None
    # A terminal that nothing has open; see _ExecSession.
    unused = False
    try:
        while not execution.ended():
            if stopping.is_set() and deadline is None:
                execution.hang_up()
                deadline = time.monotonic() + _LAST_WORD
            if deadline is not None and time.monotonic() > deadline:
                return
            poller = select.poll()
            poller.register(execution.waiter, select.POLLIN)
            # A terminal that the command has not opened yet looks like one that it has closed.
            begun = execution.begun()
            for descriptor in (execution.terminal, execution.stdout, execution.stderr):
                if begun and descriptor is not None and not unused:
                    poller.register(descriptor, select.POLLIN)
            ready = poller.poll((_STOP_WITHIN if begun else _BEGUN_WITHIN) * 1000)
            unused = False
            for descriptor, _ in ready:
                if descriptor == execution.waiter or _discard(descriptor):
                    continue
                if descriptor == execution.terminal:
                    unused = True
                else:
                    execution.close_stream(descriptor)
    finally:
        execution.close()


def _discard(descriptor: int) -> bool:
    try:
        return bool(os.read(descriptor, frames.MAX_PAYLOAD))
    except BlockingIOError:
        return True
    except OSError:
        return False


def serve_attach(raw: RawConnection, run: LiveRun, view: Callable[[], Viewer], *, confirms: bool) -> None:
    """Join a container's terminal with the caller until one of the two ends."""
    caller = Caller(raw, confirms=confirms)
    try:
        viewer = view()
    except TankError as error:
        caller.fail(error)
        return
    try:
        _AttachSession(caller, run, viewer).run()
    finally:
        viewer.close()


class _AttachSession:
    """A container's terminal and one who looks at it."""

    def __init__(self, caller: Caller, run: LiveRun, viewer: Viewer) -> None:
        self._caller = caller
        self._run = run
        self._viewer = viewer
        self._input = b""
        self._detached = False

    def run(self) -> None:
        """Work until the end."""
        caller, viewer = self._caller, self._viewer
        self._take_all()
        while not self._detached:
            if caller.gone:
                if caller.stopping.is_set():
                    hint = "it goes on; attach again when the agent is back"
                    caller.fail(Retry("the agent stops, which ends the attachment", hint=hint))
                return
            if viewer.gone:
                if data := viewer.take():
                    caller.put(frames.STDOUT, data)
                # Who has not read all of it yet may take its time, and still gets the exit code.
                if not caller.queued:
                    self._say_result()
                    return
            self._poll()
        # What was typed before the keys that leave.
        self._feed()
        caller.finish(frames.DETACH)

    def _poll(self) -> None:
        caller, viewer = self._caller, self._viewer
        poller = select.poll()
        poller.register(caller.fileno(), caller.interest(reading=True))
        if caller.queued < _QUEUE:
            poller.register(viewer.ready, select.POLLIN)
        if self._input and not viewer.gone:
            poller.register(viewer.input, select.POLLOUT)
        ready = dict(poller.poll())
        events = ready.get(caller.fileno(), 0)
        if events & select.POLLOUT:
            caller.flush()
        if events & select.POLLIN:
            self._take_all()
        elif events & (select.POLLHUP | select.POLLRDHUP | select.POLLERR):
            caller.gone = True
        if viewer.ready in ready and (data := viewer.take()):
            caller.put(frames.STDOUT, data)
        self._feed()

    def _feed(self) -> None:
        """Type what the caller wrote, as far as it is taken."""
        waited = len(self._input)
        while self._input and (written := self._viewer.write(self._input)):
            self._input = self._input[written:]
        if taken := waited - len(self._input):
            self._caller.confirm(taken)

    def _take_all(self) -> None:
        for kind, payload in self._caller.receive():
            self._take(kind, payload)

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == frames.STDIN and len(self._input) < _QUEUE:
            self._input += payload
        elif kind == frames.RESIZE:
            rows, columns = frames.read_size(payload)
            if rows and columns:
                self._viewer.resize(rows, columns)
        elif kind == frames.DETACH:
            self._detached = True

    def _say_result(self) -> None:
        """Wait for the exit code, which is known a moment after the terminal has gone."""
        deadline = time.monotonic() + _EXIT_DEADLINE
        while self._run.exit is None and time.monotonic() < deadline:
            time.sleep(0.005)
        exit_ = self._run.exit
        if exit_ is not None and (exit_.code is not None or exit_.signal is not None):
            ended = Ended(code=exit_.code, signal=exit_.signal)
            self._caller.finish(frames.EXIT, _exit(ended))
            return
        name = f"{self._run.record.pod}/{self._run.record.container}"
        reason = exit_.reason if exit_ is not None else "its terminal was closed"
        self._caller.fail(NotRunning(f"{name} is not running: {reason}"))


def _exit(ended: Ended) -> bytes:
    if ended.signal is not None:
        return frames.exit_payload(frames.SIGNALED, ended.signal)
    return frames.exit_payload(frames.EXITED, ended.code or 0)
