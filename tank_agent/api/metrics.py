"""The metrics of the agent and its pods in Prometheus' text format, read from the state as it is now.

One row a family in `FAMILIES`; docs/metrics.md explains each. prometheus_client writes the text of what its
one collector reads from the agent (docs/decisions/0031-metrics.md). The first scrape imports this module.
Names: https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from tank_agent import __version__
from tank_agent.api.request import Answer
from tank_agent.control.pods import Service
from tank_agent.journal.records import DesiredPod, JobStatus, PodStatus
from tank_agent.linux.process import own_use
from tank_agent.reconcile.core.phase import ContainerView, Phase, PodView
from tank_agent.reconcile.core.rollout_view import RolloutState, view_rollout
from tank_agent.reconcile.counters import Counters, Histogram, PodCount, ProbeCount
from tank_agent.runtime.limits.measure import Measured
from tank_agent.source.kinds import is_mirrored
from tank_agent.spec.printable import escape

Kind = Literal["gauge", "counter", "histogram", "summary"]
# Samples share them, so none is ever changed.
Labels = dict[str, str]


class Family(Struct, frozen=True):
    """A metric: its name, kind, labels, and what it is."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


HEALTH = ("starting", "healthy", "unhealthy")
GIT = ("pending", "in-sync", "behind", "held", "error", "suspended")
_PHASES = tuple(str(phase) for phase in Phase if phase is not Phase.ELSEWHERE)

_POD, _CONTAINER, _CADVISOR = "pod", "pod container", "pod container image"
# Name, kind, labels, and what it is.
_TABLE: tuple[tuple[str, Kind, str, str], ...] = (
    ("tank_build_info", "gauge", "version", "1, with the version of tank-agent."),
    ("tank_pod_phase", "gauge", "pod phase", "1 for the phase that a pod is in, 0 for the others."),
    ("tank_pod_ready", "gauge", _POD, "1 if all containers of a pod are ready."),
    ("tank_pod_healthy", "gauge", _POD, "1 if the health checks of a pod succeed; none without checks."),
    ("tank_pod_error", "gauge", _POD, "1 if tank status shows an error of a pod."),
    ("tank_pod_generation", "gauge", _POD, "Number of a pod's declaration, which each change raises by 1."),
    ("tank_pod_suspended", "gauge", _POD, "1 if a pod does not follow its file: suspended, or pinned."),
    ("tank_pod_quarantined", "gauge", _POD, "1 if an older revision runs since the wanted one failed."),
    ("tank_pod_update_failed", "gauge", _POD, "1 if the wanted revision of a pod failed."),
    ("tank_pod_update_blocked", "gauge", _POD, "1 if an update of a pod cannot begin."),
    ("tank_container_restarts_total", "counter", _CONTAINER, "Starts of a container after its first."),
    ("tank_container_health", "gauge", "pod container state", "1 for the health that a container has."),
    ("tank_probe_total", "counter", "pod container kind result", "Probes that ended."),
    ("tank_probe_duration_seconds", "summary", "pod container kind", "How long probes took."),
    ("tank_update_total", "counter", "pod outcome", "Revisions of a pod that got a verdict."),
    ("tank_rollout_duration_seconds", "histogram", "", "From a revision's first start to its verdict."),
    ("tank_reconcile_duration_seconds", "histogram", "", "How long the loop's turns of work on a pod took."),
    ("tank_reconcile_errors_total", "counter", "", "Steps of the loop that failed."),
    ("tank_job_running", "gauge", _POD, "1 while a run of a job is under way."),
    ("tank_job_next_run_timestamp_seconds", "gauge", _POD, "When the next run of a job is due."),
    ("tank_job_last_run_timestamp_seconds", "gauge", _POD, "When the last run of a job ended."),
    ("tank_job_last_run_duration_seconds", "gauge", _POD, "How long the last run of a job took."),
    ("tank_job_last_run_succeeded", "gauge", _POD, "1 if the last run of a job succeeded."),
    ("tank_job_last_success_timestamp_seconds", "gauge", _POD, "When a run of a job last ended well."),
    ("tank_sources_suspended", "gauge", "", "1 if files and git do not count until tank resume."),
    ("tank_unusable_files", "gauge", "", "Files with errors, or whose pod another source has."),
    ("tank_pods_elsewhere", "gauge", "", "Pods that files declare for other machines."),
    ("tank_git_state", "gauge", "state", "1 for the state that the git source is in."),
    ("tank_git_last_sync_timestamp_seconds", "gauge", "", "When the git remote last answered."),
    ("tank_git_commit_timestamp_seconds", "gauge", "", "Committer's time of the commit that is applied."),
    ("tank_image_pull_total", "counter", "result", "Pulls of images for pods that ended."),
    ("tank_data_dir_size_bytes", "gauge", "", "Size of the file system of data_dir."),
    ("tank_data_dir_free_bytes", "gauge", "", "Room that is left on the file system of data_dir."),
    ("container_cpu_usage_seconds_total", "counter", _CADVISOR, "CPU time of a container's run."),
    ("container_memory_usage_bytes", "gauge", _CADVISOR, "Memory of a container, with its files' cache."),
    ("container_memory_working_set_bytes", "gauge", _CADVISOR, "The same without the inactive cache."),
    ("container_spec_memory_limit_bytes", "gauge", _CADVISOR, "Memory limit of a container that has one."),
    ("container_threads", "gauge", _CADVISOR, "Processes and threads of a container."),
    ("container_oom_events_total", "counter", _CADVISOR, "Processes that were killed as memory ran out."),
    ("container_start_time_seconds", "gauge", _CADVISOR, "When a container's run was started."),
    ("tank_agent_cpu_seconds_total", "counter", "", "CPU time of the agent."),
    ("tank_agent_resident_memory_bytes", "gauge", "", "Memory of the agent."),
    ("tank_agent_open_fds", "gauge", "", "Open file descriptors of the agent."),
    ("tank_agent_start_time_seconds", "gauge", "", "When the agent was started."),
)
FAMILIES = {name: Family(name, kind, tuple(labels.split()), text) for name, kind, labels, text in _TABLE}
_NO_LABELS: Labels = {}


