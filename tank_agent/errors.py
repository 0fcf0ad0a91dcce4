"""Errors for users: what happened, where, and what to do now.

    TankError                  anything that we foresee; carries `hint` and `where`
     ├─ InvalidSpec            a pod file or agent.toml says something that cannot be (exit code 2)
     ├─ PodNotFound            no pod of that name
     ├─ OwnedElsewhere         a file or git owns the pod, so the API may not change it
     ├─ VolumeInUse            a pod has the managed volume, so it may not be removed
     ├─ ImageInUse             a pod needs the image, so it may not be removed
     ├─ AgentUnreachable       the socket does not answer
     ├─ NotRunning             the pod has no live container to enter or to attach to
     ├─ NotATty                attach needs a container with `tty = true`
     ├─ CannotRun              exec: what was asked for is there, but cannot be run (exit code 126)
     ├─ CommandNotFound        exec: there is no such command in the container (exit code 127)
     ├─ Stalled                cannot go on until a person changes something
     └─ Retry                  failed now, may work later: the loop backs off and tries again

A bug is any other exception: it is logged with its trace and never shown as advice.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar, TypeVar

__all__ = [
    "AgentUnreachable",
    "CannotRun",
    "CommandNotFound",
    "ImageInUse",
    "InvalidSpec",
    "NotATty",
    "NotRunning",
    "OwnedElsewhere",
    "PodNotFound",
    "Problem",
    "Retry",
    "Stalled",
    "TankError",
    "VolumeInUse",
    "one_line",
    "shortage",
]

from msgspec import Struct

_Text = TypeVar("_Text", str, str | None)
_LONGEST = 2000
_NO_ROOM = "make room there; `df -h` and `df -i` show which disk or memory file system is full"
_DESCRIPTORS = "raise LimitNOFILE of tank-agent.service, or fs.file-max"
_HINTS = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
    errno.ENOMEM: "free some memory; `dmesg` shows what was killed for want of it",
    errno.EAGAIN: "raise TasksMax of tank-agent.service, or kernel.pid_max: no further process can be made",
    errno.EROFS: "the disk is read-only; `dmesg` may say why",
    errno.EIO: "the disk has errors; `dmesg` may say more",
}


def one_line(text: str) -> str:
    """Return an error's text as an event holds it; its hint stands in a line of its own."""
    return "; ".join(line.strip() for line in text.splitlines())


def _cut(text: _Text) -> _Text:
    return f"{text[: _LONGEST - 1]}…" if text is not None and len(text) > _LONGEST else text


class TankError(Exception):
    """An error that a user can act on.

    What is long is cut: registries, files and images choose words that messages repeat.

    Args:
        message: what happened, as one sentence without a full stop.
        where: the file, pod, container or host thing it happened to, if the message does not name it.
        hint: what to do now, as one sentence.
    """

    reason: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = _cut(message)
        self.where = _cut(where)
        self.hint = _cut(hint)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.hint}" if self.hint else text


class Problem(Struct, frozen=True, order=True):
    """One thing that is wrong in one file; prints as `file:line: key: message`.

    `line` counts from 1; 0 means the file as a whole. `message` says what is wrong and what would be right.
    `pod` is the name of the pod it belongs to, where the file got far enough to tell.
    """

    file: str
    line: int
    key: str
    message: str
    pod: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class InvalidSpec(TankError):
    """A pod file (or agent.toml) is invalid. `problems` holds every finding, not only the first."""

    reason = "invalid"
    exit_code = 2

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("")
        # All of them, however many.
        self.message = "\n".join(str(problem) for problem in problems)
        self.problems = problems


class PodNotFound(TankError):
    """No pod of that name is desired or running."""

    reason = "not-found"


class OwnedElsewhere(TankError):
    """The pod is owned by a file or by git; `where` and `hint` say which file to edit."""

    reason = "owned-elsewhere"


class VolumeInUse(TankError):
    """A pod that is desired or runs has the managed volume; the message names it."""

    reason = "volume-in-use"


class ImageInUse(TankError):
    """A pod runs the image, is to run it, or did before its last change; the message names it."""

    reason = "image-in-use"


class AgentUnreachable(TankError):
    """Nobody answers at the agent's socket, or we may not talk to it."""

    reason = "agent-unreachable"


class NotRunning(TankError):
    """There is no live container to run a command in or to attach to."""

    reason = "not-running"


class NotATty(TankError):
    """The container's main process has no terminal to attach to."""

    reason = "not-a-tty"


class CannotRun(TankError):
    """A command in a container cannot be run: it is not executable, or its directory is not there."""

    reason = "cannot-run"
    exit_code = 126


class CommandNotFound(TankError):
    """A container has no such command."""

    reason = "command-not-found"
    exit_code = 127


class Stalled(TankError):
    """Trying again is pointless until a person changes the spec or the machine."""

    reason = "stalled"


class Retry(TankError):
    """It failed now and may work later."""

    reason = "retry"


def shortage(error: Exception) -> Retry | None:
    """Return the shortage that an error means, with a hint; None if it means none."""
    number = _number(error)
    hint = _HINTS.get(number)
    return None if hint is None else Retry(f"{os.strerror(number)}{_place(error)}", hint=hint)


def _number(error: Exception) -> int:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return errno.EAGAIN
    return (error.errno or 0) if isinstance(error, OSError) else 0


def _place(error: Exception) -> str:
    name = error.filename if isinstance(error, OSError) else None
    # A descriptor's number helps nobody.
    return "" if name is None or isinstance(name, int) else f": {os.fsdecode(name)}"
