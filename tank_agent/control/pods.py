"""The verbs about pods and the agent itself, answered from the journal and the loop."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from tank_agent import __version__
from tank_agent.api.reports import ContainerReport, ExitReport, PodReport, ProgressReport, UsageReport
from tank_agent.api.types import (
    AgentInfo,
    AppliedPod,
    ListedEvent,
    ListedPod,
    ListedRevision,
    ManagedVolume,
    PlannedPod,
    PlanReport,
    shown,
)
from tank_agent.control.images import Images
from tank_agent.control.sessions import Sessions
from tank_agent.control.sources import SYNC_DEADLINE, Sources
from tank_agent.errors import InvalidSpec, PodNotFound, Problem, VolumeInUse
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, Exit
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
from tank_agent.spec.parse import parse_pod_file


class Service:
    """The agent, as the API sees it. All methods may be called from many threads.

    `tool_versions` are those of crun and conmon, looked up on demand.
    """

    def __init__(
        self,
        settings: Settings,
        machine: Machine,
        reconciler: Reconciler,
        tool_versions: Callable[[], Mapping[str, str]],
        *,
        sessions: Sessions,
        images: Images,
        sources: Sources,
    ) -> None:
        self.sessions = sessions
        self.images = images
        self.sources = sources
        self._settings = settings
        self._machine = machine
        self._journal: Journal = machine.journal
        self._reconciler = reconciler
        self._tool_versions = tool_versions
        self._started = machine.clock.monotonic()

    def list_pods(self) -> Sequence[ListedPod]:
        """Return the desired pods in the order of their names."""
        desired = self._journal.desired()
        return [shown(desired[name], ListedPod) for name in sorted(desired)]

    def get(self, name: str) -> ListedPod:
        """Return one desired pod, or raise PodNotFound."""
        found = self._journal.get(name)
        if found is None:
            raise PodNotFound(f"there is no pod {name}", hint="`tank list` shows all")
        return shown(found, ListedPod)

    def apply(self, text: str, file: str) -> Sequence[AppliedPod]:
        """Check a pod file's text and store its pods."""
        parsed = parse_pod_file(text, file)
        if parsed.problems:
            raise InvalidSpec(parsed.problems)
        self.sources.refuse_elsewhere(parsed.pods, file)
        before = self._journal.desired()
        revision = hashlib.sha256(text.encode()).hexdigest()[:12]
        stored = self._journal.put_all([found.pod for found in parsed.pods], revision)
        applied = []
        for pod in stored:
            known = before.get(pod.name)
            change = "created" if known is None else "changed" if known.hash != pod.hash else "unchanged"
            self._reconciler.wake(pod.name, "applied")
            applied.append(AppliedPod(name=pod.name, change=change, generation=pod.generation))
        return applied

    def delete(self, name: str) -> bool:
        """Remove a pod from the desired state, or let one go that the journal does not know."""
        deleted = self._journal.delete(name) or self._reconciler.release(name)
        if deleted:
            self._reconciler.wake(name, "deleted")
        return deleted

    def status(self, name: str | None = None) -> list[PodReport]:
        """Return the objects of DESIGN section 8."""
        if name is not None and self._reconciler.knows(name):
            return [self._pod_status(name)]
        known = set(self._reconciler.known_pods())
        broken = self._broken_files(known)
        if name is None:
            objects = {pod: self._pod_status(pod) for pod in known} | broken
            return [objects[pod] for pod in sorted(objects)]
        if name not in broken:
            raise PodNotFound(f"there is no pod {name}", hint="`tank status` shows all")
        return [broken[name]]

    def wait(self, name: str, phase: str, timeout: float) -> PodReport:
        """Return the pod's status once it is in `phase`, or when `timeout` seconds are over."""

        def reached() -> bool:
            if phase == "deleted":
                return not self._reconciler.knows(name)
            return self._reconciler.knows(name) and self._reconciler.view(name).phase == phase

        reached_it = self._reconciler.wait_until(reached, timeout)
        if phase == "deleted" and reached_it:
            return PodReport(name=name, phase="deleted")
        return self.status(name)[0]

    def events(self, after: int, limit: int) -> Sequence[ListedEvent]:
        """Return events with a number above `after`, oldest first."""
        return [shown(event, ListedEvent) for event in self._journal.events(after, limit)]

    def wait_for_events(self, after: int, timeout: float) -> bool:
        """Block until there is an event above `after`, at most `timeout` seconds."""
        return self._journal.wait_for_events(after, timeout)

    def history(self, name: str) -> Sequence[ListedRevision]:
        """Return the kept revisions of a pod, oldest first, or raise PodNotFound."""
        revisions = self._journal.history(name)
        if not revisions:
            raise PodNotFound(f"there never was a pod {name}")
        return [shown(revision, ListedRevision) for revision in revisions]

    def plan(self, files: Mapping[str, str] | None, git: str | None = None) -> PlanReport:
        """Say what would be done if pods_dir held `files`, or git were at `git`; None: what is pending."""
        before = self._journal.desired()
        if files is None and git is None:
            after, problems = dict(before), list(self._journal.problems())
        else:
            snapshot = (
                self.sources.read(git)
                if git is not None
                else snapshot_of_texts(files or {}, parse=self.sources.parse)
            )
            state = self._journal.preview(snapshot).state
            after, problems = dict(state.desired), list(state.all_problems())
        names = sorted({*before, *after, *self._reconciler.known_pods()})
        pods = tuple(self._planned(name, before.get(name), after.get(name)) for name in names)
        return PlanReport(pods=pods, problems=tuple(str(problem) for problem in problems))

    def sync(
        self, wait: float | None, confirm: str | None = None, within: float | None = None
    ) -> list[PodReport]:
        """Look at every source now; with `wait`, until all pods are settled too, within that many seconds."""
        limits = [limit for limit in (wait, within) if limit is not None]
        deadline = time.monotonic() + min(limits, default=SYNC_DEADLINE)
        self.sources.sync(confirm, min([SYNC_DEADLINE, *limits]))
        if wait is not None:
            self._reconciler.wait_until(Settled(self._reconciler), max(0.0, deadline - time.monotonic()))
        return self.status()

    def volumes(self) -> Sequence[ManagedVolume]:
        """Return every managed volume."""
        return [
            ManagedVolume(pod=pod, name=name, path=str(path), in_use=self._uses(pod, name) is not None)
            for pod, name, path in self._machine.containers.volumes.managed()
        ]

    def remove_volume(self, pod: str, name: str) -> bool:
        """Remove a managed volume that no pod has."""

        def check() -> None:
            use = self._uses(pod, name)
            if use is not None:
                raise VolumeInUse(f"volume {pod}/{name} is in use: {use}", hint="remove the pod first")

        # Also of what is there no more: a name that a pod has is in use all the same.
        check()
        return self._machine.containers.volumes.remove(pod, name, check)

    def _uses(self, pod: str, name: str) -> str | None:
        desired = self._journal.get(pod)
        if desired is not None and any(v.name == name and v.host is None for v in desired.pod.volumes):
            return f"pod {pod} has it ({desired.owner})"
        return f"pod {pod} still runs" if self._machine.containers.runs(pod) else None

    def info(self) -> AgentInfo:
        """Return what agent this is."""
        return AgentInfo(
            version=__version__,
            pid=os.getpid(),
            uptime=round(self._machine.clock.monotonic() - self._started, 3),
            data_dir=str(self._settings.data_dir),
            run_dir=str(self._settings.run_dir),
            pods_dir=str(self._settings.pods_dir),
            **self._tool_versions(),
        )

    def _pod_status(self, name: str) -> PodReport:
        desired = self._journal.get(name)
        view = self._reconciler.view(name)
        usage = self._machine.containers.usage(name)
        git, hold = self.sources.pod_report(desired)
        return PodReport(
            name=name,
            phase=str(view.phase),
            owner=desired.owner if desired is not None else "",
            revision=desired.revision if desired is not None else "",
            generation=desired.generation if desired is not None else 0,
            error=view.error,
            git=git,
            hold=hold,
            next_retry=rfc3339(view.next_retry),
            addresses=tuple(self._machine.networks.addresses(name)),
            usage=_usage(usage.values()),
            containers=tuple(_container(container, desired, usage) for container in view.containers),
        )

    def _broken_files(self, known: set[str]) -> dict[str, PodReport]:
        """Return an entry for every file that is wrong and has no pod, so that nobody must read the log."""
        by_name: dict[str, list[Problem]] = {}
        of_directories = self.sources.directory_problems()
        sources = self._journal.sources_of_problems()
        for problem in (problem for problem in self._journal.problems() if problem not in of_directories):
            name = problem.pod or Path(problem.file).name.removesuffix(".toml")
            if name not in known:
                by_name.setdefault(name, []).append(problem)
        return {
            name: PodReport(
                name=name,
                phase=str(Phase.FAILED),
                owner=BY_NAME[sources[problems[0]]].owner(problems[0].file),
                error="\n".join(map(str, problems)),
            )
            for name, problems in by_name.items()
        }

    def _planned(self, name: str, before: DesiredPod | None, after: DesiredPod | None) -> PlannedPod:
        steps = simulate(self._reconciler.situation(name, after))
        if before is None and after is not None:
            change = "create"
        elif after is None:
            change = "remove" if steps or before is not None else "none"
        else:
            differs = before is not None and after is not None and before.hash != after.hash
            change = "update" if differs or steps else "none"
        diff = changes(before.pod, after.pod) if before is not None and after is not None else ()
        return PlannedPod(
            name=name,
            change=change,
            actions=tuple(step.describe() for step in steps),
            diff=tuple(str(line) for line in diff),
        )


