"""The repository that the agent follows, in a thread of its own: the source, and all that wakes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import structlog
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.intake.events import record_events
from tank_agent.journal import ownership
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, NewEvent
from tank_agent.settings.git import GitSettings
from tank_agent.source.git.child import HelperPool
from tank_agent.source.git.schedule import Schedule
from tank_agent.source.git.source import GitSource
from tank_agent.source.git.status import GitStatus
from tank_agent.source.git.webhook import WebhookServer
from tank_agent.source.git.worker import GitWorker
from tank_agent.source.snapshot import Snapshot
from tank_agent.source.watch import RefWatcher
from tank_agent.spec.selectors import Host

_log = structlog.get_logger()


class GitFollower:
    """Follows one repository until it is stopped.

    Args:
        settings: the agent's, checked.
        directory: for our copy of the repository.
        host: what `{hostname}` and selectors look at.
        journal: the desired pods, for the budget, and what must survive a restart.
        publish: merges a snapshot; takes it and the cause.
        suspended: tells whether to leave everything as it is.
    """

    def __init__(
        self,
        settings: GitSettings,
        *,
        directory: Path,
        host: Host,
        journal: Journal,
        publish: Callable[[Snapshot, str], None],
        suspended: Callable[[], bool],
    ) -> None:
        self._journal = journal
        self._suspended = suspended
        self._told = GitStatus(remote="", ref="")
        # Where pushes arrive at once, Python's own start would be most of the way from push to container.
        local = settings.url.startswith(("/", "file:"))
        self._pool = HelperPool(warm=local or settings.webhook.listen is not None)
        self._source = GitSource(
            settings,
            directory=directory,
            host=host,
            current=lambda: owned_pods(journal.desired().values()),
            publish=lambda snapshot: publish(snapshot, f"commit {snapshot.revision[:12]}"),
            remember=journal.remember,
            recall=journal.recall,
            on_status=self._tell,
            pool=self._pool,
        )
        self._worker = GitWorker(
            self, Schedule(interval=settings.poll), before=self._check_watch, on_bug=_bug
        )
        self._watcher = (
            RefWatcher(_refs_of(Path(self._source.remote.path)), self._worker.wake) if local else None
        )
        self._webhook, self._webhook_trouble = self._make_webhook(settings)
        self._watch_trouble: str | None = None

    @property
    def status(self) -> GitStatus:
        """Return how far we are."""
        return self._source.status

    @property
    def troubles(self) -> tuple[str, ...]:
        """Return what keeps pushes from being seen at once, as sentences; polling goes on."""
        return tuple(line for line in (self._watch_trouble, self._webhook_trouble) if line is not None)

    def start(self) -> None:
        """Begin to follow; the first look is in the thread."""
        if self._watcher is not None:
            self._watch_trouble = self._watcher.start()
        if self._webhook is not None:
            self._webhook.start()
        for trouble in self.troubles:
            _log.warning("pushes are seen at the next poll only", trouble=trouble)
        self._worker.start()

    def close(self) -> None:
        """End everything, a fetch that runs included."""
        if self._webhook is not None:
            self._webhook.stop()
        if self._watcher is not None:
            self._watcher.stop()
        self._worker.stop()
        self._pool.close()

    def look(self, timeout: float) -> bool:
        """Look at the remote now; False if that is not done within `timeout` seconds."""
        return self._worker.sync(timeout)

    def wake(self) -> None:
        """Look at the remote soon."""
        self._worker.wake()

    def confirm(self, revision: str | None) -> str:
        """Let a commit through that waits for a nod, and return its name; None is the one that waits now.

        Raises:
            Stalled: none waits, or not this one.
        """
        status = self.status
        waits = status.fetched.revision
        if waits is None or waits == status.applied.revision:
            raise Stalled("no commit waits for a confirmation", hint="`tank git status` tells how far git is")
        self._source.confirm(revision if revision is not None else waits)
        return waits

    def read(self, revision: str) -> Snapshot:
        """Return what a branch, a tag or a commit declares for this machine, without following it.

        Raises:
            TankError: there is none, or it cannot be had.
        """
        return self._source.read(revision)

    def vouch(self, commit: str) -> None:
        """Verify any commit as if it were followed, where [git.verify] asks for that.

        Raises:
            TankError: it is refused, or cannot be had.
        """
        self._source.vouch(commit)

    def is_vouched(self, commit: str) -> bool:
        """Return whether a commit was verified here, or nothing has to be."""
        return self._source.is_vouched(commit)

    def sync(self) -> GitStatus:
        """Look at the remote, unless suspended; for the worker."""
        return self._source.status if self._suspended() else self._source.sync()

    def stop(self) -> None:
        """End a look that runs; for the worker."""
        self._source.stop()

    def _check_watch(self) -> None:
        if self._watcher is not None:
            self._watch_trouble = self._watcher.check()

    def _make_webhook(self, settings: GitSettings) -> tuple[WebhookServer | None, str | None]:
        if settings.webhook.listen is None:
            return None, None
        try:
            return WebhookServer(settings.webhook, self._worker.wake), None
        except Stalled as error:
            # A port that is taken is no reason to run no pods.
            return None, error.message

    def _tell(self, status: GitStatus) -> None:
        """Log and record what is new for people; the journal's trouble is not ours."""
        before, self._told = self._told, status
        events = [
            NewEvent(pod="", type=kind, message=message, revision=status.applied.revision or "")
            for kind, message in _news(before, status)
        ]
        for event in events:
            log = _log.info if event.type == "git-applied" else _log.warning
            log(event.type, message=event.message, revision=event.revision)
        record_events(self._journal, events)


class OwnedPod(Struct, frozen=True):
    """A pod as the budget counts it; `hash` is of what its file declared."""

    name: str
    owner: str
    hash: str


def owned_pods(pods: Iterable[DesiredPod]) -> list[OwnedPod]:
    """Return the pods that a commit could change: none that is suspended, and pinned ones as declared."""
    return [
        OwnedPod(pod.name, pod.owner, pod.hold.declared if pod.hold is not None else pod.hash)
        for pod in pods
        if not ownership.is_suspended(pod)
    ]


def _news(before: GitStatus, now: GitStatus) -> list[tuple[str, str]]:
    news = []
    if now.applied.revision is not None and now.applied.revision != before.applied.revision and now.latest:
        news.append(("git-applied", f"{now.latest.id[:12]} {now.latest.subject} ({now.latest.author})"))
    if now.held is not None and now.held != before.held:
        news.append(("git-held", now.held))
    if now.error is not None and now.error != before.error:
        news.append(("git-error", now.error))
    if now.error is None and before.error is not None:
        news.append(("git-recovered", "the repository is followed again"))
    return news


def _refs_of(repository: Path) -> Path:
    """Return where the refs of a repository with or without a work tree are."""
    return repository / ".git" if (repository / ".git").is_dir() else repository


def _bug(error: Exception) -> None:
    _log.error("following the repository failed by a bug; what runs goes on", exc_info=error)
