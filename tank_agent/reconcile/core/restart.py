"""Restart policies and back-off: pure functions of what happened."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tank_agent.journal.records import ContainerStatus, Exit
from tank_agent.retry import Pace, spread
from tank_agent.spec.model import RestartPolicy


class Backoff(Pace, kw_only=True):
    """The pace of restarts: a run of `stable_after` seconds ends a row of failures.

    All share one object, so that a reload of the configuration reaches them.
    """

    base: float = 0.5
    cap: float = 300.0
    stable_after: float = 600.0

    def become(self, other: Backoff) -> None:
        """Take over another's values."""
        self.base, self.cap, self.stable_after = other.base, other.cap, other.stable_after


def describe_exit(exit_: Exit) -> str:
    """Return the end of a run in words for users."""
    # A program whose child was killed for want of memory often ends by itself, with 137.
    oom = ", out of memory" if exit_.oom else ""
    if exit_.signal is not None:
        text = f"ended by signal {exit_.signal}{oom}"
    elif exit_.code is not None:
        text = f"ended with exit code {exit_.code}{oom}"
    else:
        return exit_.reason or "ended"
    return f"{text}: {exit_.reason}" if exit_.reason else text


def stays_down(exit_: Exit | None, policy: RestartPolicy) -> bool:
    """Return whether a container with this exit stays down until its spec changes."""
    if exit_ is None or policy is RestartPolicy.ALWAYS:
        return False
    return policy is RestartPolicy.NEVER or exit_.clean


def after_start(status: ContainerStatus, instance: str, boot_id: str, now: float) -> ContainerStatus:
    """Return the status of a container whose next run begins now."""
    began_before = status.exit is not None or status.instance != ""
    restarts = status.restarts + 1 if began_before else status.restarts
    return replace(
        status, restarts=restarts, instance=instance, boot_id=boot_id, started_at=now, retry_at=None
    )


def _without_run(status: ContainerStatus, **changes: Any) -> ContainerStatus:
    return replace(status, instance="", boot_id="", **changes)


def after_exit(status: ContainerStatus, exit_: Exit, backoff: Backoff) -> ContainerStatus:
    """Return the status of a container whose run ended by itself: one failure more, or a fresh count."""
    ran = exit_.at - status.started_at if status.started_at is not None else 0.0
    failures = 0 if ran >= backoff.stable_after else status.failures
    retry_at = exit_.at + backoff.delay(failures)
    return _without_run(status, failures=failures + 1, retry_at=retry_at, exit=exit_, error=None)


def after_reboot(status: ContainerStatus, now: float) -> ContainerStatus:
    """Return the status of a container whose run ended with the machine: not its fault, so no back-off."""
    lost = Exit(at=now, reason="the machine restarted while it was running")
    return _without_run(status, exit=lost)


def after_failed_start(
    status: ContainerStatus, now: float, pace: Pace, error: str | None = None, *, name: str = ""
) -> ContainerStatus:
    """Return the status of a container that could not be started for a reason that may pass by itself.

    `name` spreads the retries of containers that one reason, such as a full disk, hits together.
    """
    retry_at = now + pace.delay(status.failures, spread(name) if name else 0.0)
    return _without_run(status, failures=status.failures + 1, retry_at=retry_at, error=error)


def after_stop(status: ContainerStatus) -> ContainerStatus:
    """Return the status of a container whose run ended because we asked it to: no failure, no back-off."""
    return _without_run(status, retry_at=None, error=None)


def after_stop_of_pod(status: ContainerStatus, failures: int) -> ContainerStatus:
    """Return the status of a container that ended as its pod was stopped, with the failures from before."""
    return replace(status, failures=failures, retry_at=None, error=None)


def after_replacement(status: ContainerStatus) -> ContainerStatus:
    """Return the status of a container whose run a person wanted to be replaced: it starts as a new one does.

    An init container has its work to do again.
    """
    return replace(status, failures=0, retry_at=None, error=None, exit=None, ended_boot="")


def after_drain(status: ContainerStatus, now: float) -> ContainerStatus:
    """Return the status of a container that runs only once, and was stopped before its end."""
    stopped = Exit(at=now, reason="it was stopped before its end, as all pods were")
    return _without_run(status, retry_at=None, exit=stopped)


def never_began(status: ContainerStatus) -> ContainerStatus:
    """Return the status of a container whose run was recorded, but whose program never ran."""
    restarts = status.restarts - 1 if status.exit is not None and status.restarts else status.restarts
    return _without_run(status, restarts=restarts)


def waits_until(status: ContainerStatus, now: float, backoff: Backoff) -> float | None:
    """Return when the container may start again, None if it may now.

    A time further away than any back-off comes from a clock that was set back since, and does not count.
    """
    if status.retry_at is None or not now < status.retry_at <= now + backoff.cap:
        return None
    return status.retry_at
