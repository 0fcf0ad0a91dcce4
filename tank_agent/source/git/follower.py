"""Follow a repository: poll it at a pace, and at once when a ref here changes or a webhook comes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.retry import Pace
from tank_agent.settings.git import GitSettings
from tank_agent.source.follower import Follower, Inbox
from tank_agent.source.git.child import HelperPool
from tank_agent.source.git.source import GitSource
from tank_agent.source.git.status import GitStatus
from tank_agent.source.git.webhook import WebhookServer
from tank_agent.source.kinds import GIT
from tank_agent.source.watch import RefWatcher

_log = structlog.get_logger()


class Schedule(Struct, frozen=True, kw_only=True):
    """Poll every `interval` seconds; after failures wait longer, at most `cap`; spread hosts by `jitter`.

    A failure first *shortens* the wait, so that a hiccup is short: 5 s, 10 s, 20 s, … up to `cap`.
    """

    interval: float
    jitter: float = 0.1
    first_retry: float = 5.0
    cap: float = 600.0

    def delay(self, failures: int, random: Callable[[], float]) -> float:
        """Return the seconds until the next poll; `random` returns a number in [0, 1)."""
        base = self.interval
        if failures:
            pace = Pace(base=self.first_retry, cap=max(self.cap, self.interval))
            base = pace.delay(failures - 1)
        return base * (1 - self.jitter + 2 * self.jitter * random())


class GitFollower(Follower):
    """Follows one repository; `repository` reads and verifies any other commit of it.

    Args:
        settings: of `[git]`, checked.
        random: returns a number in [0, 1).
        wait: waits on the event for at most so many seconds; tests steer time with it.
    """

    slow = "git is still being looked at"
    slow_hint = "it goes on by itself; `tank git status` tells how far it is"

    def __init__(
        self,
        settings: GitSettings,
        inbox: Inbox,
        *,
        random: Callable[[], float] = random.random,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        super().__init__(GIT.name, wait=wait)
        self._inbox = inbox
        self._schedule = Schedule(interval=settings.poll)
        self._random = random
        self._failures = 0
        self._reported = GitStatus(remote="", ref="")
        # Where pushes arrive at once, Python's own start would be most of the way from push to container.
        local = settings.url.startswith(("/", "file:"))
        self._pool = HelperPool(warm=local or settings.webhook.listen is not None)
        self.repository = GitSource(
            settings,
            directory=inbox.settings.data_dir / "git",
            host=inbox.host,
            current=inbox.owned,
            publish=lambda snapshot: inbox.publish(snapshot, f"commit {snapshot.revision[:12]}"),
            remember=inbox.remember,
            recall=inbox.recall,
            on_status=self._record,
            pool=self._pool,
        )
        self._watcher = RefWatcher(_refs_of(Path(self.repository.remote.path)), self.wake) if local else None
        self._watch_trouble: str | None = None
        self._webhook: WebhookServer | None = None
        self._webhook_trouble: str | None = None
        if settings.webhook.listen is not None:
            try:
                self._webhook = WebhookServer(settings.webhook, self.wake)
            except Stalled as error:
                # A port that is taken is no reason to run no pods.
                self._webhook_trouble = error.message

    @property
    def status(self) -> GitStatus:
        """Return how far the machine follows the repository."""
        return self.repository.status

    @property
    def troubles(self) -> tuple[str, ...]:
        """Return what keeps pushes from being seen at once, as sentences; polling goes on."""
        return tuple(line for line in (self._watch_trouble, self._webhook_trouble) if line is not None)

    def start(self) -> None:
        """Begin to follow; the first poll is in the thread."""
        if self._watcher is not None:
            self._watch_trouble = self._watcher.check()
        if self._webhook is not None:
            self._webhook.start()
        for trouble in self.troubles:
            _log.warning("pushes are seen at the next poll only", trouble=trouble)
        super().start()

    def close(self) -> None:
        """End everything, a fetch that runs included."""
        if self._webhook is not None:
            self._webhook.stop()
        if self._watcher is not None:
            self._watcher.stop()
        self._stopped = True
        self.repository.stop()
        super().close()
        self._pool.close()

    def look(self, cause: str) -> None:
        """Poll the remote, unless suspended; the repository keeps its own errors."""
        self._failures += 1
        if self._watcher is not None:
            self._watch_trouble = self._watcher.check()
        status = self.status if self._inbox.suspended() else self.repository.poll()
        if status.fetched.error is None:
            self._failures = 0

    def pause(self) -> float:
        """Return the time until the next poll, longer after failures."""
        return self._schedule.delay(self._failures, self._random)

    def confirm(self, revision: str | None) -> str:
        """Let a commit through that waits for a nod, and return its name; None is the one that waits now.

        Raises:
            Stalled: none waits, or not this one.
        """
        status = self.status
        waits = status.fetched.revision
        if waits is None or waits == status.applied.revision:
            raise Stalled("no commit waits for a confirmation", hint="`tank git status` tells how far git is")
        self.repository.confirm(revision if revision is not None else waits)
        return waits

    def _record(self, status: GitStatus) -> None:
        """Log and record what changed for people."""
        before, self._reported = self._reported, status
        revision = status.applied.revision or ""
        for kind, message in _changes(before, status):
            log = _log.info if kind == "git-applied" else _log.warning
            log(kind, message=message, revision=revision)
            self._inbox.record_event(kind, message, revision)


def _changes(before: GitStatus, now: GitStatus) -> list[tuple[str, str]]:
    changes = []
    if now.applied.revision is not None and now.applied.revision != before.applied.revision and now.latest:
        changes.append(("git-applied", f"{now.latest.id[:12]} {now.latest.subject} ({now.latest.author})"))
    if now.held is not None and now.held != before.held:
        changes.append(("git-held", now.held))
    if now.error is not None and now.error != before.error:
        changes.append(("git-error", now.error))
    if now.error is None and before.error is not None:
        changes.append(("git-recovered", "the repository is followed again"))
    return changes


def _refs_of(repository: Path) -> Path:
    """Return where the refs of a repository with or without a work tree are."""
    return repository / ".git" if (repository / ".git").is_dir() else repository


def follow(inbox: Inbox) -> GitFollower | None:
    """Make the follower of `[git]`, if there is that table."""
    return None if inbox.settings.git is None else GitFollower(inbox.settings.git, inbox)
