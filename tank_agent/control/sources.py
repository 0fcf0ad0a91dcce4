"""The verbs about sources: how far they are, suspend, resume, roll back, and what any commit would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tank_agent.api.reports import (
    CommitReport,
    DirectoryReport,
    GitReport,
    HoldReport,
    PodGitReport,
    SourcesReport,
    StepReport,
    StepReports,
)
from tank_agent.api.types import ListedRevision, shown
from tank_agent.errors import InvalidSpec, PodNotFound, Problem, Retry, Stalled
from tank_agent.intake.intake import Intake
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, NewEvent, Revision
from tank_agent.linux.clock import rfc3339
from tank_agent.settings.git import COMMIT
from tank_agent.source.files import parser_for
from tank_agent.source.git.follower import GitFollower
from tank_agent.source.git.objects import CommitInfo
from tank_agent.source.git.status import GitStatus, StepStatus
from tank_agent.source.kinds import GIT, is_mirrored
from tank_agent.source.snapshot import Snapshot, place_of, source_of
from tank_agent.spec.parse import ParsedPod
from tank_agent.spec.selectors import Host, selects

SYNC_DEADLINE = 30.0
_NO_TABLE = "agent.toml has no [git]; what came from there goes on, until `tank delete NAME`"
_STEPS = ("fetched", "verified", "checked", "applied")


class Sources:
    """What the API asks about sources. All methods may be called from many threads.

    Args:
        journal: the desired pods.
        sources: files, and the way of all snapshots into the journal.
        git: the repository, if agent.toml names one.
        host: what selectors of pods look at.
        places: of sources that do not report by themselves, such as directories, by kind.
    """

    def __init__(
        self,
        journal: Journal,
        sources: Intake,
        git: GitFollower | None,
        host: Host,
        *,
        places: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.parse = parser_for(host)
        self._journal = journal
        self._sources = sources
        self._git = git
        self._host = host
        self._places = places

    def report(self) -> SourcesReport:
        """Return how far the sources are."""
        unstored = self._sources.unstored.errors()
        wrong = {place: unstored.get(source) for source, place in self._places.items()}
        wrong |= {problem.file: str(problem) for problem in self.directory_problems()}
        return SourcesReport(
            suspended=self._sources.suspended(),
            directories=tuple(DirectoryReport(path=path, error=error) for path, error in wrong.items()),
            git=self._repository_report(),
        )

    def directory_problems(self) -> Sequence[Problem]:
        """Return what is wrong with directories as a whole, so that no pod can be blamed."""
        return [problem for problem in self._journal.problems() if problem.file in self._places.values()]

    def _repository_report(self) -> GitReport | None:
        owned = sum(source_of(pod.owner) == GIT.name for pod in self._journal.desired().values())
        if self._git is not None:
            suspended = self._sources.suspended()
            return _git_report(self._git.status, self._git.troubles, pods=owned, suspended=suspended)
        return GitReport(state="error", error=_NO_TABLE, pods=owned) if owned else None

    def pod_report(self, pod: DesiredPod | None) -> tuple[PodGitReport | None, HoldReport | None]:
        """Return how a pod stands to its repository, and why it does not follow its file."""
        if pod is None:
            return None, None
        hold: HoldReport | None = None
        if pod.hold is not None:
            since = rfc3339(pod.hold.since)
            hold = HoldReport(kind=pod.hold.kind, since=since, generation=pod.hold.generation or None)
        elif is_mirrored(pod.owner) and self._sources.suspended():
            hold = HoldReport(kind="suspended", since=None, generation=None)
        if source_of(pod.owner) != GIT.name:
            return None, hold
        state, error = self._pod_state(pod, None if hold is None else hold.kind)
        git = PodGitReport(
            state=state,
            error=self._unverified(pod) or error,
            commit=pod.revision,
            author=pod.author,
            subject=pod.subject,
            file=place_of(pod.owner),
        )
        return git, hold

    def refuse_elsewhere(self, pods: Sequence[ParsedPod], file: str) -> None:
        """Raise InvalidSpec for pods that are meant for other machines, as their selectors say."""
        problems = tuple(
            Problem(
                file, found.line, "", f"is not meant for this machine ({self._host.name})", found.pod.name
            )
            for found in pods
            if not selects(found.selector, self._host)
        )
        if problems:
            raise InvalidSpec(problems)

    def sync(self, confirm: str | None, within: float = SYNC_DEADLINE) -> None:
        """Look at every source now; `confirm` lets a commit through, "" the one that waits.

        `within` seconds it has ended, however many sources don't answer.

        Raises:
            Stalled: sources are suspended, or no such commit waits.
            Retry: the remote, or the disk of pods_dir, has not answered yet.
        """
        if self._sources.suspended():
            raise Stalled("sources are suspended", hint="`tank resume` follows them again")
        if confirm is not None:
            waits = self._followed().confirm(confirm or None)
            self._record(f"commit {waits[:12]} was confirmed", "git-confirmed")
        late = self._sources.look(within)
        if late is not None:
            raise Retry(f"{late.slow} after {within:g} s", hint=late.slow_hint)

    def read(self, revision: str) -> Snapshot:
        """Return what a branch, a tag or a commit declares for this machine.

        Raises:
            TankError: it cannot be had.
        """
        return self._followed().repository.read(revision)

    def suspend(self, name: str | None) -> None:
        """Let a pod, or all pods (None), stay as they are, whatever files and git say.

        Raises:
            PodNotFound: there is none of that name.
            Stalled: it follows no file.
        """
        if name is not None:
            self._journal.suspend(name)
        elif not self._sources.suspended():
            self._sources.suspend()
            self._record("sources are suspended: files and git don't count until `tank resume`", "suspended")

    def resume(self, name: str | None) -> None:
        """Let a pod follow its file again, suspended or pinned; None: all that was suspended as a whole.

        Raises:
            PodNotFound: there is none of that name.
            Stalled: everything is suspended, so that a pod alone can't be resumed.
        """
        if name is not None:
            if self._sources.suspended():
                raise Stalled("all sources are suspended", hint="`tank resume` follows them again")
            self._sources.announce(self._journal.resume(name), "resumed")
        elif self._sources.suspended():
            self._record("sources are followed again", "resumed")
            self._sources.resume()

    def roll_back(self, name: str, to: str | None) -> ListedRevision:
        """Give a pod an older spec, and return that; None: the one before the present.

        Raises:
            PodNotFound: there is no such pod.
            Stalled: there is no such revision, or it is the present one.
            Retry: it is a commit's, which [git.verify] refuses or which cannot be read.
        """
        pod = self._journal.get(name)
        if pod is None:
            raise PodNotFound(f"there is no pod {name}", hint="`tank list` shows all")
        revision = self._older(pod, to)
        # Whoever owns the pod now: a text of git counts where git's own way in would let it through.
        if self._git is not None and COMMIT.fullmatch(revision.revision):
            self._git.repository.vouch(revision.revision)
        self._sources.announce(self._journal.roll_back(name, revision), "rolled back")
        return shown(revision, ListedRevision)

    def _older(self, pod: DesiredPod, to: str | None) -> Revision:
        kept = [found for found in self._journal.history(pod.name) if found.generation <= pod.generation]
        if to is None:
            # Twice in a row goes back twice, not forth again.
            restored = {old.generation: old.restored for old in kept}
            present = pod.generation
            while (origin := restored.get(present)) is not None:
                present = origin
            found = [old for old in kept if old.generation < present and old.hash != pod.hash]
        elif to.isascii() and to.isdigit() and any(old.generation == int(to) for old in kept):
            found = [old for old in kept if old.generation == int(to)]
        else:
            found = [old for old in kept if len(to) >= 4 and old.revision.startswith(to)]
        if found:
            return found[-1]
        if (
            to is not None
            and COMMIT.fullmatch(to)
            and self._git is not None
            and source_of(pod.owner) == GIT.name
        ):
            return self._of_commit(pod.name, to)
        what = "no older revision" if to is None else f"no revision {to}"
        raise Stalled(
            f"{what} of pod {pod.name} is kept",
            hint=f"`tank history {pod.name}` shows all; of git, name a commit by all of its 40 digits",
        )

    def _of_commit(self, name: str, commit: str) -> Revision:
        for declared in self.read(commit).pods:
            if declared.pod.name == name:
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
        raise Stalled(f"commit {commit[:12]} has no valid pod {name} for this machine")

    def _pod_state(self, pod: DesiredPod, hold: str | None) -> tuple[str, str | None]:
        if hold is not None:
            return hold, None
        if self._git is None:
            return "error", _NO_TABLE
        if pod.error is not None:
            return "error", pod.error
        status = self._git.status
        state = "behind" if status.state == "pending" else status.state
        return state, status.error or status.held

    def _unverified(self, pod: DesiredPod) -> str | None:
        if self._git is None or self._git.repository.is_vouched(pod.revision):
            return None
        return f"commit {pod.revision[:12]} was never verified: it came before [git.verify] was set"

    def _followed(self) -> GitFollower:
        if self._git is None:
            raise Stalled("this agent follows no git repository", hint="see [git] in agent.toml")
        return self._git

    def _record(self, message: str, kind: str) -> None:
        self._journal.record("", None, [NewEvent(pod="", type=kind, message=message)])


def _git_report(status: GitStatus, troubles: tuple[str, ...], *, pods: int, suspended: bool) -> GitReport:
    return GitReport(
        state="suspended" if suspended else status.state,
        remote=status.remote,
        ref=status.ref,
        error=status.error,
        hint=next((step.hint for step in map(status.__getattribute__, _STEPS) if step.error), None),
        held=status.held,
        commit=_commit(status.commit),
        latest=_commit(status.latest),
        looked_at=rfc3339(status.looked_at),
        steps=StepReports(**{name: _step(getattr(status, name)) for name in _STEPS}),
        troubles=troubles,
        pods=pods,
    )


def _step(step: StepStatus) -> StepReport:
    return StepReport(revision=step.revision, error=step.error, hint=step.hint, at=rfc3339(step.at))


def _commit(commit: CommitInfo | None) -> CommitReport | None:
    if commit is None:
        return None
    at = rfc3339(commit.at)
    return CommitReport(id=commit.id, author=commit.author, subject=commit.subject, at=at)
