"""The rollout of a revision, from its first start to its verdict: pure functions (docs/updates.md).

A generation is good once its containers were well without a break for `min_healthy`. It failed if they end
too often, or are not well by its deadline. `plan` asks `follow` and `judge` first, and goes back to the last
good revision once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from msgspec.structs import replace

from tank_agent.journal.records import (
    Blocked,
    DesiredPod,
    Good,
    Outcome,
    PodStatus,
    Revision,
    Rollout,
    Verdict,
)
from tank_agent.reconcile.core.changes import restarts_nothing
from tank_agent.reconcile.core.hashes import container_status, outdated_contents, settings_hash
from tank_agent.reconcile.core.observed import ImageState, Run, Situation
from tank_agent.reconcile.core.order import (
    READY_AFTER,
    concerned,
    current_run,
    is_current,
    missing,
    steady_since,
    waits_for,
)
from tank_agent.reconcile.core.restart import Backoff, describe_exit
from tank_agent.retry import Pace
from tank_agent.spec.model import Pod, RestartPolicy
from tank_agent.spec.quantities import format_duration

# An update within whose wait the machine went down so often, without a shutdown, takes it down.
MOST_BOOTS = 3
_WENT_DOWN = "the machine went down"
# Seconds after the first end of a container within an update's wait; doubled after each further one.
_RETRY = 1.0
# The pace at which an update that cannot begin is tried again: each try may stop the pod for a moment.
BLOCKED = Pace(base=30.0, cap=3600.0, jitter=0.0)


class DueVerdict(NamedTuple):
    """A verdict that is due, with its reason; else `look_again` is when one may be (monotonic)."""

    outcome: Outcome | None = None
    reason: str = ""
    look_again: float = math.inf


_NOTHING = DueVerdict()


def follow(situation: Situation) -> Rollout | None:
    """Return the rollout that the desired generation begins with; None if the one in the journal is right."""
    desired, rollout, boot = situation.desired, situation.status.rollout, situation.now.boot_id
    assert desired is not None
    if rollout is None:
        # The first start writes it.
        return None
    if rollout.generation == desired.generation:
        if rollout.outcome is not None or rollout.begun is None or rollout.boot_id == boot:
            return None
        boots = rollout.boots if rollout.clean else rollout.boots + 1
        return replace(rollout, boot_id=boot, boots=boots, begun=None, clean=False)
    if continues(situation):
        # What a rollout did that is over was done for the generation before.
        steps = () if rollout.outcome == "good" else rollout.steps
        return replace(rollout, generation=desired.generation, steps=steps)
    good, began = situation.status.good, rollout.begun is not None or rollout.outcome in ("good", "failed")
    # The volumes may have its data already, though it did not start: no other may run with that.
    ran = began or took(rollout, "restore")
    # The text of the good revision undoes the update. A rollback by hand has superseded it: that asks for
    # data by itself.
    same = good is not None and (good.hash, good.images) == (desired.hash, desired.images)
    undone = began and rollout.outcome is None and same
    return Rollout(
        generation=desired.generation,
        kind="rollback" if undone else "update" if good is not None else "first",
        boot_id=boot,
        replaced=rollout.generation if ran else rollout.replaced,
        restore=rollout.restore or (good.snapshots if undone and good is not None else {}),
    )


def continues(situation: Situation) -> bool:
    """Return whether the desired generation changes only what concerns no container of the one before it.

    A rollback by hand is a rollout of its own.
    """
    desired, former, rollout = situation.desired, situation.former, situation.status.rollout
    assert desired is not None
    if former is None or rollout is None or rollout.outcome == "superseded":
        return False
    asks_for_data = bool(rollout.restore) and rollout.outcome is not None
    return former.images == desired.images and restarts_nothing(former.pod, desired.pod) and not asks_for_data


def begin(situation: Situation, rollout: Rollout | None) -> Rollout:
    """Return the rollout of the desired generation with a wait that begins now."""
    desired, now = situation.desired, situation.now
    assert desired is not None
    if rollout is None or rollout.generation != desired.generation:
        rollout = Rollout(generation=desired.generation, kind="first", boot_id=now.boot_id)
    return replace(rollout, begun=now.monotonic, boot_id=now.boot_id)


def after_start(situation: Situation, rollout: Rollout | None) -> Rollout | None:
    """Return the rollout after a container of it was started: its wait begins with the first one."""
    if not is_undecided(situation) or (rollout is not None and rollout.begun is not None):
        return rollout
    return begin(situation, rollout)


def is_undecided(situation: Situation) -> bool:
    """Return whether the desired generation has no verdict yet."""
    rollout, desired = situation.status.rollout, situation.desired
    if desired is None or desired.pod.schedule is not None:
        return False
    if situation.blocked is not None or situation.upcoming is not None:
        return False
    return rollout is None or (rollout.generation == desired.generation and rollout.outcome is None)


def starts_new(situation: Situation) -> bool:
    """Return whether the next start is the first one of the desired generation."""
    rollout = situation.status.rollout
    return is_undecided(situation) and (rollout is None or rollout.begun is None)


def has_target(situation: Situation) -> bool:
    """Return whether a failure of the desired generation goes back to an earlier one."""
    desired, status, rollout = situation.desired, situation.status, situation.status.rollout
    assert desired is not None
    update, good = desired.pod.update, status.good
    return (
        rollout is not None
        and rollout.kind == "update"
        and good is not None
        and good.generation != desired.generation
        and (good.hash, good.images) != (desired.hash, images_of(situation))
        and update.rollback
        and desired.pod.restart is not RestartPolicy.NEVER
        and (desired.hold is None or desired.hold.kind != "suspended")
    )


def judge(situation: Situation) -> DueVerdict:
    """Return the verdict on the desired generation, if one is due."""
    desired, rollout, now = situation.desired, situation.status.rollout, situation.now.monotonic
    if desired is None or rollout is None or situation.blocked or situation.upcoming:
        return _NOTHING
    open_ = rollout.generation == desired.generation and rollout.outcome not in ("good", "superseded")
    if not open_ or (rollout.begun is None and rollout.boots < MOST_BOOTS):
        return _NOTHING
    if is_put_off(situation):
        return _NOTHING
    well, undecided = _well_at(situation, rollout), rollout.outcome is None
    if well <= now and (rollout.begun is not None or not undecided):
        return DueVerdict(
            "good", "its containers ended as they should" if well == -math.inf else "it is healthy"
        )
    if undecided and (failure := _failure(situation, rollout)):
        return DueVerdict("failed", failure)
    return DueVerdict(look_again=min(well, _deadline(situation, rollout)) if undecided else well)


def _failure(situation: Situation, rollout: Rollout) -> str:
    """Return in words why the desired generation has failed; empty if it has not."""
    desired = situation.desired
    assert desired is not None
    if rollout.boots >= MOST_BOOTS:
        return f"{_WENT_DOWN} {rollout.boots} times within the update's wait"
    update = desired.pod.update
    if rollout.ends > update.max_restarts or _ended_for_good(situation):
        return _last_end(situation)
    if situation.now.monotonic >= _deadline(situation, rollout):
        return f"it did not become healthy within {format_duration(update.deadline)}: {_unwell(situation)}"
    return ""


def is_put_off(situation: Situation) -> bool:
    """Return whether the wait is over, but begins anew, since an image is still pulled."""
    rollout, desired = situation.status.rollout, situation.desired
    if desired is None or rollout is None or rollout.begun is None or not is_undecided(situation):
        return False
    observed = situation.observed
    due = missing(desired, situation.status, observed.runs, situation.now.boot_id)
    images = [observed.images.get(container.name) for container in due if container.image is not None]
    pulls = any(image is not None and image.state is not ImageState.READY for image in images)
    return pulls and situation.now.monotonic >= _deadline(situation, rollout)


def _deadline(situation: Situation, rollout: Rollout) -> float:
    """Return when the wait of the desired generation ends (monotonic), later if the agent restarted in it."""
    desired = situation.desired
    assert desired is not None and rollout.begun is not None
    update, deadline = desired.pod.update, rollout.begun + desired.pod.update.deadline
    if situation.agent_since <= rollout.begun:
        return deadline
    checks = (container.health for container in desired.pod.containers)
    slowest = max((check.start_period or 0.0 for check in checks if check is not None), default=0.0)
    return max(deadline, situation.agent_since + 2 * update.min_healthy + slowest)


def after_end(situation: Situation, rollout: Rollout | None) -> Rollout | None:
    """Return the rollout after a container of it ended, or could not be started."""
    if rollout is None or not is_undecided(situation) or rollout.begun is None:
        return rollout
    return replace(rollout, ends=rollout.ends + 1)


def pace(situation: Situation) -> Backoff:
    """Return the pace of restarts: short within an update's wait, which allows only a few of them."""
    if not is_undecided(situation) or not has_target(situation):
        return situation.backoff
    usual = situation.backoff
    return Backoff(base=min(_RETRY, usual.base), cap=usual.cap, stable_after=usual.stable_after)


