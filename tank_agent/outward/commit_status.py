"""The status of the commit that this machine follows: what it is, and when it is to be sent. Pure.

It is about updates, not about uptime: a pod whose text was good once stays good for this commit, whatever
becomes of it later. docs/commit-status.md is the semantics.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.journal.records import DesiredPod, PodStatus
from tank_agent.reconcile.core.observed import ImageState, Situation
from tank_agent.reconcile.core.rollout_view import RolloutState, unwanted, view_rollout
from tank_agent.source.git.address import redact
from tank_agent.source.git.status import GitStatus

State = Literal["pending", "success", "failure"]
# GitHub's limit, in characters; the others take more.
DESCRIPTION_MAX = 140
# Seconds for which a status must stay the same before it is sent.
SETTLE = 1.0
# Seconds for which an update that cannot begin, as for want of its image, may still be a passing trouble.
PATIENCE = 30.0
_NAMED = 3
# What programs of containers said through their probes may be nobody else's business.
_OF_PROBES = re.compile(r" \(last probe: .*\)$|(?<= is unhealthy): .*$|(?<= is starting): .*$", re.DOTALL)
_UNSHOWN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


class CommitStatus(Struct, frozen=True, kw_only=True):
    """What this machine says of a commit."""

    sha: str
    state: State
    description: str


class Standing(Struct, frozen=True, kw_only=True):
    """How a pod stands to its text: `why` says it in words, unless it is good.

    A pod that is `stuck` waits, with an error that may pass.
    """

    name: str
    state: Literal["good", "waiting", "stuck", "failed"]
    why: str = ""


# --- One pod ------------------------------------------------------------------------------------------------


def standing(desired: DesiredPod, status: PodStatus, look: Callable[[], Situation]) -> Standing:
    """Return how a pod stands; `look` is asked only where its update has no verdict."""
    name, hold = desired.name, desired.hold
    if hold is not None and hold.kind != "quarantined":
        return Standing(name=name, state="waiting", why=f"{hold.kind} by a person")
    if desired.pod.schedule is not None:
        # A job proves nothing before its time; what it runs must be here.
        return _before_verdict(desired, look(), otherwise="good")
    view = view_rollout(desired, status)
    if verdict := _verdict(desired, status):
        return verdict
    if status.stopped is not None:
        return Standing(name=name, state="waiting", why="stopped by a person")
    if view.state is RolloutState.BLOCKED:
        return Standing(name=name, state="stuck", why=f"its update cannot begin: {view.reason}")
    return _before_verdict(desired, look(), otherwise="waiting")


def _verdict(desired: DesiredPod, status: PodStatus) -> Standing | None:
    """Return how a pod stands by the verdict on its text; None before there is one."""
    name, hold, good = desired.name, desired.hold, status.good
    view = view_rollout(desired, status)
    why = _own_words(desired, view.reason)
    if hold is not None:
        return Standing(name=name, state="failed", why=f"rolled back: {why}" if why else "rolled back")
    # A newer image behind the same tag is no business of the commit, unless there is no way back from it.
    only_image = unwanted(desired, status) is not None
    if view.state is RolloutState.FAILED and not only_image:
        return Standing(name=name, state="failed", why=f"failed: {why}")
    image_moves = good is not None and good.hash == desired.hash and bool(desired.images)
    if view.state in (RolloutState.GOOD, RolloutState.NONE) or only_image or image_moves:
        return Standing(name=name, state="good")
    return None


def _before_verdict(
    desired: DesiredPod, seen: Situation, *, otherwise: Literal["good", "waiting"]
) -> Standing:
    """Return how a pod stands whose containers have not all begun: what keeps it from that is an error."""
    name, rollout = desired.name, seen.status.rollout
    images = seen.upcoming.images if seen.upcoming is not None else seen.observed.images
    absent = [image for image in images.values() if image.state is not ImageState.READY]
    errors = [image.error for image in absent if image.error]
    if rollout is None or rollout.generation != desired.generation or rollout.begun is None:
        change = seen.observed.network_change
        errors += [trouble.error for trouble in seen.troubles]
        errors += [change.error] if change is not None and change.error else []
    if errors:
        return Standing(name=name, state="stuck", why=_first_line(errors[0]))
    if absent:
        return Standing(name=name, state="waiting", why="fetching its image")
    return Standing(name=name, state=otherwise, why="" if otherwise == "good" else "starting")


def _own_words(desired: DesiredPod, reason: str | None) -> str:
    """Return a reason without what the pod's programs said, unless the probe asks a port."""
    checks = [container.health for container in desired.pod.containers]
    ports = all(check is not None and (check.http is not None or check.tcp is not None) for check in checks)
    text = _first_line(reason or "")
    return text if ports else _OF_PROBES.sub("", text)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def lose_patience(
    standings: Iterable[Standing], since: Mapping[str, float], now: float
) -> tuple[tuple[Standing, ...], dict[str, float]]:
    """Return pods that have been stuck for too long as failed, and since when (monotonic) each is stuck."""
    found, stuck = [], {}
    for one in standings:
        if one.state != "stuck":
            found.append(one)
            continue
        stuck[one.name] = since.get(one.name, now)
        over = now - stuck[one.name] >= PATIENCE
        found.append(replace(one, state="failed" if over else "waiting"))
    return tuple(found), stuck


# --- The commit ---------------------------------------------------------------------------------------------


def newest(git: GitStatus) -> str | None:
    """Return the commit that a status is of: the newest that was fetched; None if none is known."""
    return git.fetched.revision or git.applied.revision


