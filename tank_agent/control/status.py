"""The status of pods, as answers have it: what the loop sees, and how pods stand to sources and updates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from tank_agent.api import reports, types
from tank_agent.control import last_words
from tank_agent.control.images import Images
from tank_agent.control.published import port_report
from tank_agent.control.sources import Sources
from tank_agent.errors import Problem
from tank_agent.journal.records import DesiredPod, Exit, Health, JobRun, JobStatus
from tank_agent.linux.clock import rfc3339
from tank_agent.reconcile.core.phase import ContainerView, Phase
from tank_agent.reconcile.core.rollout_view import view_rollout
from tank_agent.reconcile.machine import Machine
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.runtime.limits.measure import Measured
from tank_agent.source.kinds import BY_NAME


@dataclass(eq=False)
class Statuses:
    """Reports on pods. All methods may be called from many threads."""

    machine: Machine
    reconciler: Reconciler
    sources: Sources
    images: Images
    last_line: Callable[[str, str, float | None], str] = lambda *_: ""

    def __post_init__(self) -> None:
        self.journal = self.machine.journal

    def of(self, name: str) -> reports.PodReport:
        """Return the status of a pod that the loop knows."""
        desired = self.journal.get(name)
        view = self.reconciler.view(name)
        networks, usage = self.machine.networks, self.machine.containers.measured(name)
        git, hold = self.sources.pod_report(desired)
        newer, untold = self.images.checks.newer(name), self.images.checks.errors(name)
        return reports.PodReport(
            name=name,
            phase=str(view.phase),
            owner=desired.owner if desired else "",
            revision=desired.revision if desired else "",
            generation=desired.generation if desired else 0,
            error=view.error,
            git=git,
            hold=hold,
            next_retry=rfc3339(view.next_retry),
            health=view.health,
            rollout=None if desired is None else self.rollout(desired),
            waits=view.waits,
            stopped=rfc3339(view.stopped),
            ready=view.ready,
            addresses=tuple(networks.addresses(name)),
            bridges=networks.leases(name),
            ports=tuple(map(port_report, networks.ports(name))),
            warnings=networks.warnings(name),
            usage=_usage(usage.values()),
            job=None if desired is None else job_report(desired, self.journal.status(name).job),
            containers=tuple(
                replace(
                    _container(container, desired, usage),
                    newer=newer.get(container.name),
                    newer_error=untold.get(container.name),
                )
                for container in view.containers
            ),
        )

    def with_last_words(self, report: reports.PodReport) -> reports.PodReport:
        """Return a report with the last line of each container that ended badly, unless it is of a job."""
        desired = self.journal.get(report.name)
        if desired is None or report.job is not None or not any(map(last_words.is_due, report.containers)):
            return report
        known = self.journal.status(report.name).containers

        def completed(one: reports.ContainerReport) -> reports.ContainerReport:
            status = known.get(one.name)
            if status is None or not last_words.is_due(one):
                return one
            line = self.last_line(report.name, one.name, status.started_at)
            return replace(one, last_line=last_words.shown(line, desired.pod, one.name))

        return replace(report, containers=tuple(map(completed, report.containers)))

    def rollout(self, desired: DesiredPod) -> reports.RolloutReport:
        """Return how the update of a pod stands."""
        view = view_rollout(desired, self.journal.status(desired.name))
        running = desired.revision
        if view.running != desired.generation:
            kept = self.journal.history(desired.name)
            running = next((old.revision for old in kept if old.generation == view.running), "")
        return reports.RolloutReport(
            state=view.state, outcome=view.outcome, wanted=view.wanted, running=running, reason=view.reason
        )

    def broken_files(self, known: set[str]) -> dict[str, reports.PodReport]:
        """Return a report for every file with problems and no pod, so that nobody must read the log."""
        by_name: dict[str, list[Problem]] = {}
        of_directories = self.sources.directory_problems()
        sources = self.journal.sources_of_problems()
        for problem in (problem for problem in self.journal.problems() if problem not in of_directories):
            name = problem.pod or Path(problem.file).name.removesuffix(".toml")
            if name not in known:
                by_name.setdefault(name, []).append(problem)
        return {
            name: reports.PodReport(
                name=name,
                phase=str(Phase.FAILED),
                owner=BY_NAME[sources[problems[0]]].owner(problems[0].file),
                error="\n".join(map(str, problems)),
            )
            for name, problems in by_name.items()
        }


def exit_report(end: Exit | None) -> reports.ExitReport | None:
    """Return the end of a run as answers have it."""
    if end is None:
        return None
    return reports.ExitReport(
        code=end.code, signal=end.signal, oom=end.oom, at=rfc3339(end.at), reason=end.reason
    )


def job_report(desired: DesiredPod, job: JobStatus | None) -> reports.JobReport | None:
    """Return the schedule and the runs of a job; None for a pod that is none."""
    schedule = desired.pod.schedule
    if schedule is None:
        return None
    found = job or JobStatus()
    return reports.JobReport(
        schedule=schedule.cron,
        time_zone=schedule.time_zone,
        catch_up=schedule.catch_up,
        timeout=schedule.timeout,
        next_run=rfc3339(found.next_due),
        asked=rfc3339(found.asked),
        run=_run_report(found.current) if found.current is not None else None,
        runs=tuple(map(_run_report, found.runs)),
    )


def _container(
    view: ContainerView, desired: DesiredPod | None, usage: Mapping[str, Measured]
) -> reports.ContainerReport:
    specs = () if desired is None else desired.pod.containers
    spec = next((spec for spec in specs if spec.name == view.name), None)
    image = view.run.image if view.run is not None else ""
    if not image and spec is not None:
        image = spec.image or spec.rootfs or ""
    running = view.run is not None and view.phase is not Phase.STARTING
    return reports.ContainerReport(
        name=view.name,
        phase=str(view.phase),
        pid=view.run.pid if view.run is not None and running else None,
        restarts=view.status.restarts,
        image=image,
        progress=None if view.progress is None else types.shown(view.progress, reports.ProgressReport),
        exit=exit_report(view.status.exit),
        usage=_usage([usage[view.name]] if view.name in usage else []),
        memory_limit=None if spec is None else spec.limits.memory,
        health=_health(view.health),
        started_at=rfc3339(view.status.started_at) if running else None,
        digest=view.status.digest or None,
    )


def _health(health: Health | None) -> reports.HealthReport:
    if health is None:
        return reports.HealthReport()
    since = rfc3339(health.since)
    return reports.HealthReport(
        state=health.state, since=since, message=health.message, failing=health.failing
    )


def _usage(used: Collection[Measured]) -> reports.UsageReport | None:
    """Return the sum of what containers use; None where none runs."""
    if not used:
        return None
    return reports.UsageReport(
        memory=sum(one.memory for one in used),
        cpu=round(sum(one.cpu for one in used), 3),
        pids=sum(one.threads for one in used),
    )


def _run_report(run: JobRun) -> reports.JobRunReport:
    return reports.JobRunReport(
        number=run.number,
        cause=run.cause,
        due=rfc3339(run.due),
        begun=rfc3339(run.begun),
        ended=rfc3339(run.ended),
        outcome=run.outcome,
        reason=run.reason or None,
        exits={name: found for name, end in run.exits.items() if (found := exit_report(end)) is not None},
        generation=run.generation,
    )
