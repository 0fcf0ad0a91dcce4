"""The verbs about pods and the agent itself, with answers from the journal and the loop."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from tank_agent import __version__
from tank_agent.api import reports, types
from tank_agent.control import elsewhere, last_words
from tank_agent.control.by_hand import ByHand, note_on_plan, started
from tank_agent.control.images import Images
from tank_agent.control.jobs import first_run, run_now
from tank_agent.control.notices import NoNotices, Notices
from tank_agent.control.published import port_report, waits_for_ports, what_it_takes
from tank_agent.control.sessions import Sessions
from tank_agent.control.sources import SYNC_DEADLINE, Sources
from tank_agent.control.status import Statuses
from tank_agent.control.volumes import Storage
from tank_agent.control.why import Why
from tank_agent.errors import InvalidSpec, PodNotFound
from tank_agent.intake.seal import sealed_pods
from tank_agent.journal.records import DesiredPod, NewEvent
from tank_agent.journal.transitions import DELETED
from tank_agent.reconcile.core.actions import (
    Action,
    Forget,
    Record,
    RecordEnd,
    RecordOutOfMemory,
    TakeSnapshot,
)
from tank_agent.reconcile.core.changes import changes
from tank_agent.reconcile.core.content_changes import texts
from tank_agent.reconcile.core.jobs import what_waits
from tank_agent.reconcile.core.phase import Phase
from tank_agent.reconcile.core.plan import simulate
from tank_agent.reconcile.core.proof import proof, proof_of_all, step_words
from tank_agent.reconcile.machine import Machine
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.settings.settings import Settings
from tank_agent.source.directory import snapshot_of_texts
from tank_agent.source.files import revision_of
from tank_agent.spec.beside import Beside, Reading, nothing_beside
from tank_agent.spec.model import Port
from tank_agent.spec.parse import parse_pod_file

# They only take notice of what happened, so a plan does not show them.
_INNER = (RecordOutOfMemory, RecordEnd, Forget)


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
    storage: Storage

    def __post_init__(self) -> None:
        self.journal = self.machine.journal
        self.started = self.machine.clock.monotonic()
        self.statuses = Statuses(
            self.machine, self.reconciler, self.sources, self.images, last_words.reader(self.sessions)
        )
        self.by_hand = ByHand(self.machine, self.reconciler)
        # Replaced once notifications are on.
        self.notices: Notices = NoNotices()
        self._why = Why(self.reconciler, self.statuses, self.sources, self.sessions)

    def list_pods(self) -> Sequence[types.ListedPod]:
        """Return the desired pods in the order of their names."""
        return [self._listed(pod) for _, pod in sorted(self.journal.desired().items())]

    def get(self, name: str) -> types.ListedPod:
        """Return one desired pod, or raise PodNotFound."""
        found = self.journal.get(name)
        if found is None:
            raise PodNotFound(f"there is no pod {name}", hint="`tank list` shows all")
        return self._listed(found)

    def apply(
        self, text: str, file: str, beside: Beside = nothing_beside, *, by: str = ""
    ) -> Sequence[types.AppliedPod]:
        """Check a pod file's text and store its pods for the user `by`; `beside` has the files it names."""
        reading = Reading(beside)
        parsed = parse_pod_file(text, file, beside=reading)
        if parsed.problems:
            raise InvalidSpec(parsed.problems)
        self.sources.refuse_elsewhere(parsed.pods, file)
        pods = sealed_pods(self.sources.intake.secrets, parsed.pods, file)
        before = self.journal.desired()
        revision = revision_of(text.encode(), reading.found)
        try:
            stored = self.journal.put_all(pods, revision, by=by)
        except InvalidSpec as error:
            lines = {found.pod.name: found.after_line for found in parsed.pods}
            placed = (replace(one, file=file, line=lines[one.pod or ""]) for one in error.problems)
            raise InvalidSpec(tuple(placed)) from None
        applied = []
        for pod in stored:
            known = before.get(pod.name)
            change = "created" if known is None else "changed" if known.hash != pod.hash else "unchanged"
            self.reconciler.wake(pod.name, "applied")
            stopped = self.journal.status(pod.name).stopped is not None
            applied.append(
                types.AppliedPod(name=pod.name, change=change, generation=pod.generation, stopped=stopped)
            )
        return applied

    def delete(self, name: str, *, by: str = "") -> bool:
        """Remove a pod from the desired state, or release one that the journal does not know."""
        deleted = self.journal.delete(name, by=by)
        if not deleted and self.reconciler.release(name):
            deleted = True
            self.journal.try_to_record([NewEvent(pod=name, type="deleted", message=DELETED, by=by)])
        if deleted:
            self.reconciler.wake(name, "deleted")
        return deleted

    def status(self, name: str | None = None, *, everywhere: bool = False) -> list[reports.PodReport]:
        """Return the status of a pod, or of all pods and broken files by name (DESIGN section 8).

        With `everywhere`, also of those that files declare for other machines; by its name, one is always
        found.
        """
        if name is not None and self.reconciler.knows(name):
            return [self.statuses.with_last_words(self.statuses.of(name))]
        known = set(self.reconciler.known_pods())
        broken = self.statuses.broken_files(known)
        if name is None:
            found = [*self._with_last_words(map(self.statuses.of, sorted(known))), *broken.values()]
            if everywhere:
                declared = elsewhere.of_journal(self.journal, known | broken.keys())
                found += [elsewhere.pod_report(other, files) for other, files in declared.items()]
            return sorted(found, key=lambda report: report.name)
        if name in broken:
            return [broken[name]]
        files = elsewhere.of_journal(self.journal, known).get(name)
        if files is None:
            raise PodNotFound(f"there is no pod {name}", hint="`tank status` shows all")
        return [elsewhere.pod_report(name, files)]

    def _with_last_words(self, found: Iterable[reports.PodReport]) -> Iterator[reports.PodReport]:
        left = last_words.MOST
        for report in found:
            full = self.statuses.with_last_words(report) if left > 0 else report
            left -= full is not report
            yield full

    def hint_elsewhere(self, name: str) -> str | None:
        """Return a hint for who asks for a pod that is not here, if it is declared for other machines."""
        files = elsewhere.of_journal(self.journal, ()).get(name)
        return elsewhere.hint(name, files) if files is not None else None

    def wait(self, name: str, phase: str, timeout: float) -> reports.PodReport:
        """Return the pod's status once it is in `phase`, or "ready", or after `timeout` seconds."""

        def reached() -> bool:
            if phase == "deleted":
                return not self.reconciler.knows(name)
            if phase == Phase.ELSEWHERE:
                return not self.reconciler.knows(name) and self.hint_elsewhere(name) is not None
            if not self.reconciler.knows(name):
                return False
            view = self.reconciler.view(name)
            return view.ready if phase == types.READY else view.phase == phase

        reached_it = self.reconciler.wait_until(reached, timeout)
        if phase == "deleted" and reached_it:
            return reports.PodReport(name=name, phase="deleted")
        return self.status(name)[0]

    def events(self, after: int, limit: int) -> Sequence[types.ListedEvent]:
        """Return events with a number above `after`, oldest first."""
        return [types.shown(event, types.ListedEvent) for event in self.journal.events(after, limit)]

    def latest_events(self, count: int) -> Sequence[types.ListedEvent]:
        """Return the last events, oldest first."""
        return [types.shown(event, types.ListedEvent) for event in self.journal.latest_events(count)]

    def check_events_of(self, name: str) -> None:
        """Raise PodNotFound for a name that no pod has or had, of which no event is kept either."""
        journal, loop = self.journal, self.reconciler
        if loop.knows(name) or journal.get(name) or journal.last_events(name, 1) or journal.history(name):
            return
        if self.statuses.broken_files(set()).get(name) or self.hint_elsewhere(name):
            return
        close = difflib.get_close_matches(name, loop.known_pods(), 1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise PodNotFound(
            f"there is no pod {name}, and no event of one", hint=f"{guess}`tank list` shows all"
        )

    def wait_for_events(self, after: int, timeout: float) -> bool:
        """Block until there is an event above `after`, at most `timeout` seconds."""
        return self.journal.wait_for_events(after, timeout)

    def history(self, name: str) -> Sequence[types.ListedRevision]:
        """Return the kept revisions of a pod, oldest first, or raise PodNotFound."""
        revisions = self.journal.history(name)
        if not revisions:
            raise PodNotFound(f"there never was a pod {name}")
        return [types.shown(revision, types.ListedRevision) for revision in revisions]

    def run(self, name: str, by: str = "") -> reports.StartedRun:
        """Begin a run of a job for the user `by`; raises as `run_now`."""
        return run_now(self.journal, self.reconciler, name, by)

    def why(self, name: str) -> reports.WhyReport:
        """Return why a pod is as it is, and what would change it, or raise PodNotFound."""
        return self._why.of(name)

    def plan(
        self, files: Mapping[str, str] | None, git: str | None = None, beside: Beside = nothing_beside
    ) -> reports.PlanReport:
        """Return what would be done if pods_dir held `files`, or git were at `git`; neither: what is due.

        `beside` has the files that `files` name.
        """
        before, source = self.journal.desired(), None
        if files is None and git is None:
            after, problems = before, self.journal.problems()
            declared, overlooked = self.journal.elsewhere(), self.journal.overlooked()
        else:
            texts, parse = files or {}, self.sources.parse
            if git is not None:
                snapshot = self.sources.read(git)
            else:
                owners = {pod.owner for pod in before.values()}
                snapshot = self.sources.sealed(snapshot_of_texts(texts, parse, beside, owners))
            state, source = self.journal.preview(snapshot).state, snapshot.source
            after, problems = state.desired, state.all_problems()
            declared, overlooked = state.elsewhere, state.overlooked
        # A plan of one source says nothing of what others leave out.
        sources = (*declared,) if source is None else (source,)
        not_here = elsewhere.not_here((one for kind in sources for one in declared.get(kind, ())), after)
        names = sorted({*before, *after, *self.reconciler.known_pods()})
        networks = self.machine.networks
        ports = {name: networks.wanted_ports(found.pod) for name, found in after.items()}
        waits = waits_for_ports(ports, {name: networks.ports(name) for name in names})
        pods = tuple(
            self._planned(
                name,
                before.get(name),
                after.get(name),
                ports.get(name, ()),
                (*waits.get(name, ()), *(one.why for one in not_here.get(name, ()) if name in before)),
            )
            for name in names
        )
        proofs = {pod.name: pod.proof for pod in pods if pod.proof}
        errors = tuple(str(problem) for problem in problems)
        return reports.PlanReport(
            pods=pods,
            problems=errors,
            proof=proof_of_all(proofs),
            elsewhere=elsewhere.lines(not_here),
            overlooked=tuple(file for kind in sources for file in overlooked.get(kind, ())),
        )

    def sync(
        self, wait: float | None, confirm: str | None = None, within: float | None = None, *, by: str = ""
    ) -> list[reports.PodReport]:
        """Look at every source now; with `wait`, wait up to that many seconds until all pods are settled."""
        limits = [limit for limit in (wait, within) if limit is not None]
        deadline = time.monotonic() + min(limits, default=SYNC_DEADLINE)
        self.sources.sync(confirm, min([SYNC_DEADLINE, *limits]), by=by)
        if wait is not None:
            self.reconciler.wait_until(settled(self.reconciler), max(0.0, deadline - time.monotonic()))
        return self.status()

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
    ) -> reports.PlannedPod:
        situation = self.reconciler.observer.situation(name, after)
        planned = simulate(situation)
        steps = [step for step in planned if not isinstance(step, Record)]
        shown = [step for step in steps if not isinstance(step, _INNER)]
        if after is None:
            change = "remove" if shown or before is not None else "none"
        elif before is None:
            change = "create"
        else:
            change = "update" if shown or before.hash != after.hash else "none"
        # The change of a pod that is stopped is done once that is started.
        to_prove = simulate(started(situation)) if situation.is_stopped and change == "update" else steps
        diff = changes(before.pod, after.pod) if before is not None and after is not None else ()
        now = self.machine.clock.wall()
        takes = what_it_takes(after.pod, ports) if after is not None and change == "create" else ()
        return reports.PlannedPod(
            name=name,
            change=change,
            actions=tuple(step.describe() for step in shown),
            diff=texts(diff),
            notes=(
                *note_on_plan(situation, change),
                *takes,
                *self._copied(after, steps),
                *waits,
                *first_run(before, after, now),
                *what_waits(situation),
            ),
            proof="" if change == "none" else self._proof(name, before, after, to_prove),
        )

    def _copied(self, after: DesiredPod | None, steps: Sequence[Action]) -> Iterator[str]:
        """Yield how much data an update copies, and how long the pod is down for it."""
        names = [name for step in steps if isinstance(step, TakeSnapshot) for name in step.volumes]
        sentence = self.machine.snapshots.cost(after.pod, names) if after is not None else None
        if sentence is not None:
            yield sentence

    def _proof(
        self, name: str, before: DesiredPod | None, after: DesiredPod | None, steps: Sequence[Action]
    ) -> str:
        """Return the hash that the history will have of a change, also of one that is under way."""
        was, will_be = before.hash if before is not None else "", after.hash if after is not None else ""
        done: Sequence[str] = ()
        if before is not None and after is not None and before.generation == after.generation:
            present = next(
                (old for old in self.journal.history(name) if old.generation == after.generation), None
            )
            was = present.before if present is not None else was
            rollout = self.journal.status(name).rollout
            done = rollout.steps if rollout is not None and rollout.generation == after.generation else ()
        return proof(name, was, will_be, (*done, *step_words(steps)))


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