def blocked_now(desired: DesiredPod | None, status: PodStatus, wall: float) -> Blocked | None:
    """Return why the update to the desired generation cannot begin now; None if it can be tried."""
    blocked = status.blocked
    if desired is None or blocked is None or blocked.generation != desired.generation:
        return None
    # A time further away than any comes from a clock that was set back since.
    return blocked if wall < blocked.retry_at <= wall + BLOCKED.cap else None


def goes_on_before(situation: Situation) -> bool:
    """Return whether what ran before the desired generation may run until that one can start.

    Not with data that is no more its own: a later generation wrote it, or it is put back for one.
    """
    rollout, good, job = situation.status.rollout, situation.status.good, situation.observed.copying
    # First what is so for most pods, since this is asked for each at each resync.
    if rollout is None or rollout.begun is not None or not starts_new(situation):
        return False
    if situation.is_stopped:
        return False
    if not rollout.replaced or rollout.boots >= MOST_BOOTS:
        return False
    if rollout.restore or took(rollout, "restore") or (job is not None and job.kind != "check"):
        return False
    return not (took(rollout, "start") and good is not None and good.snapshots)


def may_run_again(before: Revision, status: PodStatus) -> bool:
    """Return whether a revision may be started before another one.

    Not one that takes the machine down, and no job, which runs at its times only.
    """
    return before.pod.schedule is None and not any(
        bad.generation == before.generation and bad.reason.startswith(_WENT_DOWN) for bad in status.bad
    )


