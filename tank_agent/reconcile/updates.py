"""Carry out the steps of a rollout: begin it, judge it, go back, and copy the volumes that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from tank_agent.journal.records import Blocked, NewEvent, Outcome, PodStatus, Rollout, Verdict
from tank_agent.linux.fault import point
from tank_agent.reconcile.core import actions, rollout
from tank_agent.reconcile.core.actions import Action
from tank_agent.reconcile.core.copies import copy_due
from tank_agent.reconcile.core.proof import proof, with_step
from tank_agent.reconcile.counters import UpdateOutcome
from tank_agent.reconcile.machine import Machine, Work

# The verdicts on a way back.
_BACK: Mapping[Outcome, UpdateOutcome] = {"good": "rolled-back", "failed": "rollback-failed"}
_HAPPY_ENDS = {"first": "update-good", "update": "update-good", "rollback": "rolled-back"}


class Updates:
    """Carries out the actions of rollouts, each in one transaction of the journal."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._journal = machine.journal
        self.table: dict[type[Action], Callable[..., None]] = {
            actions.Follow: self._follow,
            actions.Begin: self._begin,
            actions.Decide: self._decide,
            actions.RollBack: self._roll_back,
            actions.Block: self._block,
            actions.CheckRoom: self._check_room,
            actions.TakeSnapshot: self._take_snapshot,
            actions.Restore: self._put_back,
            actions.RecordCopy: self._record_copy,
        }

    def _follow(self, action: actions.Follow, work: Work) -> None:
        situation = work.seen
        former, followed = situation.status.rollout, rollout.follow(situation)
        if former is None or followed is None:
            return
        status, generation = self._journal.status(work.name), action.generation
        good = status.good
        verdicts: dict[int, Verdict] = {}
        events = []
        if former.generation == generation:
            events.append(work.event("update-waits", "the machine restarted, so its wait begins anew"))
        elif rollout.continues(situation):
            # Nothing of it concerns a container, so it is as good, or as bad, as the one before.
            if followed.outcome == "good" and good is not None:
                good = replace(good, generation=generation, hash=work.wanted.hash)
                verdicts[generation] = self._verdict(work, followed, "good", "it changes nothing that runs")
            elif followed.outcome is not None:
                verdicts[generation] = self._verdict(work, followed, followed.outcome, followed.reason)
            else:
                why = f"generation {generation} goes on with its wait"
                verdicts[former.generation] = self._verdict(work, former, "superseded", why)
        else:
            if former.outcome in (None, "superseded"):
                why = f"generation {generation} came before its verdict"
                superseded = self._verdict(work, former, "superseded", why)
                verdicts[former.generation] = superseded
                events.append(work.event("update-superseded", f"generation {former.generation}: {why}"))
            if followed.kind == "update":
                how = f"from generation {followed.replaced} to {generation}"
                events.append(work.event("update-started", how))
        if self._revise(work, lambda status: replace(status, rollout=followed, good=good), events, verdicts):
            for verdict in verdicts.values():
                self._machine.counters.update(work.name, verdict.outcome, None)
        point("update:followed")

    def _begin(self, _: actions.Begin, work: Work) -> None:
        seen = work.seen
        self._revise(work, lambda status: replace(status, rollout=rollout.begin(seen, status.rollout)))

    def _revise(
        self,
        work: Work,
        change: Callable[[PodStatus], PodStatus],
        events: Sequence[NewEvent] = (),
        verdicts: Mapping[int, Verdict] | None = None,
    ) -> bool:
        """Change the status of a pod if its rollout is as seen, and return whether it is."""

        def changed(status: PodStatus) -> PodStatus | None:
            return change(status) if _stands(status) == _stands(work.seen.status) else None

        return self._journal.revise(work.name, changed, events, verdicts)

    def _decide(self, action: actions.Decide, work: Work) -> None:
        status, situation = self._journal.status(work.name), work.seen
        former = status.rollout
        assert former is not None
        decided = replace(former, outcome=action.outcome, reason=action.reason)
        verdict = self._verdict(work, decided, action.outcome, action.reason)
        good, what = status.good, f"generation {decided.generation}"
        if action.outcome == "good":
            self._name_images(work, decided)
            good = rollout.good_now(situation)
            kind = "recovered" if former.outcome is not None else _HAPPY_ENDS[decided.kind]
            message = f"{what} is good: {action.reason}"
        else:
            # The data is now of a revision that a person left running, so nobody wants to lose it.
            good = replace(good, snapshots={}) if good is not None else None
            kind = "rollback-failed" if decided.kind == "rollback" else "update-failed"
            message = f"{what}: {action.reason}; {_stays(work, status, decided)}"
        event = work.event(kind, f"{message} ({verdict.proof})")
        decision = {decided.generation: verdict}

        def decide(status: PodStatus) -> PodStatus:
            return replace(status, rollout=decided, good=good, blocked=None)

        if not self._revise(work, decide, [event], decision):
            return
        self._count(work, former, action.outcome)
        point("update:decided")
        had = status.good is not None and bool(status.good.snapshots)
        if had or any(volume.snapshot for volume in work.pod.volumes):
            kept = good.snapshots.values() if good is not None else ()
            self._machine.snapshots.keep(work.name, frozenset(kept))

    def _name_images(self, work: Work, decided: Rollout) -> None:
        """Let tags stand for newer images that are good; before the verdict, so that a crash loses none."""
        desired = work.wanted
        if desired.hold is not None or decided.kind == "rollback":
            return
        for container in desired.pod.containers:
            digest = desired.images.get(container.name)
            if digest is not None and container.image is not None:
                self._machine.pulls.proved(container.image, digest, desired.changed_at)

    def _roll_back(self, action: actions.RollBack, work: Work) -> None:
        desired, status = work.wanted, self._journal.status(work.name)
        assert status.good is not None and status.rollout is not None
        good = self._journal.revision(work.name, status.good.generation)
        if good is None:
            reason = f"{action.reason}; the good revision {status.good.generation} is no longer kept"
            self._decide(actions.Decide(outcome="failed", reason=reason), work)
            return
        verdict = self._verdict(work, status.rollout, "failed", action.reason)
        target = replace(good, images=status.good.images, verdict=None)
        if self._journal.quarantine(work.name, desired.generation, verdict, target).changed:
            self._count(work, status.rollout, "failed")
        point("update:rolled-back")

    def _count(self, work: Work, found: Rollout, outcome: Outcome) -> None:
        """Count a verdict, and the time to it unless it was failed before."""
        now, counted = work.seen.now, _BACK.get(outcome, outcome) if found.kind == "rollback" else outcome
        began = found.begun if found.boot_id == now.boot_id and found.outcome is None else None
        took = None if began is None else max(0.0, now.monotonic - began)
        self._machine.counters.update(work.name, counted, took)

    def _block(self, action: actions.Block, work: Work) -> None:
        status, desired, wall = self._journal.status(work.name), work.wanted, self._machine.clock.wall()
        former = status.blocked
        count = former.count + 1 if former is not None and former.generation == desired.generation else 1
        blocked = Blocked(
            generation=desired.generation,
            error=action.reason,
            retry_at=wall + rollout.BLOCKED.delay(count - 1),
            count=count,
        )
        event = work.event("update-blocked", action.reason)
        self._journal.revise(work.name, lambda status: replace(status, blocked=blocked), [event])
        # The next try begins with another look at the disk.
        self._machine.snapshots.finished(work.name)
        point("update:blocked")

    def _check_room(self, _: actions.CheckRoom, work: Work) -> None:
        update = work.seen.of_update
        copy, desired = copy_due(update), update.desired
        if copy is not None and desired is not None:
            self._machine.snapshots.check(work.name, desired.generation, copy.how)

    def _take_snapshot(self, action: actions.TakeSnapshot, work: Work) -> None:
        copy = copy_due(work.seen)
        if copy is not None:
            self._note(work, action)
            self._machine.snapshots.take(work.name, work.wanted.generation, copy.how)

    def _put_back(self, action: actions.Restore, work: Work) -> None:
        copy, found = copy_due(work.seen), work.seen.status.rollout
        if copy is not None and found is not None:
            self._note(work, action)
            snapshots = {name: str(identifier) for name, identifier in copy.volumes.items()}
            self._machine.snapshots.put_back(work.name, found.generation, snapshots, found.replaced)

    def _record_copy(self, action: actions.RecordCopy, work: Work) -> None:
        job = work.seen.observed.copying
        if job is None:
            return
        taken = job.kind == "take"
        names = ", ".join(action.volumes)
        event = (
            work.event("snapshot-taken", f"took a snapshot of volume {names}")
            if taken
            else work.event("data-restored", f"put the snapshot of volume {names} back")
        )
        self._journal.revise(work.name, lambda status: action.recorded(status, work.seen), [event])
        point("update:copy-recorded")
        self._machine.snapshots.finished(work.name)

    def _note(self, work: Work, action: Action) -> None:
        """Record a step of a rollout before it begins, for its proof."""

        def noted(status: PodStatus) -> PodStatus:
            found = status.rollout
            return status if found is None else replace(status, rollout=with_step(found, action))

        self._journal.revise(work.name, noted)

    def _verdict(self, work: Work, found: Rollout, outcome: Outcome, reason: str) -> Verdict:
        revision = self._journal.revision(work.name, found.generation)
        before, after = (revision.before, revision.hash) if revision is not None else ("", "")
        done = proof(work.name, before, after, found.steps)
        return rollout.verdict_now(work.seen, outcome, reason, done)


def _stands(status: PodStatus) -> tuple[int, Outcome | None] | None:
    """Return where the rollout of a pod stands, for what is to be written only once."""
    found = status.rollout
    return None if found is None else (found.generation, found.outcome)


def _stays(work: Work, status: PodStatus, decided: Rollout) -> str:
    """Return in words why a failed generation stays."""
    hold = work.wanted.hold
    if decided.kind == "rollback":
        return "a person must look: it is the good revision, and there is nothing else to go back to"
    if decided.kind == "first" or status.good is None:
        return "there is nothing to go back to"
    if hold is not None and hold.kind == "suspended":
        return "it stays, since the pod is suspended"
    return "it stays, since it must not be rolled back"
