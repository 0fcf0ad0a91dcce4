"""The user's terminal during a session: made raw, and restored whatever happens."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import time
import tty

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any, NoReturn

# Set and reset a DEC private mode; a program that is killed leaves its modes set.
_MODE = rb"\x1b\[\?([0-9;]+)([hl])"
_LONGEST = 32
# Modes that are normally on: the cursor's visibility, and the wrapping of long lines.
_ON_AT_REST = frozenset((b"25", b"7"))
# Modes that need no reset: synchronised output.
_HARMLESS = frozenset((b"2026",))
_PLAIN = b"\x1b[0m"
_DEADLY = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Killed(BaseException):
    """A signal that ends this process; it is sent again once the terminal is restored."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Modes:
    """Keeps the modes that the output has changed, so that they can be reset."""

    def __init__(self) -> None:
        self._rest = b""
        self._changed: dict[bytes, None] = {}
        self.at_line_start = True

    def feed(self, output: bytes) -> None:
        """Read output on its way to the terminal."""
        self.at_line_start = output.endswith((b"\n", b"\r"))
        text = self._rest + output
        self._rest = b""
        if b"\x1b" not in text:
            return
        # Imported here, since most commands print nothing of the kind.
        import re

        end = 0
        for match in re.finditer(_MODE, text):
            end = match.end()
            for mode in match[1].split(b";"):
                if (match[2] == b"h") != (mode in _ON_AT_REST) and mode not in _HARMLESS:
                    self._changed[mode] = None
                else:
                    self._changed.pop(mode, None)
        self._rest = text[max(end, text.rfind(b"\x1b"), len(text) - _LONGEST) :]

    def undo(self) -> bytes:
        """Return the bytes that reset the changed modes; none if there are none."""
        if not self._changed:
            return b""
        backwards = reversed(self._changed)
        reset = (b"\x1b[?%b%b" % (mode, b"h" if mode in _ON_AT_REST else b"l") for mode in backwards)
        return b"".join(reset) + _PLAIN


class RawMode:
    """Makes a terminal pass on every key, and can restore it at any moment."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved = termios.tcgetattr(descriptor)

    def enter(self) -> None:
        """Make the terminal raw."""
        # Without a flush, keys that were typed ahead arrive.
        tty.setraw(self._descriptor, termios.TCSANOW)

    def leave(self) -> None:
        """Restore the terminal, unless it is gone."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._saved)


@contextlib.contextmanager
def signals(
    wake: int,
    raw: RawMode | None,
    resized: Callable[[], None],
    interrupted: Callable[[], None] | None,
) -> Iterator[None]:
    """Handle signals while a session runs. Signals that are ignored stay ignored (nohup).

    Only the main thread can do this; elsewhere it does nothing.

    Args:
        wake: the writing end of a pipe that does not block; written to at each signal.
        raw: the terminal to restore while this process is stopped.
        resized: called when the terminal has another size.
        interrupted: called on SIGINT; None leaves that signal alone.
    """
    killed = False

    def kill(number: int, _: FrameType | None) -> None:
        # Only once: a second signal must not interrupt the restoration of the terminal.
        nonlocal killed
        if not killed:
            killed = True
            raise Killed(number)

    handlers: dict[int, Any] = dict.fromkeys(_DEADLY, kill) | {signal.SIGWINCH: lambda *_: resized()}
    if raw is not None:

        def stop(*_: object) -> None:
            raw.leave()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            # The process continues here, or was never stopped, since nobody could continue it.
            signal.signal(signal.SIGTSTP, stop)
            go_on()

        def go_on(*_: object) -> None:
            raw.enter()
            resized()

        handlers |= {signal.SIGTSTP: stop, signal.SIGCONT: go_on}
    if interrupted is not None:
        handlers[signal.SIGINT] = lambda *_: interrupted()
    try:
        former = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    except ValueError:
        # Not the main thread.
        handlers, former = {}, None
    saved = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        if former is not None:
            signal.set_wakeup_fd(former)
        for number, handler in saved.items():
            signal.signal(number, handler)


def write_what_fits(descriptor: int, data: bytes, within: float) -> None:
    """Write to a terminal that may take no more, for at most `within` seconds."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    deadline = time.monotonic() + within
    # Byte by byte, since more would block; the terminal, which others may share, can't be made non-blocking.
    for at in range(len(data)):
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return
        os.write(descriptor, data[at : at + 1])


def die(number: int) -> NoReturn:
    """End this process by a signal, now that the terminal is restored."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)
