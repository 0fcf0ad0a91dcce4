"""The records of a job's runs: each step of a schedule, and what it makes of the status in the journal.

`jobs` decides which one is due; `tank_agent.reconcile.jobs` stores it, with its events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from msgspec.structs import replace

from tank_agent.journal.records import Exit, JobRun, JobStatus, PodStatus, RunCause
from tank_agent.reconcile.core.actions import Record
from tank_agent.reconcile.core.hashes import container_status
from tank_agent.reconcile.core.observed import Situation
from tank_agent.runtime.run import KEPT_RUNS

# Why the run of a pod failed that is no job any more.
NO_SCHEDULE = "its file declares no schedule any more"
NO_JOB = JobStatus()

Ending = Literal["succeeded", "failed", "timed-out"]


class JobRecord(Record, frozen=True, kw_only=True):
    """A change of a job's status in the journal."""

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the new status."""
        return replace(situation, status=self.recorded(situation.status, situation))

    def recorded(self, status: PodStatus, situation: Situation) -> PodStatus:
        """Return the pod's new status, for the loop and for the dry run."""
        return replace(status, job=self.changed(status.job or NO_JOB, situation))

    def changed(self, job: JobStatus, situation: Situation) -> JobStatus:
        """Return the job's new status."""
        raise NotImplementedError


class ArrangeRun(JobRecord, frozen=True, kw_only=True):
    """Set the next time of a schedule that is new, or whose clock was set back for long."""

    sentence = "set the next time of the schedule"
    schedule: str
    next_due: float | None

    def recorded(self, status: PodStatus, situation: Situation) -> PodStatus:
        """Return the status with the next time; a job has no rollout, so nothing of one is left."""
        status = super().recorded(status, situation)
        return replace(status, rollout=None, good=None, blocked=None)

    def changed(self, job: JobStatus, situation: Situation) -> JobStatus:
        """Return the job with its next time."""
        return replace(job, schedule=self.schedule, next_due=self.next_due, since=situation.now.wall)


class PassOver(JobRecord, frozen=True, kw_only=True):
    """Let times of the schedule pass without a run, from `due` on: `several`, or only that one.

    "skipped": another run goes on. "missed": it is too late.
    """

    sentence = "let the time of a run pass: {why}"
    why: Literal["skipped", "missed"]
    due: float
    several: bool
    next_due: float | None

    def changed(self, job: JobStatus, situation: Situation) -> JobStatus:
        """Return the job with its next time."""
        return replace(job, next_due=self.next_due, since=situation.now.wall)


class BeginRun(JobRecord, frozen=True, kw_only=True):
    """Begin a run of the job: no container of an earlier one counts.

    `missed` is the first time that came before `due` without a run.
    """

    sentence = "begin run {number} ({cause})"
    number: int
    cause: RunCause
    due: float
    next_due: float | None
    missed: float | None = None

    def recorded(self, status: PodStatus, situation: Situation) -> PodStatus:
        """Return the status with the run under way."""
        return replace(super().recorded(status, situation), containers={})

    def changed(self, job: JobStatus, situation: Situation) -> JobStatus:
        """Return the job with the run."""
        now, desired = situation.now, situation.desired
        assert desired is not None
        run = JobRun(
            number=self.number,
            cause=self.cause,
            due=self.due,
            begun=now.wall,
            generation=desired.generation,
            boot_id=now.boot_id,
            clock=now.monotonic,
        )
        since = job.since if self.cause == "manual" else now.wall
        runs = (*job.runs, run)[-KEPT_RUNS:]
        return replace(job, runs=runs, asked=None, next_due=self.next_due, since=since)


class ChangeRun(JobRecord, frozen=True, kw_only=True):
    """Change the run that is under way."""

    def changed(self, job: JobStatus, situation: Situation) -> JobStatus:
        """Return the job with the run as it is now."""
        if job.current is None:
            return job
        return replace(job, runs=(*job.runs[:-1], self.after(job.current, situation)))

    def after(self, run: JobRun, situation: Situation) -> JobRun:
        """Return the run as it is after the step."""
        raise NotImplementedError


class GiveUpRun(ChangeRun, frozen=True, kw_only=True):
    """Stop a run, with the outcome that it will have."""

    sentence = "stop the run: {reason}"
    outcome: Ending
    reason: str

    def after(self, run: JobRun, situation: Situation) -> JobRun:
        """Return the run with its outcome."""
        return replace(run, outcome=self.outcome, reason=self.reason)


class LeaveSpec(ChangeRun, frozen=True, kw_only=True):
    """Change a run such that it keeps its older spec no longer."""

    def expected(self, situation: Situation) -> Situation:
        """Return the situation, in which the newest spec counts."""
        situation = super().expected(situation)
        return replace(situation, desired=situation.declared or situation.desired, declared=None)


class RenewRun(LeaveSpec, frozen=True, kw_only=True):
    """Let a run of which nothing runs go on with the newest spec: a mended image counts at once."""

    sentence = "let the run go on with generation {generation}"
    generation: int

    def after(self, run: JobRun, situation: Situation) -> JobRun:
        """Return the run with the spec."""
        return replace(run, generation=self.generation)


class EndRun(LeaveSpec, frozen=True, kw_only=True):
    """Record the end of a run."""

    sentence = "record the end of the run: {outcome}"
    outcome: Ending
    reason: str

    def after(self, run: JobRun, situation: Situation) -> JobRun:
        """Return the run with its end."""
        exits = dict(exits_of(situation))
        return replace(run, ended=situation.now.wall, outcome=self.outcome, reason=self.reason, exits=exits)

    def changed(self, job: JobStatus, situation: Situation) -> JobStatus:
        """Return the job with the run as it ended, and when one last succeeded."""
        succeeded = situation.now.wall if self.outcome == "succeeded" else job.succeeded
        return replace(super().changed(job, situation), succeeded=succeeded)


class NoteImages(JobRecord, frozen=True, kw_only=True):
    """Record that the images of the next run are here, so that nobody asks for them until then."""

    sentence = "record that the images of generation {generation} are here"
    generation: int

    def changed(self, job: JobStatus, situation: Situation) -> JobStatus:
        """Return the job with its images."""
        return replace(job, fetched=self.generation)


class RetireJob(JobRecord, frozen=True, kw_only=True):
    """Forget the next time of a pod that is no job any more; what ran is kept."""

    sentence = "forget the schedule"
    word: ClassVar[str | None] = None

    def changed(self, job: JobStatus, situation: Situation) -> JobStatus:
        """Return the job without a next time."""
        runs, current = job.runs, job.current
        if current is not None:
            ended = replace(current, ended=situation.now.wall, outcome="failed", reason=NO_SCHEDULE)
            runs = (*runs[:-1], ended)
        return JobStatus(runs=runs, succeeded=job.succeeded)


def exits_of(situation: Situation) -> Iterator[tuple[str, Exit]]:
    """Yield the containers that ended in this run, and how."""
    desired = situation.desired
    assert desired is not None
    for container in desired.pod.containers:
        exit_ = container_status(situation.status, desired.pod, container).exit
        if exit_ is not None:
            yield container.name, exit_
