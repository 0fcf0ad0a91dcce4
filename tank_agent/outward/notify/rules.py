"""The table of the journal's events and what is told of them; every type that the agent writes is here.

What an event does to its topic:

bad      it is told at once
good     if that was told, so is this
wait     the topic begins, and is told if the state of the machine shows it for as long as `after` says
look     the state of the machine is looked at, which may have changed
failed   an update failed: told at once if it stays, else with what comes of going back
back     an update was rolled back: told as one with why
again    a person, or another image, gives it another try, which is told as the first was
gone     the pod is gone, and with it all that could be told about it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Effect = Literal["bad", "good", "wait", "look", "failed", "back", "again", "gone"]


class TopicRule(Struct, frozen=True):
    """What an event does to the topic of a kind; `name` tells topics of one kind apart."""

    kind: str
    effect: Effect
    name: str = ""


def _rules(kind: str, **effects: tuple[str, ...]) -> dict[str, TopicRule]:
    return {event: TopicRule(kind, effect) for effect, events in effects.items() for event in events}  # type: ignore[arg-type]


# Of other events nobody needs to be told: they are steps on a way whose end is told, what a person asked for,
# or about notifications themselves, which must not be told of by what does not work.
SILENT = frozenset(
    (
        "applied", "attach", "changed", "data-restored", "deleted", "delivered", "exec", "files-read",
        "files-written", "filling", "git-confirmed", "health-storm", "image-not-refreshed", "image-removed",
        "job-missed", "job-renewed", "job-skipped", "job-started", "killing", "mounted-again",
        "network-changed", "notify-dropped", "notify-failed", "notify-recovered", "notify-test",
        "probe-trouble", "pulled", "pulling", "restart-asked", "run-asked", "snapshot-removed",
        "snapshot-taken", "start-asked", "started", "stop-asked", "stopped", "stopping", "suspended",
        "unclaimed", "update-started", "update-superseded", "update-waits", "volume-removed", "web-failed",
        "web-recovered",
    )
)  # fmt: skip

RULES: Mapping[str, TopicRule] = {
    **_rules(
        "update",
        failed=("update-failed",),
        back=("rolled-back",),
        bad=("rollback-failed",),
        good=("update-good", "recovered"),
        again=("image-moved", "resumed"),
    ),
    **_rules("unhealthy", wait=("unhealthy",), look=("healthy",)),
    **_rules(
        "failing",
        wait=(
            "exited",
            "lost",
            "start-failed",
            "step-failed",
            "pull-failed",
            "network-failed",
            "mount-failed",
            "deliver-failed",
            "change-failed",
            "out-of-memory",
            "update-blocked",
        ),
        gone=("removed", "elsewhere"),
    ),
    **_rules("job", bad=("job-failed",), good=("job-succeeded",)),
    **_rules("git", wait=("git-error",), look=("git-recovered",)),
    "git-held": TopicRule("git", "bad", "held"),
    "git-applied": TopicRule("git", "gone", "held"),
    "git-status-error": TopicRule("git", "bad", "status"),
    "git-status-recovered": TopicRule("git", "good", "status"),
    **_rules("source", look=("source-error", "source-recovered")),
}
