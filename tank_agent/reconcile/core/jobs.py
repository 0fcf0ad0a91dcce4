"""The runs of a job: when one is due, missed or skipped, and how it ends. Pure (docs/jobs.md).

A run begins as a record in the journal, before its first container starts. Its containers start and end as
those of any pod; it ends when none is due any more, and nothing of the pod runs until the next one. While a
container of it runs, it keeps the spec that it began with: a change must not kill a backup half-way.

What `decide` makes of the schedule and the clock; the first line that holds counts::

    the clock is before 2020: not set yet         nothing, but what a person asks for
    the first look, or another schedule           the next time from now on; nothing is caught up
    the clock went back by 3 hours or more        the next time from now on, as in cron(8)
    the clock went back by less                   the same next time: what ran does not run again
    a time came while a run goes on               job-skipped
    the last time that came is at most LATE ago   a run for it; job-missed for all before it
    it is older, catch_up                         one run for all of them
    it is older                                   job-missed, once for all of them
    a person asked                                a run; any other that begins meanwhile is theirs, too
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from tank_agent.journal.records import JobRun, JobStatus, PodStatus
from tank_agent.reconcile.core import actions
from tank_agent.reconcile.core.actions import Action
from tank_agent.reconcile.core.hashes import schedule_hash
from tank_agent.reconcile.core.job_records import (
    NO_JOB,
    NO_SCHEDULE,
    ArrangeRun,
    BeginRun,
    EndRun,
    GiveUpRun,
    JobRecord,
    NoteImages,
    PassOver,
    RenewRun,
    exits_of,
)
from tank_agent.reconcile.core.observed import ImageState, Moment, Situation
from tank_agent.reconcile.core.order import missing
from tank_agent.reconcile.core.restart import describe_exit
from tank_agent.spec.model import Container, RestartPolicy, Schedule
from tank_agent.spec.quantities import format_duration
from tank_agent.spec.schedule import next_after

# Seconds by which a run may be late.
LATE = 600.0
# Seconds by which a clock must go back, so that times come again.
SET_BACK = 3 * 3600.0
# Unix time; a machine without a clock of its own has one of long ago until it hears the time.
_CLOCK_IS_SET = 1_577_836_800.0


class JobView(Struct, frozen=True, kw_only=True):
    """A job as `tank status` shows it: `current` is under way, `last` the last run that ended.

    `asked` is a run that a person waits for. `newer`: its file changed, which counts from the next run on.
    Times are Unix times.
    """

    next_due: float | None
    asked: float | None
    current: JobRun | None
    last: JobRun | None
    newer: bool


def view_job(situation: Situation) -> JobView | None:
    """Return what to show of a job; None for a pod that is none."""
    desired, job = situation.desired, situation.status.job or NO_JOB
    if desired is None or desired.pod.schedule is None:
        return None
    return JobView(
        next_due=job.next_due,
        asked=job.asked,
        current=job.current,
        last=job.last,
        newer=situation.declared is not None,
    )


def what_waits(situation: Situation) -> tuple[str, ...]:
    """Return a sentence for `tank plan` on a change that a run under way does not get."""
    job = situation.status.job
    if situation.declared is None or job is None or job.current is None:
        return ()
    if situation.declared.pod.schedule is None:
        return (f"run {job.current.number} goes on as it began; after it, the pod is no job any more",)
    return (f"run {job.current.number} goes on as it began; the change counts from the next run on",)


def is_idle(situation: Situation) -> bool:
    """Return whether a pod is a job of which nothing is to run now."""
    desired, job = situation.desired, situation.status.job
    if desired is None or desired.pod.schedule is None:
        return False
    current = job.current if job is not None else None
    return current is None or current.outcome is not None


def is_arranged(situation: Situation) -> bool:
    """Return whether a job waits for the next time of its schedule, and for nothing else."""
    desired, job = situation.desired, situation.status.job
    schedule = desired.pod.schedule if desired is not None else None
    if schedule is None or job is None or job.asked is not None:
        return False
    return job.schedule == schedule_hash(schedule)


def is_retired(status: PodStatus) -> bool:
    """Return whether a status has a next time; of a pod that is no job, it is to be forgotten."""
    job = status.job
    return job is not None and (bool(job.schedule) or job.asked is not None or job.current is not None)


def failure(situation: Situation) -> str:
    """Return in words how the last run of a job failed; empty if it succeeded, or of a pod that is no job."""
    desired, job = situation.desired, situation.status.job
    last = job.last if job is not None else None
    if desired is None or desired.pod.schedule is None or last is None or last.outcome == "succeeded":
        return ""
    return f"run {last.number} {describe_outcome(last)}\n  see `tank logs {desired.name} --run {last.number}`"


def steps_of_removal(status: PodStatus) -> Iterator[Action]:
    """Yield the step for a pod that is removed in a run: if it comes back meanwhile, that does not go on."""
    current = status.job.current if status.job is not None else None
    if current is not None and current.outcome is None:
        yield GiveUpRun(outcome="failed", reason="its pod was removed")


def steps_of_stop(situation: Situation) -> Iterator[Action]:
    """Yield the step for a job that a person stopped: a run that goes on ends with it."""
    current = situation.status.job.current if situation.status.job is not None else None
    if current is None:
        return
    if current.outcome is None:
        yield GiveUpRun(outcome="failed", reason="its pod was stopped")
    elif not situation.observed.runs:
        yield EndRun(outcome=current.outcome, reason=current.reason)


def describe_outcome(run: JobRun, lasted: str = "") -> str:
    """Return the end of a run in words, with how long it took if that is given."""
    words = {"succeeded": "succeeded", "failed": "failed", "timed-out": "timed out"}
    text = words[run.outcome] if run.outcome is not None else "goes on"
    text += f" after {lasted}" if lasted else ""
    return f"{text}: {run.reason}" if run.reason else text


def images_wanted(situation: Situation) -> tuple[Container, ...]:
    """Return the containers of a job whose images are to be here: of the run, or of the next one.

    They are pulled ahead, so that a run at night depends on no registry; but for the policy "always".
    """
    desired, job = situation.desired, situation.status.job or NO_JOB
    assert desired is not None
    if situation.is_stopped:
        return ()
    if job.current is not None:
        if job.current.outcome is not None:
            return ()
        return missing(desired, situation.status, situation.observed.runs, situation.now.boot_id)
    if job.fetched == desired.generation:
        return ()
    return tuple(
        container
        for container in desired.pod.containers
        if container.image is not None and (container.pull or situation.pull) != "always"
    )


def images_step(situation: Situation) -> Action | None:
    """Return the record that all images of the next run are here; None if they are not."""
    desired, wanted = situation.desired, images_wanted(situation)
    assert desired is not None
    images = situation.observed.images
    here = [found.name in images and images[found.name].state is ImageState.READY for found in wanted]
    return NoteImages(generation=desired.generation) if here and all(here) else None


def step_due(situation: Situation, waits: list[float]) -> Action | None:
    """Return the step of the schedule, or of the run under way, that comes before all others.

    Adds to `waits` the seconds until another one may be due.
    """
    desired, status, observed = situation.desired, situation.status, situation.observed
    assert desired is not None
    having_runs = {run.container for run in observed.runs}
    for name, known in status.containers.items():
        if known.instance and name not in having_runs:
            return actions.RecordLost(container=name)
    job, schedule = status.job or NO_JOB, (situation.declared or desired).pod.schedule
    if schedule is not None:
        decision = decide(job, schedule, situation.now.wall)
        # Nothing of a run before, or of the service that it was, is there when one begins.
        is_free = not observed.runs and observed.network == "absent"
        if decision is not None and (is_free or not isinstance(decision, BeginRun)):
            return decision
        if decision is None and job.next_due is not None:
            waits.append(max(job.next_due - situation.now.wall, 0.01))
    return _step_of_run(job.current, situation, waits) if job.current is not None else None


def decide(job: JobStatus, schedule: Schedule, wall: float) -> JobRecord | None:
    """Return what the schedule and the clock ask for, as the table of this module says."""
    if wall < _CLOCK_IS_SET:
        return _decide_asked(job)
    hash_ = schedule_hash(schedule)
    if job.schedule != hash_ or wall < job.since - SET_BACK:
        return ArrangeRun(schedule=hash_, next_due=_next(schedule, wall))
    if job.next_due is not None and job.next_due <= wall:
        return _decide_due(job, schedule, job.next_due, wall)
    return _decide_asked(job)


def _decide_asked(job: JobStatus) -> JobRecord | None:
    """Return the run that a person waits for, which no clock is asked for."""
    if job.asked is None or job.current is not None:
        return None
    return BeginRun(number=_next_number(job), cause="manual", due=job.asked, next_due=job.next_due)


def _decide_due(job: JobStatus, schedule: Schedule, first: float, wall: float) -> JobRecord:
    """Return what becomes of the times that have come, of which `first` is the first."""
    second, next_due = _next(schedule, first), _next(schedule, wall)
    newest = _newest(schedule, first, wall)
    goes_on = job.current is not None
    if goes_on or (newest is None and not schedule.catch_up):
        several = second is not None and second <= wall
        why: Literal["skipped", "missed"] = "skipped" if goes_on else "missed"
        return PassOver(why=why, due=first, several=several, next_due=next_due)
    number = _next_number(job)
    if newest is None:
        return BeginRun(number=number, cause="catch-up", due=first, next_due=next_due)
    missed = first if newest > first else None
    return BeginRun(number=number, cause="schedule", due=newest, next_due=next_due, missed=missed)


def _next_number(job: JobStatus) -> int:
    return (job.runs[-1].number if job.runs else 0) + 1


def _newest(schedule: Schedule, first: float, wall: float) -> float | None:
    """Return the last time that has come; None if that is too long ago. `first` is the first that came."""
    found = first if first >= wall - LATE else _next(schedule, wall - LATE)
    while found is not None and found <= wall:
        following = _next(schedule, found)
        if following is None or following > wall:
            return found
        found = following
    return None


def _next(schedule: Schedule, after: float) -> float | None:
    """Return the first time after a time; None if none comes."""
    try:
        found = next_after(schedule, after)
    except ValueError:
        return None
    return found if found < math.inf else None


def _step_of_run(run: JobRun, situation: Situation, waits: list[float]) -> Action | None:
    """Return the step that ends a run, or changes what it is of."""
    nothing_runs = not situation.observed.runs
    if run.outcome is not None:
        return EndRun(outcome=run.outcome, reason=run.reason) if nothing_runs else None
    step = _step_between_tries(run, situation) if nothing_runs else None
    return step or _time_out(run, situation, waits)


def _step_between_tries(run: JobRun, situation: Situation) -> Action | None:
    """Return the step for a run of which no container runs: it has ended, or another try is due."""
    desired, declared, now = situation.desired, situation.declared, situation.now
    assert desired is not None
    if not missing(desired, situation.status, (), now.boot_id):
        return _end(situation)
    if desired.pod.restart is RestartPolicy.NEVER and run.boot_id != now.boot_id:
        return GiveUpRun(outcome="failed", reason="the machine restarted while it was under way")
    if declared is None:
        return None
    if declared.pod.schedule is None:
        return GiveUpRun(outcome="failed", reason=NO_SCHEDULE)
    return RenewRun(generation=declared.generation)


def _time_out(run: JobRun, situation: Situation, waits: list[float]) -> Action | None:
    """Return the step for a run that takes too long, by the newest schedule."""
    desired = situation.desired
    assert desired is not None
    schedule = (situation.declared or desired).pod.schedule or desired.pod.schedule
    if schedule is None or schedule.timeout is None:
        return None
    left = schedule.timeout - _lasted(run, situation.now)
    if left > 0:
        waits.append(max(left, 0.01))
        return None
    reason = f"it ran for longer than {format_duration(schedule.timeout)}"
    return GiveUpRun(outcome="timed-out", reason=reason)


def _lasted(run: JobRun, now: Moment) -> float:
    """Return for how long a run has been under way, in seconds; a clock that was set is none of its time."""
    same_boot = run.boot_id == now.boot_id
    return now.monotonic - run.clock if same_boot else max(0.0, now.wall - run.begun)


def _end(situation: Situation) -> EndRun:
    """Return the end of a run of which no container is due any more."""
    failed = [(exit_.at, name, exit_) for name, exit_ in exits_of(situation) if not exit_.clean]
    if not failed:
        return EndRun(outcome="succeeded", reason="")
    _, name, exit_ = min(failed, key=lambda one: one[:2])
    colon = ":" if exit_.code is None and exit_.signal is None else ""
    return EndRun(outcome="failed", reason=f"container {name}{colon} {describe_exit(exit_)}")
