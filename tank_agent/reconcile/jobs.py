"""Carry out the steps of a job: begin a run, end it, and say which ones did not happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from tank_agent.journal.records import JobRun, JobStatus, PodStatus, Verdict
from tank_agent.linux.clock import rfc3339
from tank_agent.linux.fault import point
from tank_agent.reconcile.core import job_records, jobs
from tank_agent.reconcile.core.actions import Action
from tank_agent.reconcile.core.rollout import verdict_now
from tank_agent.reconcile.machine import Machine, Work
from tank_agent.spec.quantities import format_duration


class JobSteps:
    """Carries out the actions of jobs, each in one transaction of the journal with its events."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        kinds: tuple[tuple[type[job_records.JobRecord], str], ...] = (
            (job_records.ArrangeRun, "job:arranged"),
            (job_records.PassOver, "job:passed-over"),
            (job_records.BeginRun, "job:begun"),
            (job_records.RenewRun, "job:renewed"),
            (job_records.GiveUpRun, "job:given-up"),
            (job_records.EndRun, "job:ended"),
            (job_records.NoteImages, "job:fetched"),
            (job_records.RetireJob, "job:retired"),
        )
        self._points = dict(kinds)
        self.table: dict[type[Action], Callable[..., None]] = {kind: self._record for kind, _ in kinds}

    def _record(self, action: job_records.JobRecord, work: Work) -> None:
        def changed(status: PodStatus) -> PodStatus | None:
            same = _stands(status.job) == _stands(work.seen.status.job)
            return action.recorded(status, work.seen) if same else None

        former = work.seen.status.good
        events = [work.event(kind, message) for kind, message in _events(action, work)]
        verdicts = _verdicts(action, work)
        recorded = self._machine.journal.revise(work.name, changed, events, verdicts)
        point(self._points[type(action)])
        if (
            recorded
            and isinstance(action, job_records.ArrangeRun)
            and former is not None
            and former.snapshots
        ):
            # No update of a job goes back to them.
            self._machine.snapshots.keep(work.name, frozenset())


def _stands(job: JobStatus | None) -> JobStatus | None:
    """Return what a step was decided by; a person may ask for a run meanwhile."""
    return replace(job, asked=None) if job is not None else JobStatus()


def _verdicts(action: job_records.JobRecord, work: Work) -> dict[int, Verdict]:
    """Return the end of the rollout of a service that is a job now."""
    found = work.seen.status.rollout
    if not isinstance(action, job_records.ArrangeRun) or found is None or found.outcome is not None:
        return {}
    reason = "the pod became a job before its verdict"
    return {found.generation: verdict_now(work.seen, "superseded", reason)}


def _events(action: job_records.JobRecord, work: Work) -> Iterator[tuple[str, str]]:
    """Yield the kinds and the messages of the events of a step."""
    job = work.seen.status.job or JobStatus()
    if isinstance(action, job_records.BeginRun):
        if action.missed is not None:
            yield "job-missed", f"no run since {rfc3339(action.missed)}; run {action.number} is the next one"
        whys = {
            "schedule": f"its time was {rfc3339(action.due)}",
            "catch-up": f"it catches up on what was missed since {rfc3339(action.due)}",
            "manual": "a person asked for it",
        }
        yield "job-started", f"run {action.number} begins: {whys[action.cause]}"
    elif isinstance(action, job_records.PassOver):
        what = "the runs from" if action.several else "the run of"
        why = "nothing could run then; catch_up = true would run it late"
        if action.why == "skipped" and job.current is not None:
            why = f"run {job.current.number} still goes on since {rfc3339(job.current.begun)}"
        till = " on" if action.several else ""
        yield f"job-{action.why}", f"{what} {rfc3339(action.due)}{till} did not begin: {why}"
    elif isinstance(action, job_records.RenewRun) and job.current is not None:
        text = f"run {job.current.number} goes on with generation {action.generation}"
        yield "job-renewed", f"{text}, since nothing of it runs"
    elif isinstance(action, job_records.EndRun) and job.current is not None:
        ended = action.after(job.current, work.seen)
        yield _ended(work.name, ended)
    elif isinstance(action, job_records.RetireJob) and job.current is not None:
        yield "job-failed", f"run {job.current.number} failed: {job_records.NO_SCHEDULE}"


def _ended(pod: str, run: JobRun) -> tuple[str, str]:
    lasted = format_duration(round(max(0.0, (run.ended or run.begun) - run.begun)))
    text = f"run {run.number} {jobs.describe_outcome(run, lasted)}"
    if run.outcome == "succeeded":
        return "job-succeeded", text
    return "job-failed", f"{text}; see `tank logs {pod} --run {run.number}`"
