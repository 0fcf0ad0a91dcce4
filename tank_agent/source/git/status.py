"""How far the machine follows the repository, step by step."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class StepStatus(Struct, frozen=True, kw_only=True):
    """One step: the revision that it last finished, and what went wrong since, as one line.

    `at` is the Unix time of the last change of either; None if it never ran.
    """

    revision: str | None = None
    error: str | None = None
    hint: str | None = None
    at: float | None = None


class CommitInfo(Struct, frozen=True, kw_only=True):
    """What people know a commit by. `at` is its committer's Unix time; texts are safe to print."""

    id: str
    author: str
    subject: str
    at: float


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
