"""State of a git source: how far the machine follows the repository, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.source.git.access import GitError
from tank_agent.source.git.objects import CommitInfo, printable

StepName = Literal["fetched", "verified", "checked", "applied"]


class StepStatus(Struct, frozen=True, kw_only=True):
    """The state of a step: the revision that it last finished, and the error since then, as one line.

    `at` is the Unix time of the last change of either; None if it never ran.
    """

    revision: str | None = None
    error: str | None = None
    hint: str | None = None
    at: float | None = None


class GitStatus(Struct, frozen=True, kw_only=True):
    """The git source as `tank status` shows it.

    `held` is why `fetched` waits for `tank sync --confirm`. `commit` describes the applied revision, `latest`
    the fetched one. `looked_at` is when the remote last answered.
    """

    remote: str
    ref: str
    fetched: StepStatus = msgspec.field(default_factory=StepStatus)
    verified: StepStatus = msgspec.field(default_factory=StepStatus)
    checked: StepStatus = msgspec.field(default_factory=StepStatus)
    applied: StepStatus = msgspec.field(default_factory=StepStatus)
    held: str | None = None
    commit: CommitInfo | None = None
    latest: CommitInfo | None = None
    looked_at: float | None = None

    @property
    def error(self) -> str | None:
        """Return the first error of a step as one line that begins with the step."""
        for name, verb in _STEPS.items():
            step: StepStatus = getattr(self, name)
            if step.error is not None:
                return f"{verb}: {step.error}"
        return None

    @property
    def state(self) -> str:
        """Return `error`, `held`, `behind`, `in-sync` or `pending` (nothing fetched or applied yet)."""
        if self.error is not None:
            return "error"
        if self.held is not None:
            return "held"
        if self.applied.revision is None or self.fetched.revision is None:
            return "pending"
        return "in-sync" if self.applied.revision == self.fetched.revision else "behind"


_STEPS = {"fetched": "fetch", "verified": "verify", "checked": "check", "applied": "apply"}


class StepFailedError(Exception):
    """A step recorded its error; the look ends."""


class Progress:
    """Keeps the status while one look goes through the steps.

    Args:
        status: the initial status.
        on_change: called with the new status after every change; must return at once.
    """

    def __init__(self, status: GitStatus, on_change: Callable[[GitStatus], None]) -> None:
        self.status = status
        self._on_change = on_change

    @contextmanager
    def step(self, name: StepName) -> Iterator[None]:
        """Record an error of a step, and end the look then; the caller repairs a damaged copy.

        Raises:
            StepFailedError: it failed.
            GitError: our copy is damaged.
        """
        try:
            yield
        except (TankError, OSError) as error:
            if kind_of(error) == "corrupt":
                raise
            self.fail(name, error)
            raise StepFailedError from error

    def fail(self, name: StepName, error: TankError | OSError) -> None:
        """Record the error of a step, unless it is that the agent ends."""
        if kind_of(error) == "stopped":
            return
        if isinstance(error, TankError):
            message, hint = printable(error.message, 400), error.hint
        else:
            where = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            message, hint = printable(where, 400), "see data_dir"
        step: StepStatus = getattr(self.status, name)
        if step.error != message:
            self.change(**{name: msgspec.structs.replace(step, error=message, hint=hint, at=time.time())})

    def done(self, name: StepName, revision: str) -> None:
        """Record that a step finished with a revision."""
        self.change(**{name: StepStatus(revision=revision, at=time.time())})

    def change(self, **fields: Any) -> None:
        """Change the status, and report it unless only `looked_at` changed."""
        before = self.status
        self.status = msgspec.structs.replace(before, **fields)
        if msgspec.structs.replace(self.status, looked_at=before.looked_at) != before:
            self._on_change(self.status)


def kind_of(error: BaseException) -> str | None:
    """Return the kind of an error of git; None for other errors."""
    return error.kind if isinstance(error, GitError) else None