def without_old_copies(status: PodStatus) -> PodStatus:
    """Return the status once what ran before an update starts again after a snapshot of its volumes."""
    good, rollout = status.good, status.rollout
    if good is None or not good.snapshots or rollout is None or not took(rollout, "snapshot"):
        return status
    return replace(status, good=replace(good, snapshots={}))


def took(rollout: Rollout, step: str) -> bool:
    """Return whether a rollout took a step of this kind, by the first word of its form in proofs."""
    return any(word.startswith(f"{step} ") for word in rollout.steps)


def as_before(desired: DesiredPod, before: Revision, status: PodStatus) -> DesiredPod:
    """Return what is desired while an update cannot begin: the revision before it, with its images."""
    good = status.good
    images = good.images if good is not None and good.generation == before.generation else before.ran
    return before.in_place_of(desired, images)


def images_of(situation: Situation) -> dict[str, str]:
    """Return the digests of the generation that the rollout is of: those that it ran, or had to."""
    of = situation.former or situation.desired
    assert of is not None
    found = dict(of.images)
    for container in of.pod.containers:
        if container.image is not None and container.name not in found:
            # One that it did not start has the status of the generation before.
            found[container.name] = container_status(situation.status, of.pod, container).digest
    return {name: digest for name, digest in found.items() if digest}


