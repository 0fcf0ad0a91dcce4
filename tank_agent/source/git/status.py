"""State of a git source: how far the machine follows the repository, step by step."""

from __future__ import annotations

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
    """One step: the revision that it last finished, and what went wrong since, as one line.

    `at` is the Unix time of the last change of either; None if it never ran.
    """

    revision: str | None = None
    error: str | None = None
    hint: str | None = None
    at: float | None = None


class GitStatus(Struct, frozen=True, kw_only=True):
    """The git source as `tank status` shows it.

    `held` is why `fetched` waits for `tank sync --confirm`. `commit` describes the applied revision,
    `latest` the fetched one. `looked_at` is when the remote last answered.
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
        """Return the first step's error as one line that says which step it was."""
        for name in ("fetched", "verified", "checked", "applied"):
            step: StepStatus = getattr(self, name)
            if step.error is not None:
                return f"{_STEPS[name]}: {step.error}"
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
        status: where it begins.
        on_change: called with the new status after every change; must return at once.
        clock: Unix time in seconds.
    """

    def __init__(
        self, status: GitStatus, on_change: Callable[[GitStatus], None], clock: Callable[[], float]
    ) -> None:
        self.status = status
        self._on_change = on_change
        self.clock = clock

    @contextmanager
    def step(self, name: StepName) -> Iterator[None]:
        """Record what goes wrong in a step, and end the look then; a damaged copy is the caller's to repair.

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
        """Record why a step failed, unless we were asked to stop."""
        if kind_of(error) == "stopped":
            return
        if isinstance(error, TankError):
            message, hint = printable(error.message, 400), error.hint
        else:
            where = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            message, hint = printable(where, 400), "see data_dir"
        step: StepStatus = getattr(self.status, name)
        if step.error != message:
            self.change(**{name: msgspec.structs.replace(step, error=message, hint=hint, at=self.clock())})

    def done(self, name: StepName, revision: str) -> None:
        """Record that a step finished with a revision."""
        self.change(**{name: StepStatus(revision=revision, at=self.clock())})

    def change(self, **fields: Any) -> None:
        """Change the status; that the remote was looked at again alone is not reported."""
        before = self.status
        self.status = msgspec.structs.replace(before, **fields)
        if msgspec.structs.replace(self.status, looked_at=before.looked_at) != before:
            self._on_change(self.status)


def kind_of(error: BaseException) -> str | None:
    """Return how git failed; None if it was something else."""
    return error.kind if isinstance(error, GitError) else None
