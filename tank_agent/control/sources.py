"""The verbs about sources: their reports, suspend, resume, roll back, and the pods of any commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tank_agent.api import reports
from tank_agent.api.types import ListedRevision, shown
from tank_agent.control import elsewhere
from tank_agent.control.rollback import Snapshots, data_of, older_revision, refuse_failed
from tank_agent.errors import InvalidSpec, PodNotFound, Problem, Retry, Stalled
from tank_agent.intake.intake import Intake
from tank_agent.intake.seal import sealed_snapshot
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, NewEvent, Revision
from tank_agent.linux.clock import rfc3339
from tank_agent.settings.git import COMMIT
from tank_agent.source.files import parser_for
from tank_agent.source.git.follower import GitFollower
from tank_agent.source.git.objects import CommitInfo
from tank_agent.source.git.status import StepStatus
from tank_agent.source.kinds import GIT, is_mirrored
from tank_agent.source.snapshot import Snapshot, place_of, source_of
from tank_agent.spec.model import Host, Selector
from tank_agent.spec.parse import ParsedPod
from tank_agent.spec.selection import mismatch, warning

SYNC_DEADLINE = 30.0
_NO_TABLE = "agent.toml has no [git]; what came from there goes on, until `tank delete NAME`"
_STEPS = ("fetched", "verified", "checked", "applied")


@dataclass(eq=False)
class Sources:
    """The sources, as the API sees them. All methods may be called from many threads.

    `host` is this machine, as selectors see it. `places` are, by kind, those of sources without a report of
    their own, such as directories. `snapshots` returns those of a pod's volumes. `commit_status` returns what
    is told of the commit to its forge, if anything is, and `web` where browsers are served, if [web] is set.
    """

    journal: Journal
    intake: Intake
    git: GitFollower | None
    host: Host
    places: Mapping[str, str] = field(default_factory=dict)
    snapshots: Callable[[str], Snapshots] = lambda _: {}
    commit_status: Callable[[], reports.CommitStatusReport | None] = lambda: None
    web: Callable[[], reports.WebReport | None] = lambda: None

    def __post_init__(self) -> None:
        self.parse = parser_for(self.host)
        # Set where notifications are on: `tank status` shows what does not work.
        self.untold: Callable[[], Sequence[str]] = tuple

    def report(self) -> reports.SourcesReport:
        """Return how far the sources are."""
        unstored = self.intake.unstored.errors()
        wrong = {place: unstored.get(source) for source, place in self.places.items()}
        wrong |= {problem.file: str(problem) for problem in self.directory_problems()}
        overlooked = sorted(name for found in self.journal.overlooked().values() for name in found)
        return reports.SourcesReport(
            suspended=self.intake.suspended(),
            directories=tuple(
                reports.DirectoryReport(path=path, error=error) for path, error in wrong.items()
            ),
            git=self._repository_report(),
            elsewhere=elsewhere.summary(
                elsewhere.of_journal(self.journal, self.journal.desired()), self.host.name
            ),
            overlooked=tuple(overlooked[: elsewhere.NAMED]),
            overlooked_count=len(overlooked),
            unusable=len({problem.file for problem in self.journal.problems()}),
            untold=tuple(self.untold()),
            web=self.web(),
        )

    def directory_problems(self) -> Sequence[Problem]:
        """Return the problems of whole directories, for which no pod can be blamed."""
        return [problem for problem in self.journal.problems() if problem.file in self.places.values()]

    def _repository_report(self) -> reports.GitReport | None:
        owned = sum(source_of(pod.owner) == GIT.name for pod in self.journal.desired().values())
        if self.git is None:
            return reports.GitReport(state="error", error=_NO_TABLE, pods=owned) if owned else None
        status = self.git.repository.status
        steps = {name: getattr(status, name) for name in _STEPS}
        told = self.commit_status()
        untold = [_untold(told)] if told is not None and told.error is not None else []
        return reports.GitReport(
            state="suspended" if self.intake.suspended() else status.state,
            remote=status.remote,
            ref=status.ref,
            error=status.error,
            hint=next((step.hint for step in steps.values() if step.error), None),
            held=status.held,
            commit=_commit(status.commit),
            latest=_commit(status.latest),
            looked_at=rfc3339(status.looked_at),
            steps=reports.StepReports(**{name: _step(step) for name, step in steps.items()}),
            troubles=(*self.git.troubles, *untold),
            status=told,
            pods=owned,
            unusable=len(self._unusable()),
        )

    def _unusable(self) -> set[str]:
        """Return the files of the repository that have errors."""
        return {one.file for one, source in self.journal.sources_of_problems().items() if source == GIT.name}

    def pod_report(
        self, pod: DesiredPod | None
    ) -> tuple[reports.PodGitReport | None, reports.HoldReport | None]:
        """Return how a pod stands to its repository, and why it does not follow its file."""
        if pod is None:
            return None, None
        hold: reports.HoldReport | None = None
        if pod.hold is not None:
            since = rfc3339(pod.hold.since)
            hold = reports.HoldReport(kind=pod.hold.kind, since=since, generation=pod.hold.generation or None)
        elif is_mirrored(pod.owner) and self.intake.suspended():
            hold = reports.HoldReport(kind="suspended", since=None, generation=None)
        if source_of(pod.owner) != GIT.name:
            return None, hold
        state, error = self._pod_state(pod, hold)
        git = reports.PodGitReport(
            state=state,
            error=error,
            commit=pod.revision,
            author=pod.author,
            subject=pod.subject,
            file=place_of(pod.owner),
        )
        return git, hold

    def refuse_elsewhere(self, pods: Sequence[ParsedPod], file: str) -> None:
        """Raise InvalidSpec for pods that are meant for other machines, as their selectors say."""
        problems = tuple(
            Problem(file, found.line, "", self._elsewhere(found.selector, why.why), found.pod.name)
            for found in pods
            if (why := mismatch(found.selector, self.host)) is not None
        )
        if problems:
            raise InvalidSpec(problems)

    def _elsewhere(self, selector: Selector, why: str) -> str:
        advice = warning(selector)
        more = f" ({advice})" if advice else ""
        return f"is not meant for this machine ({self.host.name}): {why}{more}"

    def sync(self, confirm: str | None, within: float = SYNC_DEADLINE, *, by: str = "") -> None:
        """Look at every source now, for `within` seconds at most; `confirm` lets a commit through, for `by`.

        "" confirms the commit that waits.

        Raises:
            Stalled: sources are suspended, or no such commit waits.
            Retry: the remote, or the disk of pods_dir, has not answered yet.
        """
        if self.intake.suspended():
            raise Stalled("sources are suspended", hint="`tank resume` follows them again")
        if confirm is not None:
            waits = self._followed().repository.confirm(confirm or None)
            self._record(f"commit {waits[:12]} was confirmed", "git-confirmed", by)
        late = self.intake.look(within)
        if late is not None:
            raise Retry(f"{late.slow} after {within:g} s", hint=late.slow_hint)

    def read(self, revision: str) -> Snapshot:
        """Return what a branch, a tag or a commit declares for this machine, sealed, or raise TankError."""
        return self.sealed(self._followed().repository.read(revision))

    def sealed(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot as it would be merged."""
        return sealed_snapshot(self.intake.secrets, snapshot)

    def suspend(self, name: str | None = None, *, by: str = "") -> reports.SourcesReport:
        """Let a pod, or all pods (None), stay as they are, whatever files and git say; return `report()`.

        Raises:
            PodNotFound: there is no such pod.
            Stalled: it follows no file.
        """
        if name is not None:
            self.journal.suspend(name, by=by)
        elif not self.intake.suspended():
            self.intake.suspend()
            what = "sources are suspended: files and git don't count until `tank resume`"
            self._record(what, "suspended", by)
        return self.report()

    def resume(self, name: str | None = None, *, by: str = "") -> reports.SourcesReport:
        """Let a suspended or pinned pod follow its file again, or (None) all sources; return `report()`.

        Raises:
            PodNotFound: there is no such pod.
            Stalled: everything is suspended, so that a pod alone can't be resumed.
        """
        if name is not None:
            if self.intake.suspended():
                raise Stalled("all sources are suspended", hint="`tank resume` follows them again")
            self.intake.announce(self.journal.resume(name, by=by), "resumed")
        elif self.intake.suspended():
            self._record("sources are followed again", "resumed", by)
            self.intake.resume()
        return self.report()

    def roll_back(
        self, name: str, to: str | None, *, force: bool = False, with_data: bool = False, by: str = ""
    ) -> ListedRevision:
        """Give a pod an older spec, by default the last one before the present that did not fail.

        Return its revision. `force` takes one that failed as an update, too; `with_data` puts the snapshots
        of its volumes back.

        Raises:
            PodNotFound: there is no such pod.
            Stalled: there is no such revision, it is the present one, it failed, or has no snapshot.
            Retry: it is of a commit that [git.verify] refuses, or that cannot be read.
        """
        pod, status = self.journal.get(name), self.journal.status(name)
        if pod is None:
            raise PodNotFound(f"there is no pod {name}", hint="`tank list` shows all")
        kept = self.journal.history(name)
        revision = older_revision(kept, pod, status, to) or self._unkept(pod, to)
        if not force:
            refuse_failed(name, revision, status)
        # Whatever owns the pod now, a spec from git must be one that git would be allowed to declare.
        if self.git is not None and COMMIT.fullmatch(revision.revision):
            self.git.repository.vouch(revision.revision)
        data = data_of(name, revision, kept, status, self.snapshots) if with_data else {}
        self.intake.announce(self.journal.roll_back(name, revision, data, by=by), "rolled back")
        return shown(revision, ListedRevision)

    def _unkept(self, pod: DesiredPod, to: str | None) -> Revision:
        """Return a revision that the journal does not have, of a commit."""
        from_git = self.git is not None and source_of(pod.owner) == GIT.name
        if from_git and to is not None and COMMIT.fullmatch(to):
            return self._of_commit(pod.name, to)
        what = "no older revision" if to is None else f"no revision {to}"
        raise Stalled(
            f"{what} of pod {pod.name} is kept",
            hint=f"`tank history {pod.name}` shows all; of git, name a commit by all of its 40 digits",
        )

    def _of_commit(self, name: str, commit: str) -> Revision:
        snapshot = self.read(commit)
        declared = next((found for found in snapshot.pods if found.pod.name == name), None)
        if declared is None:
            why = next((f": {problem}" for problem in snapshot.problems if problem.pod == name), "")
            raise Stalled(f"commit {commit[:12]} has no valid pod {name} for this machine{why}")
        return Revision(
            generation=0,
            pod=declared.pod,
            owner=declared.owner,
            revision=commit,
            hash="",
            changed_at=0.0,
            author=declared.author,
            subject=declared.subject,
        )

    def _pod_state(self, pod: DesiredPod, hold: reports.HoldReport | None) -> tuple[str, str | None]:
        """Return how a pod of git stands to its repository, in a word, and the error if there is one."""
        if self.git is None:
            return (hold.kind, None) if hold else ("error", _NO_TABLE)
        status = self.git.repository.status
        state, error = status.state, status.error or status.held
        if hold is not None:
            state, error = hold.kind, None
        elif pod.error is not None:
            state, error = "error", pod.error
        elif state == "pending":
            state = "behind"
        if not self.git.repository.is_vouched(pod.revision):
            error = f"commit {pod.revision[:12]} was never verified: it came before [git.verify] was set"
        return state, error

    def _followed(self) -> GitFollower:
        if self.git is None:
            raise Stalled("this agent follows no git repository", hint="see [git] in agent.toml")
        return self.git

    def _record(self, message: str, kind: str, by: str) -> None:
        self.journal.record("", None, [NewEvent(pod="", type=kind, message=message, by=by)])


def _untold(told: reports.CommitStatusReport) -> str:
    """Return in words why the status of the commit is not written."""
    hint = f"; {told.hint}" if told.hint else ""
    return f"the status of the commit is not written: {told.error}{hint}"


def _step(step: StepStatus) -> reports.StepReport:
    return reports.StepReport(revision=step.revision, error=step.error, hint=step.hint, at=rfc3339(step.at))


def _commit(commit: CommitInfo | None) -> reports.CommitReport | None:
    if commit is None:
        return None
    at = rfc3339(commit.at)
    return reports.CommitReport(id=commit.id, author=commit.author, subject=commit.subject, at=at)