def of_commit(git: GitStatus, problems: Sequence[str], standings: Sequence[Standing]) -> CommitStatus | None:
    """Return what to say of the newest commit; None before this agent has looked at it.

    `problems` are of files of the repository, `standings` those of the pods that it owns.
    """
    sha = newest(git)
    if sha is None:
        return None
    steps = {"verify": git.verified, "check": git.checked, "apply": git.applied}
    for step in steps.values():
        if step.error is not None:
            return _status(sha, "failure", f"refused: {_about(git, step.error).removeprefix('refused: ')}")
    if git.held is not None:
        return _status(sha, "pending", _about(git, git.held))
    if sha != git.applied.revision:
        return _status(sha, "pending", "being applied")
    if git.commit is None or git.commit.id != sha:
        # What an agent before this one applied: files with errors are not known yet.
        return None
    return _of_pods(sha, problems, standings)


def _about(git: GitStatus, text: str) -> str:
    """Return what is said of the newest commit without its name, beside which it is shown."""
    return text.removeprefix(f"{git.latest} ").removeprefix("is ")


def _of_pods(sha: str, problems: Sequence[str], standings: Sequence[Standing]) -> CommitStatus:
    failed = [one for one in standings if one.state == "failed"]
    waiting = [one for one in standings if one.state in ("waiting", "stuck")]
    if problems:
        # They are of this commit, while a pod whose file has one runs, or tries, the text of an older one.
        more = f"{len(problems)} errors in files; " if len(problems) > 1 else ""
        return _status(sha, "failure", f"{more}{_first_line(problems[0])}")
    if failed:
        first = f"{failed[0].name}: {failed[0].why}"
        more = (
            f"{len(failed)} of {len(standings)} pods failed ({_names(failed)}); " if len(failed) > 1 else ""
        )
        return _status(sha, "failure", more + first)
    if waiting:
        if len(waiting) == 1:
            return _status(sha, "pending", f"{waiting[0].name}: {waiting[0].why}")
        return _status(sha, "pending", f"updating {len(waiting)} of {len(standings)} pods: {_names(waiting)}")
    if not standings:
        return _status(sha, "success", "nothing is declared for this machine")
    return _status(sha, "success", f"{len(standings)} pod{'s' if len(standings) > 1 else ''} good")


def _names(pods: Sequence[Standing]) -> str:
    return ", ".join(one.name for one in pods[:_NAMED]) + (", …" if len(pods) > _NAMED else "")


def _status(sha: str, state: State, description: str) -> CommitStatus:
    return CommitStatus(sha=sha, state=state, description=shortened(description))


def shortened(text: str) -> str:
    """Return a text as one short line without control characters, nor secrets of URLs."""
    shown = "".join(" " if unicodedata.category(char) in _UNSHOWN else char for char in redact(text))
    line = " ".join(shown.split())
    return line if len(line) <= DESCRIPTION_MAX else f"{line[: DESCRIPTION_MAX - 1].rstrip()}…"


# --- When it is sent ----------------------------------------------------------------------------------------


class SentStatus(Struct, frozen=True, kw_only=True):
    """The last status that the forge has, as the journal keeps it; `place` is where it was sent to.

    `refused`: the forge takes no more of this commit. `at` is when it took it (Unix time).
    """

    sha: str
    state: State
    place: str
    refused: bool = False
    at: float = 0.0


class Outbox(Struct, frozen=True, kw_only=True):
    """What there is to send: the status that is wanted since `since`, both clocks monotonic in seconds.

    `retry_at` is when the next try is due, after `failures` in a row. `of_commit`: they were of this commit
    only. `place` is where statuses are sent to.
    """

    place: str
    sent: SentStatus | None = None
    wanted: CommitStatus | None = None
    since: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    of_commit: bool = False

    def wanting(self, status: CommitStatus | None, now: float) -> Outbox:
        """Return it with another status in place of the wanted one, which is no longer to be sent."""
        if status is None:
            return self
        before = self.wanted
        if before is not None and (before.sha, before.state) == (status.sha, status.state):
            return replace(self, wanted=status)
        changed = replace(self, wanted=status, since=now)
        if self.of_commit and before is not None and before.sha != status.sha:
            return replace(changed, failures=0, retry_at=0.0, of_commit=False)
        return changed

    @property
    def is_due(self) -> bool:
        """Return whether the forge has another status than the wanted one."""
        wanted, sent = self.wanted, self.sent
        if wanted is None:
            return False
        if sent is None or sent.place != self.place or sent.sha != wanted.sha:
            return True
        # What failed stays so until it is good: a second try of the same text is no news.
        again = sent.state == "failure" and wanted.state == "pending"
        return not (sent.refused or again or sent.state == wanted.state)

    def due_in(self, now: float) -> float | None:
        """Return the seconds until the wanted status is to be sent; None if it is not."""
        return max(0.0, self.since + SETTLE - now, self.retry_at - now) if self.is_due else None

    def delivered(self, status: CommitStatus, at: float, *, refused: bool = False) -> Outbox:
        """Return it once the forge has a status, or takes none of its commit any more."""
        sent = SentStatus(sha=status.sha, state=status.state, place=self.place, refused=refused, at=at)
        return replace(self, sent=sent, failures=0, retry_at=0.0, of_commit=False)

    def failed(self, retry_at: float, *, of_commit: bool) -> Outbox:
        """Return it after a try that is repeated."""
        return replace(self, failures=self.failures + 1, retry_at=retry_at, of_commit=of_commit)
