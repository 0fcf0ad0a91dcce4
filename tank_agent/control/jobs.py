"""Jobs as users see them: a run that a person asks for, and the first time in a plan."""

from __future__ import annotations

from collections.abc import Iterator

from tank_agent.api import reports
from tank_agent.errors import Stalled
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, JobStatus
from tank_agent.linux.clock import rfc3339
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.spec.model import Schedule
from tank_agent.spec.quantities import format_duration
from tank_agent.spec.schedule import next_after, on_the_wall


def run_now(journal: Journal, reconciler: Reconciler, name: str, by: str) -> reports.StartedRun:
    """Begin a run of a job for the user `by`, whatever its schedule says.

    Raises:
        PodNotFound: there is no such pod.
        Stalled: it is no job, it is stopped, or a run of it is under way.
    """
    stopped = journal.status(name).stopped
    if stopped is not None:
        raise Stalled(
            f"job {name} is stopped since {rfc3339(stopped)}", hint=f"`tank start {name}` lets it run again"
        )
    current = (journal.status(name).job or JobStatus()).current
    if current is not None:
        raise Stalled(
            f"run {current.number} of {name} is under way since {rfc3339(current.begun)}",
            hint=f"`tank logs {name} -f` follows it",
        )
    number = journal.ask_run(name, by=by)
    reconciler.wake(name, "asked to run")
    return reports.StartedRun(pod=name, number=number)


def first_run(before: DesiredPod | None, after: DesiredPod | None, now: float) -> Iterator[str]:
    """Yield a sentence for a plan on when a job runs next, if its schedule is new."""
    schedule = after.pod.schedule if after is not None else None
    former = before.pod.schedule if before is not None else None
    if schedule is None or (former is not None and _times(former) == _times(schedule)):
        return
    try:
        at = next_after(schedule, now)
    except ValueError:
        return
    days, rest = divmod(max(1, int((at - now) // 60)), 24 * 60)
    left = f"{days}d {rest // 60}h" if days else format_duration(rest * 60.0)
    yield f"runs first on {on_the_wall(schedule.time_zone, at)}, in {left}"


def _times(schedule: Schedule) -> tuple[str, str]:
    return schedule.cron, schedule.time_zone
