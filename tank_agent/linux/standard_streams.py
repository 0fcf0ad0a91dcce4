"""Repair standard input, output and error, however closed or full the caller left them."""

from __future__ import annotations

import io
import os
import sys

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TextIO

    from _typeshed import ReadableBuffer


def reserve() -> None:
    """Open the null device in the place of each standard descriptor that is closed.

    Otherwise the next file or socket that is opened gets its number, and is taken for it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one. Read-only, so that writes fail.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)


class CannotWrite(Exception):
    """Standard output can't be written, because of `error`; no OSError, since some libraries swallow that."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def restore() -> None:
    """Give Python streams for all three.

    Standard output raises CannotWrite; standard error never fails, since nobody could read why.
    """
    reserve()
    # Python has None for those that were closed when it started; others stand there in tests.
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(io.TextIOWrapper, _Output(io.FileIO(1, "wb", closefd=False)), sys.stdout)
    if sys.stderr is sys.__stderr__:
        unfailing = io.BufferedWriter(io.FileIO(2, "wb", closefd=False))
        sys.stderr = _text(_Unfailing, unfailing, sys.stderr)


def _text(
    kind: type[io.TextIOWrapper], buffer: io.BufferedWriter[Any], former: TextIO | None
) -> io.TextIOWrapper:
    return kind(
        buffer,
        encoding=former.encoding if former else None,
        # A name that the terminal's encoding lacks is shown escaped; it must not end the program.
        errors="backslashreplace",
        line_buffering=kind is _Unfailing or buffer.isatty(),
    )


def give_up_output() -> None:
    """Let Python's own flush at exit go nowhere, since it would fail, too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _Output(io.BufferedWriter):
    # Not of the raw file: an interrupt between its write and our return would make the buffer write twice.

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _raise_lost(error)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            _raise_lost(error)


def _raise_lost(error: OSError) -> NoReturn:
    if isinstance(error, BrokenPipeError):
        raise error
    raise CannotWrite(error) from error


class _Unfailing(io.TextIOWrapper):
    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:  # noqa: SIM105 - contextlib is not imported on the way of `tank exec`
            super().flush()
        except OSError:
            pass
