"""A user at a terminal: `tank` in a pseudo-terminal, driven key by key."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pexpect

from tests.support.agent import Agent, wait_for

TIMEOUT = 60
LEAVE = "\x10\x11"


class Terminal:
    """A program in a terminal of its own."""

    def __init__(
        self, agent: Agent, program: str, arguments: Sequence[str], size: tuple[int, int], term: str
    ) -> None:
        self.child = pexpect.spawn(
            program,
            list(arguments),
            timeout=TIMEOUT,
            dimensions=size,
            env={**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock"), "TERM": term},
            echo=True,
        )
        # Keys are sent when the program is ready for them, which the tests wait for.
        self.child.delaybeforesend = None
        self.before = _fresh()

    def type(self, keys: str) -> None:
        """Press keys."""
        self.child.send(keys)

    def line(self, text: str) -> None:
        """Type a line."""
        self.child.send(f"{text}\r")

    def expect(self, text: str) -> None:
        """Wait until a text is printed."""
        try:
            self.child.expect_exact(text)
        except pexpect.ExceptionPexpect as error:
            raise AssertionError(f"{text!r} was not printed, but {self.child.before!r}") from error

    def prompt(self) -> None:
        """Wait for a shell's prompt."""
        self.child.expect(re.compile(rb"[/~a-z] [#$] "))

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size."""
        self.child.setwinsize(rows, columns)

    def is_raw(self) -> bool:
        """Return whether keys go to the program one by one, without an echo."""
        return not termios.tcgetattr(self.child.child_fd)[3] & (termios.ICANON | termios.ECHO)

    def wait_raw(self) -> None:
        """Wait until the program has taken the terminal over."""
        wait_for(self.is_raw, "the terminal is raw")

    def is_restored(self) -> bool:
        """Return whether the terminal is as it was before."""
        return termios.tcgetattr(self.child.child_fd) == self.before

    def end(self) -> int:
        """Wait for the end of all output and of the program; return its exit code as `status`."""
        self.child.expect(pexpect.EOF)
        return self.status()

    def status(self) -> int:
        """Reap the program, and return its exit code, negative for a signal."""
        wait_for(lambda: not self.child.isalive(), "the program ends")
        if self.child.signalstatus is not None:
            return -int(self.child.signalstatus)
        return int(self.child.exitstatus)

    @property
    def printed(self) -> str:
        """Return what was printed before the last thing that was waited for."""
        return bytes(self.child.before or b"").decode(errors="replace")


def add_commands(agent: Agent, *names: str) -> None:
    """Add commands of busybox to the root file system of an agent's pods."""
    for name in names:
        path = agent.rootfs / "bin" / name
        if not path.is_symlink():
            path.symlink_to("busybox")


def _fresh() -> list[object]:
    """Return the settings of a terminal that nobody has changed."""
    master, slave = os.openpty()
    try:
        return list(termios.tcgetattr(slave))
    finally:
        os.close(master)
        os.close(slave)


@contextmanager
def terminal(
    agent: Agent,
    *verb: str,
    size: tuple[int, int] = (24, 80),
    term: str = "xterm",
    program: str = sys.executable,
    arguments: Sequence[str] = ("-m", "tank_agent"),
) -> Iterator[Terminal]:
    """Run `tank`, or another program, in a terminal; what is left of it is killed at the end."""
    opened = Terminal(agent, program, [*arguments, *verb], size, term)
    try:
        yield opened
    finally:
        close(opened.child)


def close(child: pexpect.spawn[Any]) -> None:
    """Close a terminal; what is left of its program is killed, however long its end then takes."""
    if not child.ptyproc.terminated:
        os.kill(child.pid, signal.SIGKILL)
        wait_for(lambda: not child.isalive(), "the program is killed")
    child.close()
