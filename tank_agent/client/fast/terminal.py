"""The user's terminal while a session has it: raw, and put back in order whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

# Modes that programs switch on and forget when they are cut off: "set" and "reset" of DEC private modes.
_MODE = rb"\x1b\[\?([0-9;]+)([hl])"
_LONGEST = 32
# These are on at rest: the cursor's visibility, and the wrapping of long lines.
_ON_AT_REST = frozenset((b"25", b"7"))
# They matter to nobody else: synchronised output.
_HARMLESS = frozenset((b"2026",))
_PLAIN = b"\x1b[0m"
_DEADLY = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Killed(BaseException):
    """A signal that ends this process; it is sent again once the terminal is in order."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Modes:
    """Notes which modes the output leaves switched, so that they can be switched back."""

    def __init__(self) -> None:
        self._rest = b""
        self._changed: dict[bytes, None] = {}
        self.at_line_start = True

    def feed(self, output: bytes) -> None:
        """Look at what goes to the terminal."""
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
        """Return what puts the terminal back as it was; nothing if it is."""
        if not self._changed:
            return b""
        backwards = reversed(self._changed)
        reset = (b"\x1b[?%b%b" % (mode, b"h" if mode in _ON_AT_REST else b"l") for mode in backwards)
        return b"".join(reset) + _PLAIN


class RawMode:
    """Makes a terminal pass on every key, and can put it back at any moment."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved = termios.tcgetattr(descriptor)

    def enter(self) -> None:
        """Make it raw."""
        # Not flushed, so that what was typed ahead arrives.
        tty.setraw(self._descriptor, termios.TCSANOW)

    def leave(self) -> None:
        """Put it back."""
        # A terminal that is gone needs nothing.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._saved)


class Signals:
    """Handles signals while a session runs. What is ignored stays ignored (nohup).

    Only the main thread can do this; elsewhere it does nothing.

    Args:
        wake: the writing end of a pipe that does not block; written to at each signal.
        raw: the terminal to put in order while this process is stopped.
        resized: called when the terminal has another size.
        interrupted: called on SIGINT; None leaves that signal alone.
    """

    def __init__(
        self,
        wake: int,
        raw: RawMode | None,
        resized: Callable[[], None],
        interrupted: Callable[[], None] | None,
    ) -> None:
        self._wake = wake
        self._former: int | None = None
        self._raw = raw
        self._resized = resized
        self._killed = False
        self._saved: dict[int, Any] = {}
        self._handlers: dict[int, Any] = dict.fromkeys(_DEADLY, self._kill)
        self._handlers[signal.SIGWINCH] = lambda *_: resized()
        if raw is not None:
            self._handlers |= {signal.SIGTSTP: self._stop, signal.SIGCONT: self._go_on}
        if interrupted is not None:
            self._handlers[signal.SIGINT] = lambda *_: interrupted()

    def __enter__(self) -> None:
        try:
            self._former = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        except ValueError:
            # Not the main thread.
            return
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._saved[number] = signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        if self._former is None:
            return
        signal.set_wakeup_fd(self._former)
        for number, handler in self._saved.items():
            signal.signal(number, handler)

    def _kill(self, number: int, _: FrameType | None) -> None:
        # Only once: a second one must not break into putting things in order.
        if not self._killed:
            self._killed = True
            raise Killed(number)

    def _stop(self, *_: object) -> None:
        assert self._raw is not None
        self._raw.leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here we are again.
        signal.signal(signal.SIGTSTP, self._stop)

    def _go_on(self, *_: object) -> None:
        assert self._raw is not None
        self._raw.enter()
        self._resized()