class Settled:
    """The condition that all pods are settled; checked after each piece of work, it seldom looks at all."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._waits_for: str | None = None

    def __call__(self) -> bool:
        """Look first at the pod that was waited for last."""
        loop = self._reconciler
        if not loop.idle():
            return False
        known = self._waits_for is not None and loop.knows(self._waits_for)
        if self._waits_for is not None and known and not loop.view(self._waits_for).settled:
            return False
        pods = loop.known_pods()
        self._waits_for = next((pod for pod in pods if not loop.view(pod).settled), None)
        return self._waits_for is None


def _container(
    view: ContainerView, desired: DesiredPod | None, usage: Mapping[str, Usage]
) -> ContainerReport:
    image = view.run.image if view.run is not None else ""
    if not image and desired is not None:
        spec = next((c for c in desired.pod.containers if c.name == view.name), None)
        image = (spec.image or spec.rootfs or "") if spec is not None else ""
    return ContainerReport(
        name=view.name,
        phase=str(view.phase),
        pid=view.run.pid if view.run is not None and view.phase is not Phase.STARTING else None,
        restarts=view.status.restarts,
        image=image,
        progress=None if view.progress is None else shown(view.progress, ProgressReport),
        exit=_exit(view.status.exit),
        usage=_usage([usage[view.name]] if view.name in usage else []),
    )


def _usage(used: Collection[Usage]) -> UsageReport | None:
    """Return the sum of what is used; None where nothing runs."""
    if not used:
        return None
    return UsageReport(
        memory=sum(one.memory for one in used),
        cpu=round(sum(one.cpu for one in used), 3),
        pids=sum(one.pids for one in used),
    )


def _exit(exit_: Exit | None) -> ExitReport | None:
    if exit_ is None:
        return None
    return ExitReport(
        code=exit_.code, signal=exit_.signal, oom=exit_.oom, at=rfc3339(exit_.at), reason=exit_.reason
    )