def pin_of(situation: Situation, container: str) -> str:
    """Return the digest that a container must start from; empty if its reference decides.

    That of the generation, or the one that was good: the tag may have moved since. The policy "always" wants
    what the tag names at each start, unless newer images are to come as updates.
    """
    desired, good = situation.desired, situation.status.good
    assert desired is not None
    if (pin := desired.images.get(container)) is not None:
        return pin
    spec = next(found for found in desired.pod.containers if found.name == container)
    always = (spec.pull or situation.pull) == "always" and desired.pod.update.image != "digest"
    if good is None or good.generation != desired.generation or always:
        return ""
    return good.images.get(container, "")


def good_now(situation: Situation) -> Good:
    """Return the desired generation as the last good one."""
    desired = situation.desired
    assert desired is not None
    images = images_of(situation)
    return Good(generation=desired.generation, hash=desired.hash, at=situation.now.wall, images=images)


def verdict_now(situation: Situation, outcome: Outcome, reason: str, proof: str = "") -> Verdict:
    """Return a verdict on the desired generation."""
    images = images_of(situation)
    return Verdict(outcome=outcome, at=situation.now.wall, reason=reason, images=images, proof=proof)


def _well_at(situation: Situation, rollout: Rollout) -> float:
    """Return from when on the containers have been well for long enough (monotonic), if they stay so."""
    desired, observed = situation.desired, situation.observed
    assert desired is not None
    change = observed.network_change
    if any(not is_current(run, desired) for run in observed.runs) or (change is not None and change.error):
        return math.inf
    since = -math.inf
    for container in concerned(situation):
        run = current_run(container, situation)
        steady = steady_since(container, situation)
        if steady is None or (run is not None and _lacks(run, settings_hash(container), desired.pod)):
            return math.inf
        since = max(since, steady)
    if since > -math.inf and rollout.begun is not None and rollout.boot_id == situation.now.boot_id:
        # What goes on through the update has to show that it is well after it, too.
        since = max(since, rollout.begun)
    return since + max(desired.pod.update.min_healthy, READY_AFTER)


def _lacks(run: Run, settings: str, pod: Pod) -> bool:
    """Return whether a run is not as its settings say, or has other files, or the change has failed."""
    changes = run.settings not in ("", settings) or run.drift is not None
    return changes or run.error(settings) is not None or bool(outdated_contents(run, pod))


def _ended_for_good(situation: Situation) -> bool:
    """Return whether a container failed that its policy never starts again."""
    desired = situation.desired
    assert desired is not None
    if desired.pod.restart is not RestartPolicy.NEVER:
        return False
    known = (container_status(situation.status, desired.pod, found) for found in desired.pod.containers)
    return any(not status.instance and status.exit is not None and not status.exit.clean for status in known)


def _last_end(situation: Situation) -> str:
    """Return in words how a container ended last."""
    desired = situation.desired
    assert desired is not None
    known = [
        (status, found.name)
        for found in desired.pod.containers
        if (status := container_status(situation.status, desired.pod, found)).exit is not None
    ]
    if not known:
        return "its containers ended too often"
    status, name = max(known, key=lambda one: one[0].exit.at if one[0].exit is not None else 0.0)
    assert status.exit is not None
    health = f" (last probe: {status.health.message})" if status.health and status.health.message else ""
    return f"container {name} {describe_exit(status.exit)}{health}"


def _unwell(situation: Situation) -> str:
    """Return in words what keeps the generation from being healthy."""
    desired = situation.desired
    assert desired is not None
    change = situation.observed.network_change
    if change is not None and change.error:
        return change.error
    # What waits for another container is not to blame.
    for container in sorted(desired.pod.containers, key=lambda one: any(waits_for(one, situation))):
        run = current_run(container, situation)
        if run is None:
            known = container_status(situation.status, desired.pod, container)
            if steady_since(container, situation) is None:
                why = known.error or (
                    describe_exit(known.exit) if known.exit is not None else "did not start"
                )
                return f"container {container.name} {why}"
        elif error := run.error(settings_hash(container)):
            return f"container {container.name}: {error}"
        elif run.probed is not None and run.probed.steady_since is None:
            health = run.probed.health
            return f"container {container.name} is {health.state}: {health.message or 'no probe succeeded'}"
        elif container.init:
            return f"init container {container.name} still runs"
    return "it was not healthy for long enough without a break"
