"""Write the status of the commit that this machine follows to the forge that has the repository.

One thread, which looks when something happened, and else every half minute. Whatever the forge does, nothing
waits for it but this thread.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import Stalled, TankError
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent
from tank_agent.linux.clock import Clock, rfc3339
from tank_agent.linux.fault import point
from tank_agent.linux.paths import NotReadableError
from tank_agent.outward.commit_status import (
    CommitStatus,
    Outbox,
    SentStatus,
    Standing,
    lose_patience,
    of_commit,
    standing,
)
from tank_agent.outward.forges import ForgeAnswer, Meaning, StatusRequest, meaning, request
from tank_agent.reconcile.core.observed import Situation
from tank_agent.retry import Pace
from tank_agent.runtime.secrets.identities import Mark, mark_of, read_key
from tank_agent.settings.git import GitSettings
from tank_agent.settings.git_status import target
from tank_agent.source.git.status import GitStatus
from tank_agent.source.kinds import GIT
from tank_agent.source.snapshot import source_of

_log = structlog.get_logger()
_MEMORY = "git.status.sent"
# What has no event, such as the end of a stop, is seen so late (seconds).
_LOOK_EVERY = 30.0
# The shortest time between two looks, whatever happens.
_BREATH = 0.25
_JOIN = 5.0
# Seconds that an agent which stops waits for an answer; without it, the next agent sends the status again.
_MOMENT = 2.0
_SOON = Pace(base=5.0, cap=600.0)
# For what a person has to mend.
_SELDOM = Pace(base=60.0, cap=3600.0)
# A trouble that may pass by itself is told after so many tries.
_TOLD_FROM = 3
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
Send = Callable[[StatusRequest], ForgeAnswer]


class Trouble(Struct, frozen=True, kw_only=True):
    """Why a status could not be written: one sentence, and what to do about it."""

    error: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.error}; {self.hint}" if self.hint else self.error


class Written(Struct, frozen=True, kw_only=True):
    """What the forge has from this machine, as `api.reports.CommitStatusReport` has it."""

    context: str
    project: str
    commit: str | None
    state: str | None
    at: str | None
    error: str | None
    hint: str | None


class Outlook(Struct, frozen=True, kw_only=True):
    """Where the writer looks.

    `git` returns how far the repository is followed, `look` the situation of a pod that is desired.
    """

    journal: Journal
    git: Callable[[], GitStatus]
    look: Callable[[str], Situation]


def status_now(facts: Outlook, since: dict[str, float], now: float) -> CommitStatus | None:
    """Return what to say of the newest commit now; `since` is brought up to date, see `lose_patience`."""
    # Before the pods: what it applied is in the journal by then.
    git, journal = facts.git(), facts.journal
    desired = [pod for _, pod in sorted(journal.desired().items()) if source_of(pod.owner) == GIT.name]
    known = journal.statuses()
    empty = journal.status("")
    found = (standing(pod, known.get(pod.name, empty), partial(facts.look, pod.name)) for pod in desired)
    standings: Sequence[Standing]
    standings, stuck = lose_patience(found, since, now)
    since.clear()
    since.update(stuck)
    # After them: a pod that is gone by now is of a newer commit.
    if facts.git() is not git:
        return None
    sources = journal.sources_of_problems()
    problems = [str(problem) for problem, source in sources.items() if source == GIT.name]
    return of_commit(git, problems, standings)


class StatusWriter:
    """Keeps the forge's status of the newest commit right; begins with `start`.

    Args:
        settings: of `[git]`, checked, with its `status`.
        host: the name that {hostname} stands for.
        facts: where it looks.
        send: makes a request; TankError if there is no answer.
        cut: ends the request that is under way.
        clock: of the machine.
        chance: returns a number in [0, 1).
    """

    def __init__(
        self,
        settings: GitSettings,
        host: str,
        facts: Outlook,
        send: Send,
        *,
        cut: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        assert settings.status is not None
        self._settings = settings.status
        self._target = target(settings.status, settings.url)
        self._context = settings.status.context.replace("{hostname}", host)
        link = settings.status.link
        self._link = link.replace("{hostname}", host) if link is not None else None
        self._facts, self._journal = facts, facts.journal
        self._send, self._cut = send, cut
        self._clock, self._chance = clock or Clock(), chance
        place = f"{self._target.api}/{self._target.project}#{self._context}"
        self._outbox = Outbox(place=place, sent=self._recall())
        self._stuck: dict[str, float] = {}
        self._trouble: Trouble | None = None
        self._told: Trouble | None = None
        self._tried_with: Mark = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="git-status", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; a request that is under way has a moment to end."""
        self._stopped = True
        self._journal.stir()
        if self._thread.ident is not None:
            self._thread.join(_MOMENT)
            self._cut()
            self._thread.join(_JOIN)

    def report(self) -> Written:
        """Return what the forge has, and what is wrong; from any thread."""
        outbox, trouble = self._outbox, self._trouble
        sent = outbox.sent if outbox.sent is not None and outbox.sent.place == outbox.place else None
        return Written(
            context=self._context,
            project=self._target.project,
            commit=sent.sha if sent is not None else None,
            state=sent.state if sent is not None else None,
            at=rfc3339(sent.at) if sent is not None and sent.at else None,
            error=trouble.error if trouble is not None else None,
            hint=trouble.hint or None if trouble is not None else None,
        )

    def turn(self) -> float:
        """Look, send what is due, and return the seconds until the next look that is due by itself."""
        now = self._clock.monotonic()
        wanted = status_now(self._facts, self._stuck, now)
        self._outbox = self._outbox.wanting(wanted, now)
        mark = mark_of(self._settings.token_file)
        if self._outbox.failures and mark != self._tried_with:
            # Somebody wrote another token.
            self._outbox = replace(self._outbox, retry_at=now)
        due = self._outbox.due_in(now)
        if due == 0.0 and self._outbox.wanted is not None:
            self._tried_with = mark
            self._write(self._outbox.wanted)
            due = self._outbox.due_in(self._clock.monotonic())
        return _LOOK_EVERY if due is None else min(due, _LOOK_EVERY)

    def _run(self) -> None:
        while not self._stopped:
            try:
                seen = self._journal.last_event()
                wait = self.turn()
                self._breathe()
                self._journal.wait_for_events(seen, max(wait - _BREATH, 0.0), or_if=lambda: self._stopped)
            except TankError as error:
                # Such as a journal that can't be written; that is told elsewhere.
                _log.warning("cannot keep the status of the commit", error=str(error))
                self._pause(_LOOK_EVERY)
            except Exception:
                _log.exception("writing the status of the commit failed by a bug")
                self._pause(_LOOK_EVERY)

    def _breathe(self) -> None:
        self._pause(_BREATH)

    def _pause(self, seconds: float) -> None:
        """Wait, whatever happens but the end of the agent."""
        deadline = self._clock.monotonic() + seconds
        while not self._stopped and (left := deadline - self._clock.monotonic()) > 0:
            try:
                self._journal.wait_for_events(1 << 62, left, or_if=lambda: self._stopped)
            except TankError:
                # It is closed.
                return

    def _write(self, status: CommitStatus) -> None:
        token = ""
        try:
            token = _token(self._settings.token_file)
            point("status:due")
            asked = request(self._target, token, status, self._context, self._link)
            answer = self._send(asked)
            point("status:sent")
        except Stalled as error:
            self._failed(Meaning(kind="denied", error=error.message, hint=error.hint or ""))
            return
        except TankError as error:
            self._failed(Meaning(kind="later", error=error.message, hint=error.hint or ""))
            return
        found = meaning(self._target, self._settings.token_file, answer, self._clock.wall())
        if token in found.error:
            found = msgspec.structs.replace(found, error=found.error.replace(token, "…"))
        if found.kind in ("done", "refused"):
            self._delivered(status, found)
        else:
            self._failed(found)

    def _delivered(self, status: CommitStatus, found: Meaning) -> None:
        refused = found.kind == "refused"
        self._outbox = self._outbox.delivered(status, self._clock.wall(), refused=refused)
        assert self._outbox.sent is not None
        log = _log.bind(commit=status.sha, state=status.state, description=status.description)
        if refused:
            log.warning("the forge takes no status of the commit any more", error=found.error)
            self._tell(Trouble(error=found.error, hint="newer commits are told as usual"), status)
        else:
            log.info("wrote the status of the commit")
            self._recovered(status)
        # After the forge: a status that is sent twice is better than one that nobody has.
        self._journal.remember(_MEMORY, msgspec.json.encode(self._outbox.sent))
        point("status:remembered")

    def _failed(self, found: Meaning) -> None:
        outbox, now = self._outbox, self._clock.monotonic()
        if self._stopped:
            return
        pace = _SELDOM if found.kind == "denied" else _SOON
        wait = max(pace.delay(outbox.failures, self._chance()), found.wait)
        self._outbox = outbox.failed(now + wait, of_commit=found.kind == "unknown")
        self._trouble = Trouble(error=found.error, hint=found.hint)
        _log.debug("cannot write the status of the commit", error=found.error, again_in=wait)
        if found.kind == "denied" or self._outbox.failures >= _TOLD_FROM:
            self._tell(self._trouble, outbox.wanted)

    def _tell(self, trouble: Trouble, status: CommitStatus | None) -> None:
        """Record an event of a trouble, once."""
        self._trouble = trouble
        if self._told is None:
            _log.warning("cannot write the status of the commit", error=str(trouble))
            self._record("git-status-error", str(trouble), status)
        self._told = trouble

    def _recovered(self, status: CommitStatus) -> None:
        if self._told is not None:
            self._record("git-status-recovered", "the status of the commit is written again", status)
        self._trouble = self._told = None

    def _record(self, kind: str, message: str, status: CommitStatus | None) -> None:
        revision = status.sha if status is not None else ""
        self._journal.try_to_record([NewEvent(pod="", type=kind, message=message, revision=revision)])

    def _recall(self) -> SentStatus | None:
        try:
            return msgspec.json.decode(self._journal.recall(_MEMORY), type=SentStatus)
        except msgspec.MsgspecError:
            return None


