"""The verbs about pods and the agent itself, with answers from the journal and the loop."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from tank_agent import __version__
from tank_agent.api import reports, types
from tank_agent.control.images import Images
from tank_agent.control.published import port_report, waits_for_ports, what_it_takes
from tank_agent.control.sessions import Sessions
from tank_agent.control.sources import SYNC_DEADLINE, Sources
from tank_agent.errors import InvalidSpec, PodNotFound, Problem, VolumeInUse
from tank_agent.journal.records import DesiredPod
from tank_agent.linux.clock import rfc3339
from tank_agent.reconcile.core.changes import changes
from tank_agent.reconcile.core.phase import ContainerView, Phase
from tank_agent.reconcile.core.plan import simulate
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.reconcile.steps import Machine
from tank_agent.runtime.limits.limits import Usage
from tank_agent.settings.settings import Settings
from tank_agent.source.directory import snapshot_of_texts
from tank_agent.source.kinds import BY_NAME
from tank_agent.spec.model import Port
from tank_agent.spec.parse import parse_pod_file


@dataclass(eq=False)
class Service:
    """The agent, as the API sees it. All methods may be called from many threads.

    `tool_versions` are those of crun and conmon, looked up on demand.
    """

    settings: Settings
    machine: Machine
    reconciler: Reconciler
    tool_versions: Callable[[], Mapping[str, str]]
    sessions: Sessions
    images: Images
    sources: Sources

    def __post_init__(self) -> None:
        self.journal = self.machine.journal
        self.started = self.machine.clock.monotonic()

    def list_pods(self) -> Sequence[types.ListedPod]:
        """Return the desired pods in the order of their names."""
        return [self._listed(pod) for _, pod in sorted(self.journal.desired().items())]

    def get(self, name: str) -> types.ListedPod:
        """Return one desired pod, or raise PodNotFound."""
        found = self.journal.get(name)
        if found is None:
            raise PodNotFound(f"there is no pod {name}", hint="`tank list` shows all")
        return self._listed(found)

    def apply(self, text: str, file: str) -> Sequence[types.AppliedPod]:
        """Check a pod file's text and store its pods."""
        parsed = parse_pod_file(text, file)
        if parsed.problems:
            raise InvalidSpec(parsed.problems)
        self.sources.refuse_elsewhere(parsed.pods, file)
        before = self.journal.desired()
        revision = hashlib.sha256(text.encode()).hexdigest()[:12]
        stored = self.journal.put_all([found.pod for found in parsed.pods], revision)
        applied = []
        for pod in stored:
            known = before.get(pod.name)
            change = "created" if known is None else "changed" if known.hash != pod.hash else "unchanged"
            self.reconciler.wake(pod.name, "applied")
            applied.append(types.AppliedPod(name=pod.name, change=change, generation=pod.generation))
        return applied

    def delete(self, name: str) -> bool:
        """Remove a pod from the desired state, or release one that the journal does not know."""
        deleted = self.journal.delete(name) or self.reconciler.release(name)
        if deleted:
            self.reconciler.wake(name, "deleted")
        return deleted

    def status(self, name: str | None = None) -> list[reports.PodReport]:
        """Return the status of a pod, or of all pods and broken files by name (DESIGN section 8)."""
        if name is not None and self.reconciler.knows(name):
            return [self._pod_status(name)]
        known = set(self.reconciler.known_pods())
        broken = self._broken_files(known)
        if name is None:
            found = [*map(self._pod_status, known), *broken.values()]
            return sorted(found, key=lambda report: report.name)
        if name not in broken:
            raise PodNotFound(f"there is no pod {name}", hint="`tank status` shows all")
        return [broken[name]]

    def wait(self, name: str, phase: str, timeout: float) -> reports.PodReport:
        """Return the pod's status once it is in `phase`, or after `timeout` seconds."""

        def reached() -> bool:
            if phase == "deleted":
                return not self.reconciler.knows(name)
            return self.reconciler.knows(name) and self.reconciler.view(name).phase == phase

        reached_it = self.reconciler.wait_until(reached, timeout)
        if phase == "deleted" and reached_it:
            return reports.PodReport(name=name, phase="deleted")
        return self.status(name)[0]

    def events(self, after: int, limit: int) -> Sequence[types.ListedEvent]:
        """Return events with a number above `after`, oldest first."""
        return [types.shown(event, types.ListedEvent) for event in self.journal.events(after, limit)]

    def wait_for_events(self, after: int, timeout: float) -> bool:
        """Block until there is an event above `after`, at most `timeout` seconds."""
        return self.journal.wait_for_events(after, timeout)

    def history(self, name: str) -> Sequence[types.ListedRevision]:
        """Return the kept revisions of a pod, oldest first, or raise PodNotFound."""
        revisions = self.journal.history(name)
        if not revisions:
            raise PodNotFound(f"there never was a pod {name}")
        return [types.shown(revision, types.ListedRevision) for revision in revisions]

    def plan(self, files: Mapping[str, str] | None, git: str | None = None) -> types.PlanReport:
        """Return what would be done if pods_dir held `files`, or git were at `git`; neither: what is due."""
        before = self.journal.desired()
        if files is None and git is None:
            after, problems = before, self.journal.problems()
        else:
            texts, parse = files or {}, self.sources.parse
            snapshot = self.sources.read(git) if git is not None else snapshot_of_texts(texts, parse=parse)
            state = self.journal.preview(snapshot).state
            after, problems = state.desired, state.all_problems()
        names = sorted({*before, *after, *self.reconciler.known_pods()})
        networks = self.machine.networks
        ports = {name: networks.wanted_ports(found.pod) for name, found in after.items()}
        waits = waits_for_ports(ports, {name: networks.ports(name) for name in names})
        pods = tuple(
            self._planned(name, before.get(name), after.get(name), ports.get(name, ()), waits.get(name, ()))
            for name in names
        )
        return types.PlanReport(pods=pods, problems=tuple(str(problem) for problem in problems))

    def sync(
        self, wait: float | None, confirm: str | None = None, within: float | None = None
    ) -> list[reports.PodReport]:
        """Look at every source now; with `wait`, wait up to that many seconds until all pods are settled."""
        limits = [limit for limit in (wait, within) if limit is not None]
        deadline = time.monotonic() + min(limits, default=SYNC_DEADLINE)
        self.sources.sync(confirm, min([SYNC_DEADLINE, *limits]))
        if wait is not None:
            self.reconciler.wait_until(settled(self.reconciler), max(0.0, deadline - time.monotonic()))
        return self.status()

    def volumes(self) -> Sequence[types.ManagedVolume]:
        """Return every managed volume."""
        return [
            types.ManagedVolume(pod=pod, name=name, path=str(path), in_use=self._uses(pod, name) is not None)
            for pod, name, path in self.machine.containers.volumes.managed()
        ]

    def remove_volume(self, pod: str, name: str) -> bool:
        """Remove a managed volume that no pod has."""

        def check() -> None:
            use = self._uses(pod, name)
            if use is not None:
                raise VolumeInUse(f"volume {pod}/{name} is in use: {use}", hint="remove the pod first")

        # A name that a pod has is in use even if the volume is gone.
        check()
        return self.machine.containers.volumes.remove(pod, name, check)

    def _uses(self, pod: str, name: str) -> str | None:
        desired = self.journal.get(pod)
        if desired is not None and any(v.name == name and v.host is None for v in desired.pod.volumes):
            return f"pod {pod} has it ({desired.owner})"
        return f"pod {pod} still runs" if self.machine.containers.runs(pod) else None

    def info(self) -> types.AgentInfo:
        """Return the agent's version, process, uptime, directories and tools."""
        return types.AgentInfo(
            version=__version__,
            pid=os.getpid(),
            uptime=round(self.machine.clock.monotonic() - self.started, 3),
            data_dir=str(self.settings.data_dir),
            run_dir=str(self.settings.run_dir),
            pods_dir=str(self.settings.pods_dir),
            **self.tool_versions(),
        )

    def _pod_status(self, name: str) -> reports.PodReport:
        desired = self.journal.get(name)
        view = self.reconciler.view(name)
        usage = self.machine.containers.usage(name)
        git, hold = self.sources.pod_report(desired)
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
            addresses=tuple(self.machine.networks.addresses(name)),
            bridges=self.machine.networks.leases(name),
            ports=tuple(map(port_report, self.machine.networks.ports(name))),
            warnings=self.machine.networks.warnings(name),
            usage=_usage(usage.values()),
            containers=tuple(_container(container, desired, usage) for container in view.containers),
        )

    def _broken_files(self, known: set[str]) -> dict[str, reports.PodReport]:
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

    def _listed(self, pod: DesiredPod) -> types.ListedPod:
        ports = map(port_report, self.machine.networks.wanted_ports(pod.pod))
        return replace(types.shown(pod, types.ListedPod), ports=tuple(ports))

    def _planned(
        self,
        name: str,
        before: DesiredPod | None,
        after: DesiredPod | None,
        ports: Sequence[Port],
        waits: Sequence[str],
    ) -> types.PlannedPod:
        steps = simulate(self.reconciler.situation(name, after))
        if after is None:
            change = "remove" if steps or before is not None else "none"
        elif before is None:
            change = "create"
        else:
            change = "update" if steps or before.hash != after.hash else "none"
        diff = changes(before.pod, after.pod) if before is not None and after is not None else ()
        takes = what_it_takes(after.pod, ports) if after is not None and change == "create" else ()
        return types.PlannedPod(
            name=name,
            change=change,
            actions=tuple(step.describe() for step in steps),
            diff=tuple(str(line) for line in diff),
            notes=(*takes, *waits),
        )


