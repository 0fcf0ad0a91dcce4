"""Show a page again and again, in place, until Ctrl-C or q; a frame is one write of the changed lines.

Nothing is looked at, nor drawn, before the terminal has taken the last frame: on a slow line there are fewer
frames, and the next one is of what is so then. Over ssh, which takes megabytes on the way to a slow line, the
terminal itself is asked whether it has come so far.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from tank_agent.cli.output import Page, width_of
from tank_agent.client.fast import terminal
from tank_agent.spec.printable import escape

_Seen = TypeVar("_Seen")

# Seconds until the second frame, which may have what needs two looks.
_SOON = 1.0
# Seconds that restoring the terminal may take when it takes no output.
_LAST_WORD = 0.5
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
# The screen beside the usual one, without a cursor and without wrapping (xterm's control sequences).
_ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = b"\x1b[?7h\x1b[?25h\x1b[?1049l"
# The request for a terminal's status, and the answer (ECMA-48, DSR), which comes when it has read so far.
_ASK, _ANSWER = b"\x1b[5n", b"\x1b[0n"
# Seconds to wait for the first answer, which some terminals never give, and for each of the others.
_FIRST, _LATEST = 3.0, 10.0


def show_live(look: Callable[[], _Seen], draw: Callable[[_Seen], None], interval: float) -> int:
    """Look and print what was seen, `interval` seconds after the last time was done, until the user leaves.

    On a terminal that is in place; else one is printed below the other. What a look raises ends it the first
    time, and is shown above what was seen last on a terminal later. Returns the exit code.
    """
    if sys.stdout.isatty() and (os.environ.get("TERM") or "dumb") != "dumb":
        return _Show(look, draw, interval).run()
    while True:
        draw(look())
        print(flush=True)
        time.sleep(interval)


class Screen:
    """The lines that a terminal shows."""

    def __init__(self) -> None:
        self._shown: list[str] | None = None

    def forget(self) -> None:
        """Draw all of the next frame, since the terminal may show something else."""
        self._shown = None

    def frame(self, text: str, columns: int, rows: int) -> bytes:
        """Return what makes a terminal of this size show a text; nothing if it does already."""
        lines = [clipped(line, columns) for line in text.splitlines()]
        if len(lines) > rows:
            below = len(lines) - rows + 1
            lines = [*lines[: rows - 1], clipped(f"… {below} more lines", columns)]
        old = self._shown
        changed = [
            f"\x1b[{at + 1};1H{line}\x1b[K"
            for at, line in enumerate(lines)
            if old is None or at >= len(old) or old[at] != line
        ]
        if old is None or len(lines) < len(old):
            changed.append(f"\x1b[{len(lines) + 1};1H\x1b[J" if len(lines) < rows else "")
        self._shown = lines
        return "".join(changed).encode(errors="replace")


def clipped(line: str, columns: int) -> str:
    """Return the beginning of a line with colors, as far as it fits."""
    plain = _STYLE.sub("", line)
    if width_of(plain) <= columns:
        return line
    left, parts = columns, []
    for part in _STYLE.split(line):
        if _STYLE.fullmatch(part):
            parts.append(part)
            continue
        for char in part:
            left -= width_of(char)
            if left < 0:
                return "".join((*parts, "\x1b[0m" if len(plain) < len(line) else ""))
            parts.append(char)
    return "".join(parts)


class _Stage(terminal.RawMode):
    """The user's terminal: keys come one by one and unseen, and the screen is ours."""

    def __init__(self, keys: int | None, screen: int) -> None:
        if keys is not None:
            super().__init__(keys)
        self._keys = keys
        self._screen = screen
        self._entered = False

    def enter(self) -> None:
        if self._entered:
            return
        if self._keys is not None:
            # Ctrl-C and Ctrl-Z stay what they are.
            tty.setcbreak(self._keys, termios.TCSANOW)
        self._entered = True
        os.write(self._screen, _ENTER)

    def leave(self) -> None:
        if not self._entered:
            return
        self._entered = False
        with contextlib.suppress(OSError):
            terminal.write_what_fits(self._screen, _LEAVE, _LAST_WORD)
        if self._keys is not None:
            super().leave()