def _token(path: str) -> str:
    """Read the token.

    Raises:
        Stalled: the file is not there, not root's, open to others, or holds no token.
    """
    hint = "see git.status.token_file"
    try:
        text = read_key(path).decode("utf-8-sig").strip()
    except OSError as error:
        raise Stalled(f"{path} can't be read: {error.strerror}", hint=hint) from error
    except NotReadableError as error:
        raise Stalled(f"{path} {error}", hint=hint) from None
    except UnicodeDecodeError:
        text = ""
    if not _TOKEN.fullmatch(text):
        raise Stalled(f"{path} must hold one token, in one line", hint=hint)
    return text


def sender(settings: GitSettings) -> tuple[Send, Callable[[], None]]:
    """Return what makes requests, and what ends the one that is under way."""
    # It is loaded with the first request: a machine that has none to make needs no TLS.
    posts: list[Callable[[], None]] = []

    def send(asked: StatusRequest) -> ForgeAnswer:
        from tank_agent.outward.post import Post

        post = Post(ca=settings.ca_file, named=True)
        posts[:] = [post.cut]
        status, headers, body = post.send(asked.url, asked.headers, asked.body)
        return ForgeAnswer(status=status, headers=headers, body=body)

    def cut() -> None:
        for one in posts:
            one()

    return send, cut
