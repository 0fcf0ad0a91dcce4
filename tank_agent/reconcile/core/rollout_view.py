"""The update axis of a pod's status: how far its rollout is, and what is wanted where something else runs."""

from __future__ import annotations

import enum

from msgspec import Struct

from tank_agent.journal.records import Bad, DesiredPod, Outcome, PodStatus, Rollout


class RolloutState(enum.StrEnum):
    """The state of a pod's rollout, as `tank status` prints it.

    NONE: nothing was watched yet. FIRST and UPDATING: it has to prove itself, with or without a revision to
    go back to. ROLLING_BACK: the last good revision is on its way back; ROLLED_BACK: it proved itself.
    QUARANTINED: what is wanted failed before, and is not tried. BLOCKED: the update cannot begin.
    """

    NONE = "none"
    FIRST = "first"
    UPDATING = "updating"
    GOOD = "good"
    FAILED = "failed"
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"
    QUARANTINED = "quarantined"
    BLOCKED = "blocked"


# The states in which a person, or a script, has nothing to look at.
CALM = frozenset((RolloutState.NONE, RolloutState.FIRST, RolloutState.GOOD))
# The states in which the wanted revision is one that failed.
_BACK = frozenset((RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK, RolloutState.QUARANTINED))


class RolloutView(Struct, frozen=True, kw_only=True):
    """The rollout of a pod.

    `outcome` is the verdict of the wanted revision. `wanted` is the source's name for that, `running` the
    generation that runs: 0 if nothing does. `reason` is a sentence on what went wrong.
    """

    state: RolloutState
    outcome: Outcome | None
    wanted: str
    running: int
    reason: str | None = None


def view_rollout(desired: DesiredPod, status: PodStatus) -> RolloutView:
    """Return how the rollout of a pod stands."""
    state, bad, current = _state(desired, status), unwanted(desired, status), _current(desired, status)
    outcome = current.outcome if current is not None else None
    failure = current.reason if current is not None and outcome == "failed" else ""
    reason = failure
    if bad is not None:
        outcome, reason = "failed", bad.reason
        reason += f"; then the way back failed, too: {failure}" if failure else ""
    if state is RolloutState.BLOCKED and status.blocked is not None:
        reason = status.blocked.error
    elif outcome is None and state is RolloutState.GOOD:
        outcome = "good"
    return RolloutView(
        state=state,
        outcome=outcome,
        wanted=bad.revision if bad is not None else desired.revision,
        running=_running(desired, status),
        reason=reason or None,
    )


def unwanted(desired: DesiredPod, status: PodStatus) -> Bad | None:
    """Return the failed revision in whose place an older one runs, or the same one with older images."""
    hold, current = desired.hold, _current(desired, status)
    if hold is not None and hold.kind == "quarantined":
        known = [bad for bad in status.bad if bad.generation == hold.failed or bad.hash == hold.declared]
        return max(known, key=lambda bad: (bad.generation == hold.failed, bad.at), default=None)
    if current is None or current.kind != "rollback" or hold is not None:
        return None
    # Only an image was bad, and nothing holds the pod, since its next digest is tried; or none was.
    failed = (bad for bad in status.bad if bad.generation == current.replaced)
    return next((bad for bad in failed if bad.hash == desired.hash), None)


def _current(desired: DesiredPod, status: PodStatus) -> Rollout | None:
    """Return the rollout of the pod's present generation; None before it begins."""
    rollout = status.rollout
    return rollout if rollout is not None and rollout.generation == desired.generation else None


def _state(desired: DesiredPod, status: PodStatus) -> RolloutState:
    current, good = _current(desired, status), status.good
    outcome = current.outcome if current is not None else None
    if status.blocked is not None and status.blocked.generation == desired.generation:
        return RolloutState.BLOCKED
    if outcome == "failed":
        return RolloutState.FAILED
    goes_back = current is not None and current.kind == "rollback" and unwanted(desired, status) is not None
    held = desired.hold is not None and desired.hold.kind == "quarantined"
    if outcome == "good" or (good is not None and good.generation == desired.generation):
        proven = RolloutState.QUARANTINED if held else RolloutState.GOOD
        return RolloutState.ROLLED_BACK if goes_back else proven
    if goes_back or (held and current is None):
        return RolloutState.ROLLING_BACK
    # Pods that an older agent started were never watched.
    started = any(known.instance or known.exit is not None for known in status.containers.values())
    unproven = RolloutState.NONE if status.rollout is None and started else RolloutState.FIRST
    return RolloutState.UPDATING if good is not None else unproven


def _running(desired: DesiredPod, status: PodStatus) -> int:
    """Return the generation whose containers run now, or ran last."""
    rollout = status.rollout
    if rollout is None:
        return status.good.generation if status.good is not None else desired.generation
    return rollout.generation if rollout.begun is not None else rollout.replaced