class _Show(Generic[_Seen]):
    """A page on a terminal, drawn anew at each look and when the size of the window changes."""

    def __init__(self, look: Callable[[], _Seen], draw: Callable[[_Seen], None], interval: float) -> None:
        self._look = look
        self._draw: Callable[[_Seen], None] = draw
        self._interval = interval
        self._screen = Screen()
        self._output = sys.stdout.fileno()
        self._keys = 0 if os.isatty(0) else None
        self._trouble = ""
        self._asks = self._keys is not None and "SSH_CONNECTION" in os.environ
        self._answers = False
        self._asked: float | None = None
        self._typed = b""

    def run(self) -> int:
        """Show it until the user leaves."""
        stage = _Stage(self._keys, self._output)
        with contextlib.ExitStack() as stack:
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, reader)
            stack.callback(os.close, writer)
            try:
                seen = self._look()
                self._output = stack.enter_context(_unblocked(self._output))
                with terminal.signals(writer, stage, self._screen.forget, None):
                    try:
                        stage.enter()
                        self._work(reader, seen)
                        # The shell should not read the answer.
                        if self._held():
                            self._wait(reader, _LAST_WORD)
                    finally:
                        stage.leave()
            except terminal.Killed as killed:
                terminal.die(killed.number)
        return 0

    def _work(self, wake: int, seen: _Seen) -> None:
        until = time.monotonic() + min(self._interval, _SOON)
        while True:
            if self._show(wake, seen):
                return
            while (left := until - time.monotonic()) > 0 or self._held():
                if self._wait(wake, left if left > 0 else _SOON):
                    return
                if not self._held() and self._show(wake, seen):
                    return
            seen = self._looked(seen)
            # Counted from the end of a look and not from its beginning: whoever is slow is asked less often.
            until = time.monotonic() + self._interval

    def _wait(self, wake: int, patience: float, *, writing: bool = False) -> bool:
        """Wait for a key, a signal, some seconds, or until one can write; return whether the user leaves."""
        poller = select.poll()
        if writing:
            poller.register(self._output, select.POLLOUT)
        poller.register(wake, select.POLLIN)
        if self._keys is not None:
            poller.register(self._keys, select.POLLIN)
        for descriptor, _ in poller.poll(patience * 1000 + 1):
            if descriptor == self._output:
                continue
            try:
                typed = os.read(descriptor, 4096)
            except OSError:
                typed = b""
            if descriptor == self._keys:
                if not typed:
                    self._keys = None
                self._hear(typed)
                return b"q" in typed.lower()
        return False

    def _hear(self, typed: bytes) -> None:
        """Take notice of the terminal's answer, which may come in pieces."""
        self._typed = (self._typed + typed)[-2 * len(_ANSWER) :]
        if _ANSWER in self._typed:
            self._typed, self._asked, self._answers = b"", None, True

    def _held(self) -> bool:
        """Return whether the terminal has not come to the end of the last frame yet, as far as it answers."""
        longest = _LATEST if self._answers else _FIRST
        return self._asked is not None and time.monotonic() - self._asked < longest

    def _looked(self, seen: _Seen) -> _Seen:
        from tank_agent.errors import TankError

        try:
            found = self._look()
        except TankError as error:
            self._trouble = error.message
            return seen
        self._trouble = ""
        return found

    def _show(self, wake: int, seen: _Seen) -> bool:
        """Draw what was seen, and return whether the user leaves before the terminal has taken all of it."""
        columns, rows = os.get_terminal_size(self._output)
        page = Page(columns or 80)
        with contextlib.redirect_stdout(page):
            how = f"every {self._interval:g}s, q ends"
            print(f"{time.strftime('%H:%M:%S')}  {escape(self._trouble) or how}")
            print()
            self._draw(seen)
        frame = self._screen.frame(page.getvalue(), columns or 80, rows or 24)
        if frame and self._asks and self._asked is None:
            self._asked = time.monotonic()
            frame += _ASK
        left = memoryview(frame)
        while left:
            try:
                left = left[os.write(self._output, left) :]
            except BlockingIOError:
                if self._wait(wake, _SOON, writing=True):
                    return True
        return False


@contextlib.contextmanager
def _unblocked(screen: int) -> Iterator[int]:
    """Open a terminal once more, so that writing to it never blocks, and nobody who shares it notices."""
    try:
        found = os.open(f"/proc/self/fd/{screen}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        # Another user's (su), or no /proc: a key then counts once the terminal takes output again.
        yield screen
        return
    try:
        yield found
    finally:
        os.close(found)
