"""Follow a repository: poll it, regularly and when a ref on this machine changes or a webhook comes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

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


def poll_delay(interval: float, failures: int, chance: float) -> float:
    """Return the seconds until the next poll, spread by ±10 % by `chance`, a number in [0, 1).

    A failure first shortens the delay: 5 s, 10 s, 20 s, … up to ten minutes, or `interval` if it is longer.
    """
    pace = Pace(base=5.0, cap=max(600.0, interval))
    return (pace.delay(failures - 1) if failures else interval) * (0.9 + 0.2 * chance)


class GitFollower(Follower):
    """Follows one repository; `repository` reads and verifies also other commits of it.

    Args:
        settings: of `[git]`, checked.
        random: returns a number in [0, 1).
        wait: waits on the event for at most so many seconds; tests replace it.
    """

    slow = "git is still being looked at"
    slow_hint = "it continues by itself; `tank git status` shows how far it is"

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
        self._interval = settings.poll
        self._random = random
        self._failures = 0
        self._reported = GitStatus(remote="", ref="")
        # Where pushes are noticed at once, starting Python would take most of the time until containers run.
        local = settings.url.startswith(("/", "file:"))
        self._pool = HelperPool(warm=local or settings.webhook.listen is not None)
        self.repository = GitSource(settings, inbox, on_status=self._record, pool=self._pool)
        self._watcher = None
        if local:
            path = Path(self.repository.remote.path)
            # The repository may have a work tree.
            self._watcher = RefWatcher(path / ".git" if (path / ".git").is_dir() else path, self.wake)
        self._watch_trouble: str | None = None
        self._webhook: WebhookServer | None = None
        self._webhook_trouble: str | None = None
        if settings.webhook.listen is not None:
            try:
                self._webhook = WebhookServer(settings.webhook, self.wake)
            except Stalled as error:
                # Pods run even if the port is taken.
                self._webhook_trouble = error.message

    @property
    def troubles(self) -> tuple[str, ...]:
        """Return why pushes are not noticed at once, as sentences; polling goes on."""
        return tuple(line for line in (self._watch_trouble, self._webhook_trouble) if line is not None)

    def start(self) -> None:
        """Start to follow; the first poll runs in the thread."""
        if self._watcher is not None:
            self._watch_trouble = self._watcher.check()
        if self._webhook is not None:
            self._webhook.start()
        for trouble in self.troubles:
            _log.warning("pushes are seen at the next poll only", trouble=trouble)
        super().start()

    def close(self) -> None:
        """End everything, also a fetch that runs."""
        if self._webhook is not None:
            self._webhook.stop()
        if self._watcher is not None:
            self._watcher.stop()
        self._stopped = True
        self.repository.stop()
        super().close()
        self._pool.close()

    def look(self, cause: str) -> None:
        """Poll the remote, unless suspended; the repository's status has the errors."""
        self._failures += 1
        if self._watcher is not None:
            self._watch_trouble = self._watcher.check()
        status = self.repository.status if self._inbox.suspended() else self.repository.poll()
        if status.fetched.error is None:
            self._failures = 0

    def pause(self) -> float:
        """Return the time until the next poll, longer after failures."""
        return poll_delay(self._interval, self._failures, self._random())

    def _record(self, status: GitStatus) -> None:
        """Log changes of the status, and record them as events."""
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


def follow(inbox: Inbox) -> GitFollower | None:
    """Make the follower of `[git]`, if agent.toml has that table."""
    return None if inbox.settings.git is None else GitFollower(inbox.settings.git, inbox)
