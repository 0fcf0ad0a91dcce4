"""Errors for users: what happened, where, and what to do now.

Each is a TankError; the classes describe when they are raised. A bug is any other exception: it is logged
with its trace and never shown as advice.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar, TypeVar

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

    Long texts are cut, since messages repeat words that registries, files and images choose.

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
    """One mistake in one file; prints as `file:line: key: message`.

    `line` counts from 1; 0 means the file as a whole. `message` says what is wrong and what would be right.
    `pod` is the name of the pod it belongs to, if that can be read.
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
    """A file or git owns the pod, so the API may not change it; `where` and `hint` say which file to edit."""

    reason = "owned-elsewhere"


class VolumeInUse(TankError):
    """The managed volume may not be removed: the pod that the message names is desired with it, or runs."""

    reason = "volume-in-use"


class ImageInUse(TankError):
    """The image may not be removed: the pod in the message runs it, is to, or did before its change."""

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


class CannotCopy(TankError):
    """Files can't be copied to or from a container: one of the two places, or the archive, is at fault."""

    reason = "cannot-copy"


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


class SecretError(Retry):
    """A secret can't be had now; the message names it and the key files that were tried, never what it says.

    `of_file`: the encrypted file is at fault, or for whom it was encrypted, and not this machine.
    """

    reason = "secret"
    of_file: ClassVar[bool] = False


def shortage(error: Exception) -> Retry | None:
    """Return an error about memory, disk space, descriptors and the like; None for other errors."""
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    elif isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        number = errno.EAGAIN
    else:
        number = (error.errno or 0) if isinstance(error, OSError) else 0
    hint = _HINTS.get(number)
    if hint is None:
        return None
    name = error.filename if isinstance(error, OSError) else None
    # A descriptor's number helps nobody.
    place = "" if name is None or isinstance(name, int) else f": {os.fsdecode(name)}"
    return Retry(f"{os.strerror(number)}{place}", hint=hint)