def answer(service: Service) -> Answer:
    """Return the metrics of an agent as the answer to GET /metrics."""
    return Answer(body=metrics_text(service).encode(), content_type=CONTENT_TYPE_LATEST)


def metrics_text(service: Service) -> str:
    """Return the metrics of an agent as they are now."""
    return "".join(map(_written, _AgentCollector(service).collect()))


class _AgentCollector(Collector):
    """Reads an agent's state whenever it is asked; it keeps no number of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield the families that have a sample now."""
        found, service = Samples(), self._service
        _of_agent(found, service)
        _of_loop(found, service.machine.counters)
        suspended = service.sources.intake.suspended()
        _of_sources(found, service, suspended=suspended)
        for seen in _looks(service):
            _of_pod(found, seen, suspended=suspended)
        yield from (family for family in found.families.values() if family.samples)


class _Given(Collector):
    """Collects one family that is there already."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        """Yield it."""
        yield self._family


# Of each family, the samples of the last scrape and their text: most families are the same the next time, and
# to write a sample takes longer than all else that is done for it.
_last: dict[str, tuple[list[Sample], str]] = {}


def _written(family: Metric) -> str:
    """Return the text of a family."""
    last = _last.get(family.name)
    if last is not None and last[0] == family.samples:
        return last[1]
    registry = CollectorRegistry()
    registry.register(_Given(family))
    text = generate_latest(registry).decode()
    _last[family.name] = family.samples, text
    return text


class Samples:
    """The families of one scrape, as they are filled."""

    def __init__(self) -> None:
        # The client names a counter without the ending that its samples have.
        self.families = {
            name: Metric(name.removesuffix("_total") if one.kind == "counter" else name, one.help, one.kind)
            for name, one in FAMILIES.items()
        }

    def add(self, name: str, value: float, labels: Labels = _NO_LABELS, *, ending: str = "") -> None:
        """Add a sample; `ending` is that of the samples of summaries and histograms."""
        self.families[name].add_sample(name + ending, labels, value)

    def add_states(
        self, name: str, label: str, states: tuple[str, ...], current: str, labels: Labels = _NO_LABELS
    ) -> None:
        """Add a sample for each state: 1 for the current one, 0 for the others."""
        for state in states:
            self.add(name, int(state == current), {**labels, label: state})


class _Seen(Struct, frozen=True, kw_only=True):
    """A pod that is here: desired, or with something left on the machine. Counts are by container."""

    name: str
    view: PodView
    desired: DesiredPod | None
    status: PodStatus
    used: Mapping[str, Measured]
    killed: Mapping[str, int]
    counts: PodCount


def _looks(service: Service) -> Iterator[_Seen]:
    machine, journal = service.machine, service.journal
    names = service.reconciler.known_pods()
    # One kind of work after the other, for all pods: in turns, it takes nearly twice the time.
    views = [service.reconciler.view(name) for name in names]
    used = [machine.containers.measured(name, again=True) for name in names]
    for name, view, measured in zip(names, views, used, strict=True):
        yield _Seen(
            name=name,
            view=view,
            desired=journal.get(name),
            status=journal.status(name),
            used=measured,
            killed=machine.containers.killed(name),
            counts=machine.counters.of(name) or _NO_COUNTS,
        )


def safe(text: str) -> str:
    """Return a text as the value of a label: it steers no terminal, and is UTF-8."""
    return escape(text).encode(errors="replace").decode()


_NO_COUNTS = PodCount()
# The states in which the wanted revision of a pod is one that failed.
_FAILED = frozenset(
    (RolloutState.FAILED, RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK, RolloutState.QUARANTINED)
)


def _of_agent(found: Samples, service: Service) -> None:
    found.add("tank_build_info", 1, {"version": __version__})
    use = own_use()
    found.add("tank_agent_cpu_seconds_total", round(use.cpu, 3))
    found.add("tank_agent_resident_memory_bytes", use.memory)
    found.add("tank_agent_open_fds", use.descriptors)
    found.add("tank_agent_start_time_seconds", round(use.started, 2))
    try:
        disk = os.statvfs(service.settings.data_dir)
    except OSError:
        return
    found.add("tank_data_dir_size_bytes", disk.f_blocks * disk.f_frsize)
    found.add("tank_data_dir_free_bytes", disk.f_bavail * disk.f_frsize)


def _of_sources(found: Samples, service: Service, *, suspended: bool) -> None:
    sources, journal = service.sources, service.journal
    found.add("tank_sources_suspended", int(suspended))
    found.add("tank_unusable_files", len({problem.file for problem in journal.problems()}))
    found.add("tank_pods_elsewhere", sum(map(len, journal.elsewhere().values())))
    if sources.git is None:
        return
    status = sources.git.repository.status
    found.add_states("tank_git_state", "state", GIT, "suspended" if suspended else status.state)
    if status.looked_at is not None:
        found.add("tank_git_last_sync_timestamp_seconds", round(status.looked_at, 3))
    if status.commit is not None:
        found.add("tank_git_commit_timestamp_seconds", status.commit.at)


def _of_loop(found: Samples, counters: Counters) -> None:
    _histogram(found, "tank_reconcile_duration_seconds", counters.turns())
    _histogram(found, "tank_rollout_duration_seconds", counters.rollouts())
    found.add("tank_reconcile_errors_total", counters.failed_steps())
    for result, count in counters.pulls().items():
        found.add("tank_image_pull_total", count, {"result": result})


def _histogram(found: Samples, name: str, seen: Histogram) -> None:
    total = 0
    for bound, count in zip((*map(str, seen.bounds), "+Inf"), seen.counts, strict=True):
        total += count
        found.add(name, total, {"le": bound}, ending="_bucket")
    found.add(name, round(seen.sum, 6), ending="_sum")
    found.add(name, total, ending="_count")


def _of_pod(found: Samples, seen: _Seen, *, suspended: bool) -> None:
    view, desired = seen.view, seen.desired
    labels = {"pod": safe(seen.name)}
    found.add_states("tank_pod_phase", "phase", _PHASES, view.phase, labels)
    found.add("tank_pod_ready", int(view.ready), labels)
    found.add("tank_pod_error", int(view.error is not None), labels)
    if view.health != "none":
        found.add("tank_pod_healthy", int(view.health == "healthy"), labels)
    for container in view.containers:
        _of_container(found, labels, container, seen)
    for (name, kind), probes in seen.counts.probes.items():
        _of_probes(found, {**labels, "container": safe(name), "kind": kind}, probes)
    if desired is None:
        return
    hold = desired.hold.kind if desired.hold is not None else ""
    held = hold in ("suspended", "pinned") or (suspended and is_mirrored(desired.owner))
    found.add("tank_pod_generation", desired.generation, labels)
    found.add("tank_pod_quarantined", int(hold == "quarantined"), labels)
    found.add("tank_pod_suspended", int(held), labels)
    if desired.pod.schedule is not None:
        _of_job(found, seen.status.job or JobStatus(), labels)
        return
    state = view_rollout(desired, seen.status).state
    found.add("tank_pod_update_failed", int(state in _FAILED), labels)
    found.add("tank_pod_update_blocked", int(state is RolloutState.BLOCKED), labels)
    for outcome, count in seen.counts.updates.items():
        found.add("tank_update_total", count, {**labels, "outcome": outcome})


def _of_job(found: Samples, job: JobStatus, labels: Labels) -> None:
    found.add("tank_job_running", int(job.current is not None), labels)
    if job.next_due is not None:
        found.add("tank_job_next_run_timestamp_seconds", job.next_due, labels)
    last = job.last
    if last is not None and last.ended is not None:
        found.add("tank_job_last_run_timestamp_seconds", round(last.ended, 3), labels)
        took = round(max(0.0, last.ended - last.begun), 3)
        found.add("tank_job_last_run_duration_seconds", took, labels)
        found.add("tank_job_last_run_succeeded", int(last.outcome == "succeeded"), labels)
    if job.succeeded is not None:
        found.add("tank_job_last_success_timestamp_seconds", round(job.succeeded, 3), labels)


def _of_container(found: Samples, pod: Labels, view: ContainerView, seen: _Seen) -> None:
    name, status, desired = view.name, view.status, seen.desired
    labels = {**pod, "container": safe(name)}
    found.add("tank_container_restarts_total", status.restarts, labels)
    if view.health is not None:
        found.add_states("tank_container_health", "state", HEALTH, view.health.state, labels)
    spec = next((one for one in desired.pod.containers if one.name == name), None) if desired else None
    image = view.run.image if view.run is not None else ""
    if not image and spec is not None:
        image = spec.image or spec.rootfs or ""
    # A digest in a label would be a new series with each update.
    labels = {**labels, "image": safe(image.partition("@")[0])}
    found.add("container_oom_events_total", seen.killed.get(name, 0), labels)
    used = seen.used.get(name)
    if used is None:
        return
    for family, value in (
        ("container_cpu_usage_seconds_total", used.cpu),
        ("container_memory_usage_bytes", used.memory),
        ("container_memory_working_set_bytes", used.working_set),
        ("container_threads", used.threads),
    ):
        found.add(family, value, labels)
    if status.started_at is not None:
        found.add("container_start_time_seconds", round(status.started_at, 3), labels)
    if spec is not None and spec.limits.memory is not None:
        found.add("container_spec_memory_limit_bytes", spec.limits.memory, labels)


def _of_probes(found: Samples, labels: Labels, probes: ProbeCount) -> None:
    for result, count in probes.ended.items():
        found.add("tank_probe_total", count, {**labels, "result": result})
    name, ended = "tank_probe_duration_seconds", probes.ended
    found.add(name, round(probes.seconds, 6), labels, ending="_sum")
    found.add(name, ended["successful"] + ended["failed"], labels, ending="_count")