def settled(loop: Reconciler) -> Callable[[], bool]:
    """Return the condition that all pods are settled, which is cheap to check after each piece of work."""
    unsettled: str | None = None

    def check() -> bool:
        nonlocal unsettled
        # The pod that was not settled at the last look is looked at first.
        if not loop.idle() or (unsettled and loop.knows(unsettled) and not loop.view(unsettled).settled):
            return False
        unsettled = next((pod for pod in loop.known_pods() if not loop.view(pod).settled), None)
        return unsettled is None

    return check


def _container(
    view: ContainerView, desired: DesiredPod | None, usage: Mapping[str, Usage]
) -> reports.ContainerReport:
    image = view.run.image if view.run is not None else ""
    if not image and desired is not None:
        specs = (spec for spec in desired.pod.containers if spec.name == view.name)
        image = next((spec.image or spec.rootfs or "" for spec in specs), "")
    exited, end = None, view.status.exit
    if end is not None:
        at = rfc3339(end.at)
        exited = reports.ExitReport(code=end.code, signal=end.signal, oom=end.oom, at=at, reason=end.reason)
    return reports.ContainerReport(
        name=view.name,
        phase=str(view.phase),
        pid=view.run.pid if view.run is not None and view.phase is not Phase.STARTING else None,
        restarts=view.status.restarts,
        image=image,
        progress=None if view.progress is None else types.shown(view.progress, reports.ProgressReport),
        exit=exited,
        usage=_usage([usage[view.name]] if view.name in usage else []),
    )


def _usage(used: Collection[Usage]) -> reports.UsageReport | None:
    """Return the sum of what containers use; None where none runs."""
    if not used:
        return None
    return reports.UsageReport(
        memory=sum(one.memory for one in used),
        cpu=round(sum(one.cpu for one in used), 3),
        pids=sum(one.pids for one in used),
    )
