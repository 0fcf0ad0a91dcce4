"""Restart policies and back-off: pure functions of what happened."""

from __future__ import annotations

import msgspec

from tank_agent.journal.records import ContainerStatus, Exit
from tank_agent.retry import Pace, spread
from tank_agent.spec.model import RestartPolicy


class Backoff(Pace, kw_only=True):
    """The pace of restarts: a run of `stable_after` seconds ends a row of failures.

    One object is shared by all who wait, so that a reload of the configuration reaches every one of them.
    """

    base: float = 10.0
    cap: float = 300.0
    stable_after: float = 600.0

    def become(self, other: Backoff) -> None:
        """Take over another's values."""
        self.base, self.cap, self.stable_after = other.base, other.cap, other.stable_after


def describe_exit(exit_: Exit) -> str:
    """Return how a run ended, as a user reads it."""
    if exit_.signal is not None:
        text = f"ended by signal {exit_.signal}{', out of memory' if exit_.oom else ''}"
    elif exit_.code is not None:
        text = f"ended with exit code {exit_.code}"
    else:
        return exit_.reason or "ended"
    return f"{text}: {exit_.reason}" if exit_.reason else text


def is_over(exit_: Exit | None, policy: RestartPolicy) -> bool:
    """Return whether a container that ended like this stays down until its spec changes."""
    if exit_ is None or policy is RestartPolicy.ALWAYS:
        return False
    return policy is RestartPolicy.NEVER or exit_.clean


def after_start(status: ContainerStatus, instance: str, boot_id: str, now: float) -> ContainerStatus:
    """Return the status of a container whose next run begins now."""
    began_before = status.exit is not None or status.instance != ""
    return msgspec.structs.replace(
        status,
        restarts=status.restarts + 1 if began_before else status.restarts,
        instance=instance,
        boot_id=boot_id,
        started_at=now,
        retry_at=None,
    )


def after_exit(status: ContainerStatus, exit_: Exit, backoff: Backoff) -> ContainerStatus:
    """Return the status of a container whose run ended by itself: one failure more, or a fresh count."""
    ran = exit_.at - status.started_at if status.started_at is not None else 0.0
    failures = 0 if ran >= backoff.stable_after else status.failures
    return msgspec.structs.replace(
        status,
        failures=failures + 1,
        instance="",
        boot_id="",
        retry_at=exit_.at + backoff.delay(failures),
        exit=exit_,
        error=None,
    )


def after_reboot(status: ContainerStatus, now: float) -> ContainerStatus:
    """Return the status of a container whose run ended with the machine: not its fault, so no back-off."""
    lost = Exit(at=now, reason="the machine restarted while it was running")
    return msgspec.structs.replace(status, instance="", boot_id="", exit=lost)


def after_failed_start(
    status: ContainerStatus, now: float, pace: Pace, error: str | None = None, *, name: str = ""
) -> ContainerStatus:
    """Return the status of a container that could not be started for a reason that may pass by itself.

    `name` spreads the retries of containers that one reason, such as a full disk, hits together.
    """
    return msgspec.structs.replace(
        status,
        failures=status.failures + 1,
        instance="",
        boot_id="",
        retry_at=now + pace.delay(status.failures, spread(name) if name else 0.0),
        error=error,
    )


def after_stop(status: ContainerStatus) -> ContainerStatus:
    """Return the status of a container whose run ended because we asked it to: no failure, no back-off."""
    return msgspec.structs.replace(status, instance="", boot_id="", retry_at=None, error=None)


def after_drain(status: ContainerStatus, now: float) -> ContainerStatus:
    """Return the status of a container that runs only once, and was stopped before its end."""
    stopped = Exit(at=now, reason="it was stopped before its end, as all pods were")
    return msgspec.structs.replace(status, instance="", boot_id="", retry_at=None, exit=stopped)


def never_began(status: ContainerStatus) -> ContainerStatus:
    """Return the status of a container whose run was written down, but whose program never ran."""
    restarts = status.restarts - 1 if status.exit is not None and status.restarts else status.restarts
    return msgspec.structs.replace(status, instance="", boot_id="", restarts=restarts)


def waits_until(status: ContainerStatus, now: float, backoff: Backoff) -> float | None:
    """Return when the container may start again, None if it may now.

    A time further away than any back-off was written by a clock that was set back since, and does not count.
    """
    if status.retry_at is None or not now < status.retry_at <= now + backoff.cap:
        return None
    return status.retry_at
